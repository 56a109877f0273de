"""Diagnose what exactly is damaged in one or more pruned models, compared with the original one.

    layercut diagnose bundled:smollm2-135m reverse:3 20-22 --out runs/diagnose
    layercut sweep bundled:smollm2-135m --diagnose --limit 16 --out runs/layers

The second command skips every layer alone, to find out what each is needed for. Every answer goes to a journal of the
run folder at once, so a killed run resumes where it stopped. Later commands in the same folder may add diagnostics, and
layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.diagnostics import DIAGNOSTICS, LAYER_FORMS, KnownDiagnostic, diagnostic, is_plan, known
from layercut.diagnostics.session import DiagnosticSession, Needs, SessionModel
from layercut.diagnostics.settings import DiagnoseSettings
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.diagnosis import arm_name
from layercut.models.loading import WeightlessModel
from layercut.progress import OnProgress, Say
from layercut.progress.bars import Progressing
from layercut.progress.cost import Workload
from layercut.runs.atomic import write_json
from layercut.runs.directory import DIAGNOSIS, LAYERS, RunFolder
from layercut.runs.dry_run import Outline
from layercut.runs.settings import FORMAT_VERSION, read_format
from layercut.sandbox.runner import describe_or_why_not
from layercut.selection.specs import plan_of
from layercut.selection.sweep import swept_layers
from layercut.settings import UNCUT, ModelSettings
from layercut.surgery.plan import CutPlan, parse_layers, removed_by
from layercut.tasks.run import slug
from layercut.text.counting import counted
from layercut.text.removal import format_layers

LIMIT = 16  # default items of each kind of question for ``plan_layers``: every layer is asked all of them
_STEPS = 1000
_FLAGS = {"limit": "limit", "num_samples": "samples"}


class Diagnosed(NamedTuple):
    """The results of a diagnosis and their file."""

    file: Path
    """diagnose.json or layers.json in the run folder."""
    data: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.file.parent

    @property
    def report(self) -> Path:
        """The Markdown page that ``layercut.write_reports`` makes of the file."""
        return self.file.with_suffix(".md")


@dataclass(frozen=True, kw_only=True)
class PlannedDiagnosis:
    """A diagnosis that can be run."""

    folder: Path
    arms: Sequence[SessionModel]  # the original model first
    names: Sequence[str]  # diagnostics, of ``forms``
    how: DiagnoseSettings
    settings: Mapping[str, Any]  # settings that decide the numbers in the folder, beside given arithmetic problems
    head: Mapping[str, Any]
    """The first entries of ``file``, in which results of an earlier command on the same models stay."""
    forms: Mapping[str, KnownDiagnostic] = field(default_factory=lambda: DIAGNOSTICS)
    file: str = DIAGNOSIS

    def outline(self) -> Outline:
        """What would be asked."""
        asked = [f"{name}: {self.forms[name].summary}" for name in self.names]
        asked.append(f"at most {counted(self.how.limit, 'item')} of each kind, of {counted(len(self.arms), 'model')}")
        return Outline(steps=(), disk_bytes=0, memory_bytes=0, folder=self.folder, more=tuple(asked))

    def run(self, console: Console, say: Say) -> Diagnosed:
        """Run the diagnostics one after the other in the folder, and write ``file`` after each."""
        isolation = None
        if "brackets" in self.names:  # the diagnostic that runs programs
            isolation = describe_or_why_not()
            say(f"isolation of generated programs: {isolation}")
        num_layers = self.arms[0].plan.num_layers
        with RunFolder.begin(self.folder, self.settings, flags=_FLAGS, sandbox=isolation) as run:
            data: dict[str, Any] = {
                "format_version": FORMAT_VERSION,
                **self.head,
                "arms": [
                    {"name": arm.name, "describe": _describe(arm, num_layers), "layers": list(arm.layers)}
                    for arm in self.arms
                ],
                "limit": self.how.limit,
                "seed": self.how.seed,
                "diagnostics": _earlier(run.path, self.file, self.arms),
            }
            _ask_all(run, self, data, console, say)
            if not run.is_finished:
                run.write_metrics([])
            return Diagnosed(run.path / self.file, data)


def plan_diagnosis(
    model: ModelSettings,
    cuts: Sequence[str] | Mapping[str, str],
    *,
    only: Sequence[str] = (),
    limit: int,
    num_samples: int,
    layers: str | None = None,
    out: Path | None,
    seed: int,
    say: Say,
) -> PlannedDiagnosis:
    """The diagnosis of pruned models; ``layercut diagnose``.

    Args:
        model: the original model.
        cuts: plans of its layers, or other models: checkpoints that were cut from it (and perhaps healed), or models
            that others made of it. Their layers are found in the plans that travel with them.
            By name, where they have names of their own.
        layers: layers of the original model that such another model has, such as ``0-15``, in place of its plans.
        only: names of diagnostics; all of them if empty.
        limit, num_samples, seed: see ``DiagnoseSettings``.
        out: the run folder; ``runs/<model>-diagnose`` if left out.

    Raises:
        InputError: a diagnostic, plan or checkpoint that cannot be used, or a run folder that holds another run.
    """
    names = known(only)
    how = DiagnoseSettings(limit=limit, num_samples=num_samples, seed=seed)
    if not cuts:
        raise InputError(
            "there is nothing to compare with the original model; give at least one cut, such as reverse:3."
        )
    uncut = ModelHandle(model)
    found = [_arm(uncut, cut, seed, layers, say) for cut in (cuts.values() if isinstance(cuts, Mapping) else cuts)]
    if isinstance(cuts, Mapping):
        found = [replace(arm, name=name) for arm, name in zip(found, cuts, strict=True)]
    arms = [_model(uncut, UNCUT, uncut.plan()), *found]
    _check_distinct(arms)
    names = [name for name in names if _can_be_asked(name, arms, asked_for=name in only, say=say)]
    for arm in arms:
        say(f"{arm.name}: {_describe(arm, uncut.num_layers)}")
    settings = {
        **uncut.describe(),
        "cuts": {arm.name: [arm.source, *arm.plan.gone.values()] for arm in arms[1:]},
        "limit": limit,
        "num_samples": num_samples,
        "seed": seed,
    }
    folder = out or Path("runs", slug(f"{model.model}-diagnose"))
    head = {"model": model.model}
    return PlannedDiagnosis(folder=folder, arms=arms, names=names, how=how, settings=settings, head=head)


def plan_layers(
    model: ModelSettings,
    *,
    layers: str | None = None,
    only: Sequence[str] = (),
    limit: int = LIMIT,
    out: Path | None,
    seed: int,
    say: Say,
) -> PlannedDiagnosis:
    """The diagnosis of the model without each layer; ``layercut sweep --diagnose``.

    Args:
        layers: which layers are skipped, as people write them; all of them if left out.
        only: names among ``LAYER_FORMS``; all of them if empty.
        limit, seed: see ``DiagnoseSettings``.
        out: the run folder; ``runs/<model>-layers`` if left out.

    Raises:
        InputError: a layer or diagnostic that is not known, or a run folder that holds another run.
    """
    names = known(only, LAYER_FORMS)
    handle = ModelHandle(model)
    wanted = swept_layers(layers, handle.num_layers, model.model)
    say(f"{model.model}: layers {format_layers(wanted)} of {handle.num_layers}, each skipped alone, and uncut")
    plans = {arm_name(layer): CutPlan(num_layers=handle.num_layers, removed=(layer,)) for layer in wanted}
    return PlannedDiagnosis(
        folder=out or Path("runs", slug(f"{model.model}-layers")),
        arms=[_model(handle, name, plan) for name, plan in {UNCUT: handle.plan(), **plans}.items()],
        names=names,
        how=DiagnoseSettings(limit=limit, num_samples=1, seed=seed),
        # The layers and diagnostics are no part of the settings: a second command may add some.
        settings={**handle.describe(), "limit": limit, "seed": seed, "per_layer": True},
        head={"model": model.model, "num_layers": handle.num_layers},
        forms=LAYER_FORMS,
        file=LAYERS,
    )


def _earlier(folder: Path, file: str, arms: Sequence[SessionModel]) -> dict[str, Any]:
    """Results of an earlier command on the same models. Those on others are made again, from the journals."""
    if not (folder / file).is_file():
        return {}
    held = read_format(folder / file, "diagnosis")
    same = {arm["name"] for arm in held["arms"]} == {arm.name for arm in arms}
    found: dict[str, Any] = held["diagnostics"] if same else {}
    return found


def _ask_all(run: RunFolder, planned: PlannedDiagnosis, data: dict[str, Any], console: Console, say: Say) -> None:
    names, forms = planned.names, planned.forms
    work = [(name, Workload(kind=name, num_items=_STEPS)) for name in names]
    progress = Progressing(work, console, verb="Diagnosing", unit=None)
    said: list[str] = []
    on_stage: Callable[[int, int, int], None] = lambda stage, done, total: None  # noqa: E731

    @cache
    def session_of(needs: Needs) -> DiagnosticSession:
        return DiagnosticSession(
            [arm for arm in planned.arms if needs in arm.shares],
            run.journal,
            **{name: getattr(planned.how, name) for name in DiagnoseSettings.model_fields},
            on_progress=lambda stage, done, total: on_stage(stage, done, total),
        )

    with progress.running():
        for index, name in enumerate(names):
            with progress.piece(index) as on_progress:
                on_progress(0, _STEPS)
                on_stage = _steps(forms[name].stages, on_progress)
                session = session_of(forms[name].needs)
                session.begin()
                found = diagnostic(name, forms)(session)
                rows = [row.to_dict() for row in found["rows"]]
                data["diagnostics"][name] = {**found, "rows": rows, "notes": [*found["notes"], *session.shortfalls]}
                said += session.shortfalls
                on_progress(_STEPS, _STEPS)
            data["diagnostics"] = {one: data["diagnostics"][one] for one in known(list(data["diagnostics"]))}
            write_json(run.path / planned.file, data)
    for line in dict.fromkeys(said):
        say(line)


def _steps(num_stages: int, on_progress: OnProgress) -> Callable[[int, int, int], None]:
    """Progress within one diagnostic; all its questions count the same, and progress never goes back."""
    furthest = 0

    def on_stage(stage: int, done: int, total: int) -> None:
        nonlocal furthest
        now = int(_STEPS * min(1.0, (stage + done / max(1, total)) / num_stages))
        furthest = max(furthest, min(now, _STEPS))
        on_progress(furthest, _STEPS)

    return on_stage


def _model(
    handle: ModelHandle, name: str, plan: CutPlan, source: str = "uncut", layers: tuple[int, ...] | None = None
) -> SessionModel:
    return SessionModel(
        name=name,
        source=source,
        plan=plan,
        layers=plan.kept if layers is None else layers,
        engine=lambda: handle.engine,
    )


def _arm(uncut: ModelHandle, cut: str, seed: int, layers: str | None, say: Say) -> SessionModel:
    """A plan on the original model, or another model."""
    path = Path(cut)
    if not is_plan(cut):
        handle = ModelHandle(uncut.settings.replace(model=cut, revision=None))
        name = slug(path.resolve().name if path.name != "checkpoint" else path.resolve().parent.name)
        known = _known_layers(uncut, handle, layers)
        arm = _model(handle, name, handle.plan(), f"checkpoint {handle.metadata.model_hash}", known)
        return replace(arm, shares=_shared(uncut, handle, say))
    if layers is not None:
        raise InputError(f"`layers` {layers} says which layers another model has; {cut} says it already.")
    file = path.resolve().parent.name if path.name == "plan.json" else path.stem
    name = slug(file if cut.endswith(".json") else cut.replace(":", "-").replace(" ", ""))
    return _model(uncut, name, plan_of(uncut, cut, seed))


def _known_layers(uncut: ModelHandle, other: ModelHandle, given: str | None) -> tuple[int, ...]:
    """Layers of the original model that another model has: as given, or by plans in its folder that begin with the
    original model; empty where neither says it.

    Raises:
        InputError: given layers that the original model lacks, not in order, or another number than the model has.
    """
    if given is not None:
        layers = parse_layers(given)
        if list(layers) != sorted(set(layers)) or layers[-1] >= uncut.num_layers:
            raise InputError(
                f"`layers` {given} must name layers of the original model (0-{uncut.num_layers - 1}) once each, in "
                "order."
            )
        if len(layers) != other.num_layers:
            raise InputError(
                f"`layers` {given} names {len(layers)} layers, and the other model has {other.num_layers}."
            )
        return layers
    plans = other.earlier_plans
    first = next(
        (i for i, plan in enumerate(plans) if plan.model_hash in (None, uncut.metadata.model_hash)), len(plans)
    )
    gone = removed_by([(plan.num_layers, plan.removed) for plan in plans[first:]], uncut.num_layers)
    if first == len(plans) or gone is None or uncut.num_layers - len(gone) != other.num_layers:
        return ()
    return tuple(layer for layer in range(uncut.num_layers) if layer not in gone)


def _shared(uncut: ModelHandle, other: ModelHandle, say: Say) -> frozenset[Needs]:
    """Needs that two models share: questions, and tokens where both have one tokenizer."""

    def read(reader: WeightlessModel) -> str:
        return sha256(json.dumps(reader.tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()

    if uncut.read("vocabularies", None, read) != other.read("vocabularies", None, read):
        say(f"{other.settings.model} has another tokenizer: only what both models write and rank as text is compared.")
        return frozenset({"text"})
    return frozenset({"text", "tokens"})


def _can_be_asked(name: str, arms: Sequence[SessionModel], *, asked_for: bool, say: Say) -> bool:
    needs = DIAGNOSTICS[name].needs
    without = [arm.name for arm in arms if needs not in arm.shares]
    if not without:
        return True
    text = f"{name} needs the tokens of the original model, and those of {', '.join(without)} are others"
    if len(without) < len(arms) - 1:
        say(f"{text}; it is asked of the other models.")
        return True
    if asked_for:
        raise InputError(f"{text}; leave {name} or {without[0]} out.")
    say(f"left out: {text}.")
    return False


def _check_distinct(arms: Sequence[SessionModel]) -> None:
    seen: dict[tuple[str, str], str] = {}
    for arm in arms:
        key = (arm.source, arm.plan.key)
        if key in seen:
            raise InputError(f"{seen[key]} and {arm.name} are the same model; give each cut once.")
        seen[key] = arm.name


def _describe(arm: SessionModel, num_layers: int) -> str:
    if arm.source == "uncut":
        return arm.plan.describe()
    if not arm.layers:
        return "another model, without a plan of the original model; `layers` 0-15 says which of its layers it has"
    gone = sorted(set(range(num_layers)) - set(arm.layers))
    return f"a checkpoint without {len(gone)} of {num_layers} decoder layers ({format_layers(gone) or 'none'})"
