"""Choose layers and MLP channels by criteria, in a run folder that keeps all measurements."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import Tokens
from layercut.engines import ENGINES
from layercut.errors import InputError, unknown
from layercut.models.weights import read_config
from layercut.progress import Progress
from layercut.runs.directory import RunFolder
from layercut.selection import criterion as criterion_of
from layercut.selection import criterion_row
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, Normalise, Racing, Selection, no_objective
from layercut.selection.calibration import Calibration, load_calibration
from layercut.selection.held_out import held_out
from layercut.selection.objective import TaskObjective, search_settings
from layercut.selection.protect import parse_protected
from layercut.selection.search_journal import SearchJournal
from layercut.selection.specs import plan_of, prefix_that_keeps
from layercut.selection.trace_damage import correct_traces
from layercut.settings import CalibrationSettings, DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_of
from layercut.tasks import load_task
from layercut.tasks.base import generates
from layercut.tasks.cells import announce_isolation
from layercut.tasks.reported import tell_shortfalls
from layercut.tasks.selected_items import HELD_OUT, SELECTION_ITEMS, merge_items, record_items, selection_items
from layercut.text.counting import counted

if TYPE_CHECKING:
    from layercut.models.loading import LoadedModel

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
    criterion: str | None,
    num_remove: int,
    out: Path,
    layers: Sequence[int] | None = None,
    mlp: float | None = None,
    channels: str = "rms",
    tasks: Sequence[TaskSettings] = (),
    calibration: CalibrationSettings | None = None,
    protect: str | None = None,
    settings: Mapping[str, Any] | None = None,
    normalise: str = "raw",
    race: str = "exact",
    decoding: DecodingSettings | None = None,
    num_held_out: int | None = None,
    keep: float | None = None,
    seed: int = 0,
    progress: Progress,
    say: Callable[[str], None],
) -> Selected:
    """Choose layers, MLP channels, or both, and write ``plan.json``; ``layercut select``.

    The folder's settings are the model, the objective, the calibration text and the decoding: what decides a measured
    value. The criterion, its settings and the number of layers may change from one command to the next, and what was
    measured before is used again. Each plan is also kept as ``plans/<criterion>-<N>.json``.

    A plan that was chosen on task items is then scored on ``num_held_out`` other selection items of each task (as many
    as it was chosen on if None, none for 0), under ``held_out`` in its scores; see ``layercut.selection.held_out``.

    With ``mlp``, that share of the channels of every MLP goes as well, chosen by ``channels`` (see
    ``layercut.selection.channels``) on the original model's right answers to the tasks; without tasks that generate, on
    the calibration text. ``layers`` names the removed layers, so that no criterion is needed.

    With ``keep``, a greedy search goes to ``num_remove`` layers, and the plan is its deepest part that keeps this share
    of the original model's value; see ``layercut.selection.specs.prefix_that_keeps``.

    Raises:
        InputError: an unknown criterion, task or setting, or material that the criterion needs and did not get.
    """
    chosen_by = criterion if layers is None and num_remove else None
    row = None if chosen_by is None else criterion_row(chosen_by)
    handle = model if isinstance(model, ModelHandle) else ModelHandle(model)
    if mlp is not None:  # refused before anything is read or written by the model
        mlp_width_of(read_config(handle.source.path), handle.settings.model).num_kept(mlp)
    draw = Decoding(**(decoding or DecodingSettings()).as_dict(), seed=seed)
    parts = [part for wanted in tasks for part in objective_parts(wanted, seed)]
    calibration = calibration or CalibrationSettings()
    identity = folder_settings(handle.describe(), parts, draw, calibration)
    start = str((settings or {}).get("start", ""))
    if start.endswith(".json") and (plan := plan_of(handle, start, seed)).chosen_on:
        say(f"start: {plan.describe()}")
    if row is not None and chosen_by is not None and row.needs_objective and not parts:
        raise no_objective(chosen_by)
    needs_model = mlp is not None or (row is not None and row.needs_model)
    on_answers = any(generates(part.readout) for part in parts)
    on_text = (row is not None and (row.needs_text or (row.needs_model and calibration != CalibrationSettings()))) or (
        mlp is not None and not on_answers
    )
    with ExitStack() as held:
        isolation = announce_isolation((part.task for part in parts), say)
        tell_shortfalls(parts, "selection", say)
        folder = held.enter_context(RunFolder.begin(out, identity, flags=FLAGS, sandbox=isolation))
        engine = handle.engine if needs_model else None
        journal = held.enter_context(SearchJournal(folder))
        objective = None
        if parts and engine is not None:
            objective = TaskObjective(
                engine,
                parts,
                decoding=draw,
                normalise=cast("Normalise", normalise),
                race=cast("Racing", race),
                journal=journal,
                progress=progress,
            )
        text = _calibration(calibration, handle, folder, seed, progress, say) if on_text else None
        plan_settings = _text_settings(text)
        if objective is not None:
            plan_settings["objective"] = dict(objective.describe())
        selection = Selection(tuple(layers or ()), {}, {})
        if chosen_by is not None:
            context = Context(
                num_layers=handle.num_layers,
                num_remove=num_remove,
                seed=seed,
                protect=parse_protected(protect, handle.num_layers) if protect else None,
                loaded=None if row is None or not row.needs_model else _in_memory(handle),
                engine=engine,
                calibration=text,
                objective=objective,
                folder=folder,
                settings=dict(settings or {}),
                progress=progress,
            )
            plan_settings = _plan_settings(context) | plan_settings
            started = perf_counter()
            selection = criterion_of(chosen_by)(context)
            if on_text:
                say(f"{criterion}: layers ranked ({perf_counter() - started:.0f} s)")
        if keep is not None and chosen_by is not None:
            searched = CutPlan(
                num_layers=handle.num_layers, removed=selection.removed, criterion=chosen_by, scores=selection.details
            )
            short = prefix_that_keeps(searched, keep)
            selection = selection._replace(removed=short.removed, details=short.scores)
            plan_settings["num_remove"] = len(short.removed)
        thin = None
        if mlp is not None:
            started = perf_counter()
            texts, items = _channel_texts(handle, objective if on_answers else None, text)
            from layercut.selection.channels import choose_channels  # torch, which a dry run does not load

            thin, about = choose_channels(
                handle.loaded, selection.removed, mlp, texts, criterion=channels, progress=progress
            )
            used = record_items(merge_items(selection_items(selection.details), items))
            details = {**selection.details, "channels": about, **({SELECTION_ITEMS: used} if used else {})}
            selection = selection._replace(details=details)
            plan_settings = {"seed": seed, **plan_settings, "channels": channels}
            say(f"MLP channels ranked by {channels} on {_tokens(about)} ({perf_counter() - started:.0f} s)")
        seen = selection_items(selection.details)
        if objective is not None and seen and num_held_out != 0:
            chosen = CutPlan(num_layers=handle.num_layers, removed=selection.removed, channels=thin)
            found = held_out(objective, chosen, num_items=num_held_out, seen=seen, seed=seed, progress=progress)
            selection = selection._replace(details={**selection.details, HELD_OUT: found})
            for line in _missing_held_out(parts, found["rows"], num_held_out):
                say(line)
        elif num_held_out:
            say(f"`held_out` {num_held_out} has no effect: {chosen_by or channels} did not choose by items of a task.")
        plan = replace(
            handle.plan(),
            removed=selection.removed,
            channels=thin,
            criterion=chosen_by or (channels if thin and not layers else "explicit"),
            settings=plan_settings,
            scores={"importance": {str(k): v for k, v in selection.importance.items()}, **selection.details},
        )
        name = re.sub(r"[^\w.-]+", "-", plan.criterion)
        width = f"-mlp-{thin.share:.3g}" if thin else ""
        plan.save(folder.path / "plans" / f"{name}-{len(plan.removed)}{width}.json")
        plan.save(folder.path / PLAN_FILE)
        folder.write_metrics([], plan=plan.to_dict(), size={"num_parameters": handle.num_parameters(plan)})
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
        if readout not in task.all_readouts:
            raise unknown(f"readout of {task.name}", readout, task.all_readouts)
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


def _in_memory(handle: ModelHandle) -> LoadedModel | None:
    return None if ENGINES[handle.settings.engine].reads_weights else handle.loaded


def _channel_texts(
    handle: ModelHandle, objective: TaskObjective | None, text: Calibration | None
) -> tuple[dict[str, list[Tokens]], Mapping[str, Sequence[str]]]:
    """The texts that channels are chosen on, by task or source, and the items that were used.

    Raises:
        InputError: an engine that has no model in memory, or no right answer.
    """
    from layercut.selection.channels import answers_as_texts, texts_as_read

    loaded = _in_memory(handle)
    if loaded is None:
        raise InputError("MLP channels are ranked with the model in memory; use `engine` shared or plain.")
    if objective is None:
        assert text is not None, "without answers there is text"
        return {text.source: texts_as_read(loaded, text.texts)}, {}
    found = correct_traces(objective)
    texts = {name: answers_as_texts(loaded, requests) for name, requests in found.by_task.items() if requests}
    return texts, found.items


def _tokens(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} tokens of {name}" for name, count in about["num_tokens"].items())


def _plan_settings(context: Context) -> dict[str, Any]:
    settings: dict[str, Any] = {"num_remove": context.num_remove, "seed": context.seed, **context.settings}
    if context.protect is not None:
        settings["protect"] = sorted(context.protect)
    return settings


def _text_settings(text: Calibration | None) -> dict[str, Any]:
    if text is None:
        return {}
    about = {"source": text.source, "num_texts": len(text.texts), "num_tokens": text.num_tokens}
    return {"calibration": {**about, "content_hash": text.content_hash}}
