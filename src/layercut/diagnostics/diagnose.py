"""Diagnose what exactly is damaged in one or more pruned models, compared with the original one.

    layercut diagnose bundled:smollm2-135m reverse:3 20-22 --out runs/diagnose
    layercut sweep bundled:smollm2-135m --diagnose --limit 16 --out runs/layers

The second command skips every layer alone, to find out what each is needed for. Every answer goes to a journal of the
run folder at once, so a killed run resumes where it stopped. Later commands in the same folder may add diagnostics, and
layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import dropwhile
from pathlib import Path
from typing import Any, NamedTuple, get_args

from rich.console import Console

from layercut.diagnostics import (
    DIAGNOSTICS,
    LAYER_FORMS,
    DiagnoseSettings,
    KnownDiagnostic,
    chosen_diagnostics,
    is_plan,
    load_diagnostic,
)
from layercut.diagnostics.session import STEPS, DiagnosticSession, Needs, SessionModel
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.diagnosis import arm_name
from layercut.models.loading import WeightlessModel
from layercut.progress import Say
from layercut.progress.bars import RunProgress
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
from layercut.tasks.cells import folder_name
from layercut.text import count_of, format_layers

LIMIT = 16  # default items of each kind of question for ``plan_layers``: every layer is asked all of them
_ORIGINAL = "uncut"  # source of the models whose weights are the original ones
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
    models: Sequence[SessionModel]  # the original model first
    names: Sequence[str]  # diagnostics, of ``forms``
    how: DiagnoseSettings
    settings: Mapping[str, Any]  # settings that decide the numbers in the folder
    head: Mapping[str, Any]
    """The first entries of ``file``, in which results of an earlier command on the same models stay."""
    forms: Mapping[str, KnownDiagnostic] = field(default_factory=lambda: DIAGNOSTICS)
    file: str = DIAGNOSIS

    def outline(self) -> Outline:
        """What would be asked."""
        lines = [f"{name}: {self.forms[name].summary}" for name in self.names]
        items = count_of(self.how.limit, "item")
        lines.append(f"at most {items} of each kind, of {count_of(len(self.models), 'model')}")
        return Outline(steps=(), disk_bytes=0, memory_bytes=0, folder=self.folder, more=tuple(lines))

    def run(self, console: Console, say: Say) -> Diagnosed:
        """Run the diagnostics one after the other in the folder, and write ``file`` after each."""
        isolation = None
        if "brackets" in self.names:  # the diagnostic that runs programs
            isolation = describe_or_why_not()
            say(f"isolation of generated programs: {isolation}")
        with RunFolder.begin(self.folder, self.settings, flags=_FLAGS, sandbox=isolation) as run:
            num_layers = self.models[0].plan.num_layers
            data: dict[str, Any] = {
                "format_version": FORMAT_VERSION,
                **self.head,
                "arms": [
                    {"name": model.name, "describe": _describe(model, num_layers), "layers": list(model.layers)}
                    for model in self.models
                ],
                "limit": self.how.limit,
                "seed": self.how.seed,
                "diagnostics": self._earlier_results(run.path),
            }
            said = self._ask_all(run, data, console)
            for line in dict.fromkeys(said):
                say(line)
            if not run.is_finished:
                run.write_metrics([])
            return Diagnosed(run.path / self.file, data)

    def _earlier_results(self, folder: Path) -> dict[str, Any]:
        """Results of an earlier command on the same models. Those on others are made again, from the journals."""
        if not (folder / self.file).is_file():
            return {}
        held = read_format(folder / self.file, "diagnosis")
        same_models = {model["name"] for model in held["arms"]} == {model.name for model in self.models}
        return dict(held["diagnostics"]) if same_models else {}

    def _ask_all(self, run: RunFolder, data: dict[str, Any], console: Console) -> list[str]:
        """Fill ``data``; the shortfalls of items, in words."""
        sessions = {
            needs: DiagnosticSession(
                [model for model in self.models if needs in model.shares], run.journal, **self.how.model_dump()
            )
            for needs in get_args(Needs)
        }
        work = [(f"Diagnosing {name}", Workload(kind=name, num_items=STEPS)) for name in self.names]
        progress = RunProgress(console, work, unit=None)
        said: list[str] = []
        with progress.running():
            for index, name in enumerate(self.names):
                session = sessions[self.forms[name].needs]
                with progress.piece(index) as on_progress:
                    on_progress(0, STEPS)
                    session.begin(self.forms[name].stages, on_progress)
                    result = load_diagnostic(name, self.forms)(session)
                    on_progress(STEPS, STEPS)
                said += session.shortfalls
                rows, notes = [row.to_dict() for row in result["rows"]], [*result["notes"], *session.shortfalls]
                results = {**data["diagnostics"], name: {**result, "rows": rows, "notes": notes}}
                data["diagnostics"] = {
                    known_name: results[known_name] for known_name in chosen_diagnostics(list(results))
                }
                write_json(run.path / self.file, data)
        return said


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
            that others made of it. By name, where they have names of their own.
        layers: layers of the original model that such another model has, such as ``0-15``, in place of the plans that
            travel with it.
        only: names of diagnostics; all of them if empty.
        limit, num_samples, seed: see ``DiagnoseSettings``.
        out: the run folder; ``runs/<model>-diagnose`` if left out.

    Raises:
        InputError: a diagnostic, plan or checkpoint that cannot be used, or a run folder that holds another run.
    """
    names = chosen_diagnostics(only)
    if not cuts:
        raise InputError(
            "there is nothing to compare with the original model; give at least one cut, such as reverse:3."
        )
    uncut = ModelHandle(model)
    named = cuts.items() if isinstance(cuts, Mapping) else [(None, cut) for cut in cuts]
    models = [
        _plan_model(uncut, UNCUT, uncut.plan()),
        *(_pruned_model(uncut, name, cut, seed, layers, say) for name, cut in named),
    ]
    seen: dict[tuple[str, str], str] = {}
    for each in models:
        key = (each.source, each.plan.key)
        if key in seen:
            raise InputError(f"{seen[key]} and {each.name} are the same model; give each cut once.")
        seen[key] = each.name
    names = [name for name in names if _can_be_asked(name, models, is_wanted=name in only, say=say)]
    for each in models:
        say(f"{each.name}: {_describe(each, uncut.num_layers)}")
    return PlannedDiagnosis(
        folder=out or Path("runs", folder_name(f"{model.model}-diagnose")),
        models=models,
        names=names,
        how=DiagnoseSettings(limit=limit, num_samples=num_samples, seed=seed),
        settings={
            **uncut.describe(),
            "cuts": {each.name: [each.source, *each.plan.gone.values()] for each in models[1:]},
            "limit": limit,
            "num_samples": num_samples,
            "seed": seed,
        },
        head={"model": model.model},
    )


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
    names = chosen_diagnostics(only, LAYER_FORMS)
    handle = ModelHandle(model)
    skipped = swept_layers(layers, handle.num_layers, model.model)
    say(f"{model.model}: layers {format_layers(skipped)} of {handle.num_layers}, each skipped alone, and uncut")
    plans = {arm_name(layer): CutPlan(num_layers=handle.num_layers, removed=(layer,)) for layer in skipped}
    return PlannedDiagnosis(
        folder=out or Path("runs", folder_name(f"{model.model}-layers")),
        models=[_plan_model(handle, name, plan) for name, plan in {UNCUT: handle.plan(), **plans}.items()],
        names=names,
        how=DiagnoseSettings(limit=limit, num_samples=1, seed=seed),
        # The layers and diagnostics are no part of the settings: a second command may add some.
        settings={**handle.describe(), "limit": limit, "seed": seed, "per_layer": True},
        head={"model": model.model, "num_layers": handle.num_layers},
        forms=LAYER_FORMS,
        file=LAYERS,
    )


def _plan_model(handle: ModelHandle, name: str, plan: CutPlan) -> SessionModel:
    return SessionModel(name=name, source=_ORIGINAL, plan=plan, layers=plan.kept, engine=lambda: handle.engine)


def _pruned_model(
    uncut: ModelHandle, name: str | None, cut: str, seed: int, layers: str | None, say: Say
) -> SessionModel:
    """A plan on the original model, or another model."""
    path = Path(cut)
    if is_plan(cut):
        if layers is not None:
            raise InputError(f"`layers` {layers} says which layers another model has; {cut} says it already.")
        file = path.resolve().parent.name if path.name == "plan.json" else path.stem
        words = file if cut.endswith(".json") else cut.replace(":", "-").replace(" ", "")
        return _plan_model(uncut, name or folder_name(words), plan_of(uncut, cut, seed))
    other = ModelHandle(uncut.settings.replace(model=cut, revision=None))
    return SessionModel(
        name=name or folder_name(path.resolve().parent.name if path.name == "checkpoint" else path.resolve().name),
        source=f"checkpoint {other.metadata.model_hash}",
        plan=other.plan(),
        layers=_known_layers(uncut, other, layers),
        engine=lambda: other.engine,
        shares=_shared(uncut, other, say),
    )


def _known_layers(uncut: ModelHandle, other: ModelHandle, named: str | None) -> tuple[int, ...]:
    """Layers of the original model that another model has: as given, or by plans in its folder that begin with the
    original model; empty where neither says it.

    Raises:
        InputError: given layers that the original model lacks, not in order, or another number than the model has.
    """
    if named is not None:
        layers = parse_layers(named)
        if list(layers) != sorted(set(layers)) or layers[-1] >= uncut.num_layers:
            raise InputError(
                f"`layers` {named} must name layers of the original model (0-{uncut.num_layers - 1}) once each, in "
                "order."
            )
        if len(layers) != other.num_layers:
            raise InputError(
                f"`layers` {named} names {len(layers)} layers, and the other model has {other.num_layers}."
            )
        return layers
    hashes = (None, uncut.metadata.model_hash)
    plans = list(dropwhile(lambda plan: plan.model_hash not in hashes, other.earlier_plans))
    removed = removed_by([(plan.num_layers, plan.removed) for plan in plans], uncut.num_layers)
    if not plans or removed is None or uncut.num_layers - len(removed) != other.num_layers:
        return ()
    return tuple(layer for layer in range(uncut.num_layers) if layer not in removed)


def _shared(uncut: ModelHandle, other: ModelHandle, say: Say) -> frozenset[Needs]:
    """Needs that two models share: questions, and tokens where both have one tokenizer."""

    def read(reader: WeightlessModel) -> str:
        return sha256(json.dumps(reader.tokenizer.get_vocab(), sort_keys=True).encode()).hexdigest()

    if uncut.read("vocabularies", None, read) == other.read("vocabularies", None, read):
        return frozenset(get_args(Needs))
    say(f"{other.settings.model} has another tokenizer: only what both models write and rank as text is compared.")
    return frozenset({"text"})


def _can_be_asked(name: str, models: Sequence[SessionModel], *, is_wanted: bool, say: Say) -> bool:
    """True if any pruned model has what a diagnostic needs. InputError where it was named and none has."""
    without = [model.name for model in models if DIAGNOSTICS[name].needs not in model.shares]
    text = f"{name} needs the tokens of the original model, and those of {', '.join(without)} are others"
    is_possible = len(without) < len(models) - 1
    if without and is_possible:
        say(f"{text}; it is asked of the other models.")
    elif without and is_wanted:
        raise InputError(f"{text}; leave {name} or {without[0]} out.")
    elif without:
        say(f"left out: {text}.")
    return is_possible


def _describe(model: SessionModel, num_layers: int) -> str:
    if model.source == _ORIGINAL:
        return model.plan.describe()
    if not model.layers:
        return "another model, without a plan of the original model; `layers` 0-15 says which of its layers it has"
    removed = sorted(set(range(num_layers)) - set(model.layers))
    return f"a checkpoint without {len(removed)} of {num_layers} decoder layers ({format_layers(removed) or 'none'})"
