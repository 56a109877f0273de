"""Choose layers by a criterion, in a run folder that keeps all measurements."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, cast

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import unknown
from layercut.progress import Progress
from layercut.runs.directory import RunFolder
from layercut.selection import criterion as criterion_of
from layercut.selection import criterion_row
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import RACE_ERROR, Context, Normalise, Racing, Selection, no_objective
from layercut.selection.calibration import Calibration, load_calibration
from layercut.selection.held_out import held_out
from layercut.selection.objective import TaskObjective, search_settings
from layercut.selection.protect import parse_protected
from layercut.selection.search_journal import SearchJournal
from layercut.selection.specs import plan_of, prefix_that_keeps
from layercut.settings import CalibrationSettings, DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import known_readouts
from layercut.tasks.cells import announce_isolation
from layercut.tasks.selected_items import HELD_OUT, selection_items
from layercut.tasks.shortfall import tell_shortfalls
from layercut.text.counting import counted

PLAN_FILE = "plan.json"

FLAGS = {"limit": "limit", "readout": "readouts", "task": "objective", "source": "calibration"}
"""Which argument of ``layercut select`` stands for a setting of another name."""


class Selected(NamedTuple):
    """The plan, where it was written, and the ranking behind it."""

    plan: CutPlan
    path: Path
    selection: Selection


def select_layers(
    model: ModelSettings | ModelHandle,
    *,
    criterion: str,
    num_remove: int,
    out: Path,
    tasks: Sequence[TaskSettings] = (),
    calibration: CalibrationSettings | None = None,
    protect: str | None = None,
    settings: Mapping[str, Any] | None = None,
    normalise: str = "raw",
    race: str = "exact",
    race_error: float = RACE_ERROR,
    decoding: DecodingSettings | None = None,
    num_held_out: int | None = None,
    keep: float | None = None,
    seed: int = 0,
    progress: Progress,
    say: Callable[[str], None],
) -> Selected:
    """Choose layers and write ``plan.json``; ``layercut select``.

    The folder's settings are the model, the objective, the calibration text and the decoding: what decides a measured
    value. The criterion, its settings and the number of layers may change from one command to the next, and what was
    measured before is used again. Each plan is also kept as ``plans/<criterion>-<N>.json``.

    A plan that was chosen on task items is then scored on ``num_held_out`` other selection items of each task (as many
    as it was chosen on if None, none for 0), under ``held_out`` in its scores; see ``layercut.selection.held_out``.

    With ``keep``, a greedy search goes to ``num_remove`` layers, and the plan is its deepest part that keeps this share
    of the original model's value; see ``layercut.selection.specs.prefix_that_keeps``.

    Raises:
        InputError: an unknown criterion, task or setting, or material that the criterion needs and did not get.
    """
    row, choose = criterion_row(criterion), criterion_of(criterion)
    handle = model if isinstance(model, ModelHandle) else ModelHandle(model)
    draw = Decoding(**(decoding or DecodingSettings()).as_dict(), seed=seed)
    parts = [part for wanted in tasks for part in objective_parts(wanted, seed)]
    calibration = calibration or CalibrationSettings()
    identity = folder_settings(handle.describe(), parts, draw, calibration)
    start = str((settings or {}).get("start", ""))
    if start.endswith(".json") and (plan := plan_of(handle, start, seed)).chosen_on:
        say(f"start: {plan.describe()}")
    if row.needs_objective and not parts:
        raise no_objective(criterion)
    with ExitStack() as held:
        isolation = announce_isolation((part.task for part in parts), say)
        tell_shortfalls(parts, "selection", say)
        folder = held.enter_context(RunFolder.begin(out, identity, flags=FLAGS, sandbox=isolation))
        engine = handle.engine if row.needs_model else None
        journal = held.enter_context(SearchJournal(folder))
        objective = None
        if parts and engine is not None:
            objective = TaskObjective(
                engine,
                parts,
                decoding=draw,
                normalise=cast("Normalise", normalise),
                race=cast("Racing", race),
                race_error=race_error,
                journal=journal,
                progress=progress,
            )
        on_text = row.needs_text or (row.needs_model and calibration != CalibrationSettings())
        context = Context(
            num_layers=handle.num_layers,
            num_remove=num_remove,
            seed=seed,
            protect=parse_protected(protect, handle.num_layers) if protect else None,
            loaded=handle.loaded if row.needs_model and not ENGINES[handle.settings.engine].reads_weights else None,
            engine=engine,
            calibration=_calibration(calibration, handle, folder, seed, progress, say) if on_text else None,
            objective=objective,
            folder=folder,
            settings=dict(settings or {}),
            progress=progress,
        )
        started = perf_counter()
        selection = choose(context)
        if on_text:
            say(f"{criterion}: layers ranked ({perf_counter() - started:.0f} s)")
        if keep is not None:
            searched = CutPlan(
                num_layers=handle.num_layers, removed=selection.removed, criterion=criterion, scores=selection.details
            )
            short = prefix_that_keeps(searched, keep)
            selection = selection._replace(removed=short.removed, details=short.scores)
            context = replace(context, num_remove=len(short.removed))
        seen = selection_items(selection.details)
        if objective is not None and seen and num_held_out != 0:
            chosen = CutPlan(num_layers=handle.num_layers, removed=selection.removed)
            found = held_out(objective, chosen, num_items=num_held_out, seen=seen, seed=seed, progress=progress)
            selection = selection._replace(details={**selection.details, HELD_OUT: found})
            for line in _missing_held_out(parts, found["rows"], num_held_out):
                say(line)
        elif num_held_out:
            say(f"`held_out` {num_held_out} has no effect: {criterion} did not choose by the items of a task.")
        plan = replace(
            handle.plan(),
            removed=selection.removed,
            criterion=criterion,
            settings=_plan_settings(context, objective),
            scores={"importance": {str(k): v for k, v in selection.importance.items()}, **selection.details},
        )
        name = re.sub(r"[^\w.-]+", "-", criterion)
        plan.save(folder.path / "plans" / f"{name}-{len(plan.removed)}.json")
        plan.save(folder.path / PLAN_FILE)
        folder.write_metrics([], plan=plan.to_dict(), num_parameters=handle.num_parameters(plan))
        return Selected(plan, folder.path / PLAN_FILE, selection)


def _missing_held_out(
    parts: Sequence[ObjectiveTask], rows: Sequence[Mapping[str, Any]], num_held_out: int | None
) -> list[str]:
    """Lines for tasks with fewer held-out items than were asked for."""
    lines = []
    for part, row in zip(parts, rows, strict=True):
        wanted = part.limit if num_held_out is None else num_held_out
        there = 0 if row["held_out"] is None else row["held_out"]["n"]
        if wanted is not None and there < wanted:
            lines.append(
                f"{part.label}: the plan is scored again on {there} of {wanted} held-out items; the task has no more "
                "selection items that the search did not see"
            )
    return lines


def folder_settings(
    model: Mapping[str, Any],
    parts: Sequence[ObjectiveTask],
    decoding: Decoding,
    calibration: CalibrationSettings | None = None,
) -> dict[str, Any]:
    """Settings that decide the values in a folder of ``select`` or ``sweep``; where they agree, both can share one.

    Args:
        model: as a ``ModelHandle`` describes it.
        decoding: how answers are drawn; its seed is that of the command.
        calibration: text to measure on; the default one goes without saying.
    """
    text = None if calibration in (None, CalibrationSettings()) else calibration.as_dict()
    return {**model, **search_settings(parts, decoding), "calibration": text, "seed": decoding.seed}


def objective_parts(wanted: TaskSettings, seed: int) -> list[ObjectiveTask]:
    """The parts of an objective that one task gives: a part for each readout.

    Raises:
        InputError: an unknown task or readout.
    """
    task = load_task(wanted.task, data=wanted.data, seed=seed, max_new_tokens=wanted.max_new_tokens)
    # One readout a task unless others are asked for: the paper's objective counts each task once.
    readouts = wanted.readouts or (task.readouts[0],)
    for readout in readouts:
        if readout not in known_readouts(task):
            raise unknown(f"readout of {task.name}", readout, known_readouts(task))
    return [ObjectiveTask(task=task, readout=name, limit=wanted.limit or 100) for name in readouts]


def _calibration(
    wanted: CalibrationSettings,
    handle: ModelHandle,
    folder: RunFolder,
    seed: int,
    progress: Progress,
    say: Callable[[str], None],
) -> Calibration:
    started = perf_counter()
    found = load_calibration(
        wanted.source,
        handle.reader,
        engine=handle.engine,
        num_texts=wanted.num_texts,
        max_tokens=wanted.max_tokens,
        seed=seed,
        folder=folder,
        progress=progress,
    )
    read = f"{found.source}, {counted(len(found.texts), 'text')}, {found.num_tokens:,} tokens"
    say(f"calibration: {read} ({perf_counter() - started:.0f} s)")
    return found


def _plan_settings(context: Context, objective: TaskObjective | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"num_remove": context.num_remove, "seed": context.seed, **context.settings}
    if context.protect is not None:
        settings["protect"] = sorted(context.protect)
    if context.calibration is not None:
        settings["calibration"] = {
            "source": context.calibration.source,
            "num_texts": len(context.calibration.texts),
            "num_tokens": context.calibration.num_tokens,
            "content_hash": context.calibration.content_hash,
        }
    if objective is not None:
        settings["objective"] = dict(objective.describe())
    return settings
