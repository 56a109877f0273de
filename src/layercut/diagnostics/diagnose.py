"""Diagnose what exactly is damaged in one or more pruned models, compared with the original one.

    layercut diagnose bundled:smollm2-135m reverse:3 20-22 --out runs/diagnose

Every answer goes to a journal of the run folder at once, so a killed run resumes where it stopped. Later commands in
the same folder may add diagnostics.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.diagnostics import DIAGNOSTICS, KnownDiagnostic, diagnostic, known
from layercut.diagnostics.arithmetic_files import arithmetic_files
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.progress import estimate as eta
from layercut.progress.bars import Progressing
from layercut.report.diagnosis.verdict import FILE, FORMAT_VERSION, load
from layercut.report.reports import write_reports
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.sandbox.runner import describe_or_why_not
from layercut.seed import check_seed
from layercut.selection.specs import plan_of
from layercut.settings import UNCUT, ModelSettings
from layercut.surgery.plan import CutPlan, format_layers
from layercut.tasks.run import slug
from layercut.text.counting import counted

_STEPS = 1000
"""Steps of a diagnostic on the progress bar."""
_PLAN = re.compile(r"^[\d,\- ]+$|^[A-Za-z_][\w.]*:\d+$")
_FLAGS = {"limit": "--limit", "num_samples": "--samples"}


class Diagnosed(NamedTuple):
    """Where the results are, and what diagnose.json holds."""

    report: Path
    data: dict[str, Any]


def diagnose_model(
    model: ModelSettings,
    cuts: Sequence[str],
    *,
    only: Sequence[str] = (),
    limit: int,
    num_samples: int,
    arithmetic_data: Path | None = None,
    out: Path | None,
    seed: int,
    dry_run: bool,
    console: Console,
    say: Callable[[str], None],
) -> Diagnosed | None:
    """Diagnose pruned models; ``layercut diagnose``. A dry run says what would be done and gives None back.

    Args:
        model: the original model.
        cuts: plans of its layers, or folders of checkpoints that were cut from it (and perhaps healed).
        only: names of diagnostics; all of them if empty.
        limit: items of each kind of question.
        num_samples: answers drawn for each item where answers are drawn.
        arithmetic_data: the arithmetic files of GPT-3, or one of them, in place of generated expressions.
        out: the run folder; ``runs/<model>-diagnose`` if left out.
        seed: random seed.
        dry_run: only say what would be done.
        console: where the progress bar goes.
        say: called with each line for people.

    Raises:
        InputError: a diagnostic, plan or checkpoint that cannot be used, or a run folder that holds another run.
    """
    names = known(only)
    check_seed(seed)
    if not cuts:
        raise InputError(
            "there is nothing to compare with the original model; give at least one cut, such as reverse:3."
        )
    uncut = ModelHandle(model)
    arms = [uncut_arm(uncut), *(_arm(uncut, cut, seed) for cut in cuts)]
    _check_distinct(arms)
    folder = out or Path("runs", slug(f"{model.model}-diagnose"))
    descriptions = [_describe(arm, uncut.num_layers) for arm in arms]
    for arm, text in zip(arms, descriptions, strict=True):
        say(f"{arm.name}: {text}")
    if dry_run:
        for name in names:
            say(f"{name}: {DIAGNOSTICS[name].summary}")
        say(f"would ask at most {counted(limit, 'item')} of each kind and write to {folder}")
        return None
    settings = {
        **uncut.describe(),
        "cuts": {arm.name: [arm.source, list(arm.plan.removed)] for arm in arms[1:]},
        "limit": limit,
        "num_samples": num_samples,
        "seed": seed,
        **arithmetic_settings(arithmetic_data),
    }
    isolation = announce_isolation(names, say)
    with RunFolder.begin(folder, settings, flags=_FLAGS, sandbox=isolation) as run:
        data = {
            "format_version": FORMAT_VERSION,
            "model": model.model,
            "arms": [
                {"name": arm.name, "describe": text, "layers": list(arm.layers)}
                for arm, text in zip(arms, descriptions, strict=True)
            ],
            "limit": limit,
            "seed": seed,
            "diagnostics": load(run.path)["diagnostics"] if (run.path / FILE).is_file() else {},
        }
        run_diagnostics(
            run,
            arms,
            names,
            data,
            limit=limit,
            num_samples=num_samples,
            arithmetic_data=arithmetic_data,
            seed=seed,
            console=console,
            say=say,
        )
        report = write_reports(run.path)["report"]
        if not run.is_finished:
            run.write_metrics([])
        return Diagnosed(report, data)


def run_diagnostics(
    run: RunFolder,
    arms: Sequence[SessionModel],
    names: Sequence[str],
    data: dict[str, Any],
    *,
    limit: int,
    num_samples: int,
    seed: int,
    console: Console,
    arithmetic_data: Path | None = None,
    say: Callable[[str], None],
    forms: Mapping[str, KnownDiagnostic] = DIAGNOSTICS,
    file: str = FILE,
) -> None:
    """Run diagnostics one after the other, and write ``file`` after each.

    Args:
        run: the folder, begun.
        arms: the original model first.
        names: which diagnostics.
        data: what the file holds; findings are put under ``diagnostics``.
        limit: items of each kind of question.
        num_samples: answers drawn for each item where answers are drawn.
        seed: random seed.
        console: where the progress bar goes.
        arithmetic_data: files of arithmetic problems in place of generated ones.
        say: called with each task that has fewer items than ``limit``.
        forms: which list the names are of.
        file: in the folder.
    """
    work = [(name, eta.Workload(kind=name, num_items=_STEPS, weight=forms[name].weight)) for name in names]
    progress = Progressing(work, console, verb="Diagnosing", unit=None)
    said: list[str] = []
    on_stage: Callable[[int, int, int], None] = lambda stage, done, total: None  # noqa: E731
    session = DiagnosticSession(
        arms,
        run.journal,
        limit=limit,
        seed=seed,
        num_samples=num_samples,
        arithmetic_data=arithmetic_data,
        on_progress=lambda stage, done, total: on_stage(stage, done, total),
    )
    with progress.running():
        for index, name in enumerate(names):
            with progress.piece(index) as on_progress:
                on_progress(0, _STEPS)
                on_stage = _steps(forms[name].stages, on_progress)
                session.begin()
                found = diagnostic(name, forms)(session)
                data["diagnostics"][name] = {**found, "notes": [*found["notes"], *session.shortfalls]}
                said += session.shortfalls
                on_progress(_STEPS, _STEPS)
            data["diagnostics"] = {one: data["diagnostics"][one] for one in known(list(data["diagnostics"]))}
            write_json(run.path / file, data)
    for line in dict.fromkeys(said):
        say(line)


def arithmetic_settings(path: Path | None) -> dict[str, Any]:
    """What given arithmetic problems add to a folder's settings: they count by their content, not by their place.

    Raises:
        InputError: files that hold no such problems.
    """
    return {} if path is None else {"arithmetic_data": dict(arithmetic_files(path).made_with)}


def announce_isolation(names: Sequence[str], say: Callable[[str], None]) -> str | None:
    """The isolation of generated programs, printed for users, or why none are run; None where no diagnostic has any."""
    if "brackets" not in names:
        return None
    isolation = describe_or_why_not()
    say(f"isolation of generated programs: {isolation}")
    return isolation


def _steps(num_stages: int, on_progress: Callable[[int, int], None]) -> Callable[[int, int, int], None]:
    """Progress within one diagnostic, all its questions taken for equally long; it never goes back."""
    furthest = 0

    def on_stage(stage: int, done: int, total: int) -> None:
        nonlocal furthest
        now = int(_STEPS * min(1.0, (stage + done / max(1, total)) / num_stages))
        furthest = max(furthest, min(now, _STEPS))
        on_progress(furthest, _STEPS)

    return on_stage


def uncut_arm(handle: ModelHandle) -> SessionModel:
    """The model itself."""
    return SessionModel(
        name=UNCUT,
        source="uncut",
        plan=handle.plan(),
        layers=tuple(range(handle.num_layers)),
        engine=lambda: handle.engine,
        model=lambda: handle.loaded,
        num_parameters=handle.num_parameters(handle.plan()),
    )


def _arm(uncut: ModelHandle, cut: str, seed: int) -> SessionModel:
    """A plan on the original model, or a folder with a checkpoint."""
    path = Path(cut)
    if path.is_dir() and not _PLAN.match(cut):
        handle = ModelHandle(replace(uncut.settings, model=cut, revision=None))
        plan = handle.plan()
        name = slug(path.resolve().name if path.name != "checkpoint" else path.resolve().parent.name)
        source, layers = f"checkpoint {handle.metadata.model_hash}", kept_layers(handle, uncut.num_layers)
    else:
        handle, plan = uncut, plan_of(uncut, cut, seed)
        name = slug(_plan_name(path) if cut.endswith(".json") else cut.replace(":", "-").replace(" ", ""))
        source, layers = "uncut", plan.kept
    return SessionModel(
        name=name,
        source=source,
        plan=plan,
        layers=layers,
        engine=lambda: handle.engine,
        model=lambda: handle.loaded,
        num_parameters=handle.num_parameters(plan),
    )


def kept_layers(handle: ModelHandle, num_layers: int) -> tuple[int, ...]:
    """Which layers of the original model a checkpoint still has, by the plans that travel in it.

    Raises:
        InputError: the plans are missing or do not lead from the original model's number of layers to the checkpoint's.
    """
    layers = tuple(range(num_layers))
    for plan in handle.earlier_plans:
        if plan.num_layers != len(layers):
            break
        layers = tuple(layers[index] for index in plan.kept)
    if len(layers) != handle.num_layers:
        raise InputError(
            f"{handle.settings.model} has {handle.num_layers} decoder layers and does not record which of the "
            f"original model's {num_layers} they are; give a checkpoint of layercut cut, with its plan.json, or a plan."
        )
    return layers


def _plan_name(path: Path) -> str:
    return path.resolve().parent.name if path.name == "plan.json" else path.stem


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
    gone = sorted(set(range(num_layers)) - set(arm.layers))
    plan = CutPlan(num_layers=num_layers, removed=tuple(gone))
    return f"a checkpoint without {len(gone)} of {num_layers} decoder layers ({format_layers(plan.removed) or 'none'})"
