"""Running a study: one model, uncut and under each plan, on every task and readout.

    layercut run examples/quickstart.yaml

The study's folder holds one run folder for the uncut model and one for each plan, each with its checkpoint. What is
finished is never done again, and a study that is finished does not load the model at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.report.compare import ComparisonRow, compare_runs
from layercut.report.study import study_report, study_runs
from layercut.runs.directory import RunFolder
from layercut.study.cells import make_cells, run_cells, run_settings, tell_walls
from layercut.study.cut import cut_model
from layercut.study.handle import ModelHandle
from layercut.study.progress import Progressing
from layercut.study.settings import UNCUT, StudySettings
from layercut.surgery.plan import CutPlan


class StudyOutcome(NamedTuple):
    """What a study found, and where it lies."""

    rows: list[ComparisonRow]
    paths: dict[str, Path]
    """The report and the checkpoints, by name."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "rows": [row.to_dict() for row in self.rows],
            "paths": {name: str(path) for name, path in self.paths.items()},
        }


def run_study(
    settings: StudySettings,
    *,
    out: Path | None = None,
    seed: int | None = None,
    limit: int | None = None,
    dry_run: bool = False,
    settings_file: str | None = None,
    console: Console,
    say: Callable[[str], None],
) -> StudyOutcome | None:
    """Run a study, or go on with it; ``layercut run``. A dry run says what would be done and gives None back.

    Args:
        settings: the study.
        out: run folder in place of the study's own.
        seed: in place of the study's own.
        limit: lowers every task's number of items.
        dry_run: only say what would be done.
        settings_file: where the settings were read from, to be named when they do not fit the folder.
        console: where the progress bar goes.
        say: called with each line for people.

    Raises:
        InputError: anything in the study that cannot be used, or a run folder that holds another study.
        VerificationError: a written checkpoint is not the model that was measured.
    """
    folder = out or settings.out
    settings = replace(settings, out=folder, seed=settings.seed if seed is None else seed)
    model = ModelHandle(settings.model)
    plans = {UNCUT: model.plan(None, settings.seed)}
    plans |= {name: model.plan(spec, settings.seed) for name, spec in settings.plans.items()}
    for name, plan in plans.items():
        say(f"{name}: {plan.describe()}")
    cells = make_cells(settings.tasks, settings.seed, limit)
    walls = tell_walls((cell.task for cell in cells), say)
    decoding = Decoding(**asdict(settings.decoding), seed=settings.seed)
    work = [(f"{name}: {cell.label}", cell.work()) for name in plans for cell in cells]
    if dry_run:
        _say_plan(work, plans, folder, settings.checkpoints, say)
        return None
    progress = Progressing(work, console)
    with ExitStack() as held:
        whole = {
            "plans": {name: list(plan.removed) for name, plan in plans.items() if not plan.is_uncut},
            "checkpoints": settings.checkpoints,
            **run_settings(model, plans[UNCUT], cells, decoding, settings.seed),
        }
        held.enter_context(RunFolder.begin(folder, whole, settings_file=settings_file, sandbox=walls))
        runs = {
            name: held.enter_context(
                RunFolder.begin(
                    folder / name,
                    run_settings(model, plan, cells, decoding, settings.seed),
                    settings_file=settings_file,
                    sandbox=walls,
                )
            )
            for name, plan in plans.items()
        }
        checkpoints = _write_checkpoints(model, plans, folder, settings.checkpoints, say)
        with progress.running():
            for number, (name, plan) in enumerate(plans.items()):
                run_cells(runs[name], model, plan, cells, decoding, progress, first=number * len(cells))
        report = study_report(folder, seed=settings.seed)
        rows = compare_runs(*study_runs(folder), seed=settings.seed)
        return StudyOutcome(rows, {"report": report, **checkpoints})


def _write_checkpoints(
    model: ModelHandle, plans: dict[str, CutPlan], folder: Path, wanted: bool, say: Callable[[str], None]
) -> dict[str, Path]:
    written = {}
    for name, plan in plans.items():
        target = folder / name / "checkpoint"
        if not wanted or plan.is_uncut:
            continue
        if not target.exists():
            done = cut_model(model, plan, target, say=lambda text, name=name: say(f"{name}: {text}"))  # type: ignore[misc]
            say(f"{name}: {done.verified}")
        written[f"checkpoint of {name}"] = target
    return written


def _say_plan(
    work: Sequence[tuple[str, Any]],
    plans: dict[str, CutPlan],
    folder: Path,
    checkpoints: bool,
    say: Callable[[str], None],
) -> None:
    for name, piece in work:
        say(f"{name}: {piece.num_items} items")
    if checkpoints:
        say(f"would write {len(plans) - 1} checkpoint(s) and the results to {folder}")
    else:
        say(f"would write the results to {folder}")
