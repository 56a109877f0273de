"""Choose layers and MLP channels by criteria, in a run folder that keeps all measurements."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.engine.rows import check_longest
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.models.weights import PLAN_FILE, read_config
from layercut.progress import Progress, Say
from layercut.runs.directory import RunFolder
from layercut.runs.dry_run import ANSWER_BYTES, Outline, PlannedStep
from layercut.selection import CriterionRow, criterion_row
from layercut.selection import find_criterion as criterion_of
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context, SearchSettings, no_objective, whole_numbers
from layercut.selection.calibration import Calibration, load_calibration
from layercut.selection.objective import TaskObjective, held_out, search_settings
from layercut.selection.search_journal import SearchJournal
from layercut.selection.specs import LayerSpec, parse_protected
from layercut.selection.task_criteria import TRACES, correct_traces
from layercut.settings import GENERATED, CalibrationSettings, DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_of
from layercut.tasks import load_task
from layercut.tasks.base import Sample, is_generated
from layercut.tasks.cells import Cell, announce_isolation
from layercut.tasks.selected_items import (
    HELD_OUT,
    SELECTION_ITEMS,
    merge_items,
    record_items,
    selection_items,
    tell_shortfalls,
)
from layercut.text import count_of


@dataclass(frozen=True, kw_only=True)
class SelectionRequest:
    """What is chosen, and by what: fields of ``layercut select``, which explains them."""

    remove: LayerSpec  # how many layers, or which ones, and the share of the MLP channels
    criterion: str | None = None  # no effect where ``remove`` names the layers
    channels: str = "rms"
    tasks: Sequence[TaskSettings] = ()
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    protect: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    search: SearchSettings = field(default_factory=SearchSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    held_out: int | None = None
    seed: int = 0

    @property
    def row(self) -> CriterionRow | None:
        return None if self.criterion is None or self.remove.count is None else criterion_row(self.criterion)

    @property
    def needs_model(self) -> bool:
        return self.remove.mlp is not None or (self.row is not None and self.row.needs_model)

    def num_remove(self, num_layers: int) -> int:
        return 0 if self.remove.count is None else self.remove.count.layers(num_layers)

    def parts(self) -> list[ObjectiveTask]:
        return [part for task in self.tasks for part in objective_parts(task, self.seed)]


class Selected(NamedTuple):
    """The plan, and where it was written."""

    plan: CutPlan
    path: Path


class _Job(NamedTuple):
    """What the steps share."""

    handle: ModelHandle
    request: SelectionRequest
    run: RunFolder
    objective: TaskObjective | None  # None where no step asks tasks
    text: Calibration | None  # None where no step reads text
    progress: Progress
    say: Say


def select_layers(
    model: ModelSettings | ModelHandle, request: SelectionRequest, *, out: Path, progress: Progress, say: Say
) -> Selected:
    """Choose layers, MLP channels, or both, and write ``plan.json``; what the folder measured before is used again."""
    row, mlp = request.row, request.remove.mlp
    handle = model if isinstance(model, ModelHandle) else ModelHandle(model)
    parts = request.parts()
    if mlp is not None:  # refused before anything is read or written by the model
        mlp_width_of(read_config(handle.source.path), handle.settings.model).num_kept(mlp)
    if row is not None and row.needs_objective and not parts:
        raise no_objective(str(request.criterion))
    decoding = Decoding(**request.decoding.as_dict(), seed=request.seed)
    settings = folder_settings(handle.describe(), parts, decoding, request.calibration)
    isolation = announce_isolation((part.task for part in parts), say)
    tell_shortfalls(((part.task, "selection", part.limit) for part in parts), say)
    reads_text = mlp is not None and not any(is_generated(part.readout) for part in parts)
    if row is not None and not reads_text:
        reads_text = row.needs_text or (row.needs_model and request.calibration != CalibrationSettings())
    with RunFolder.begin(out, settings, sandbox=isolation) as run, SearchJournal(run) as journal:
        material: dict[str, Any] = {}  # the text and the items that the plan rests on
        objective = text = None
        if parts and request.needs_model:
            objective = TaskObjective(
                handle.engine, parts, decoding=decoding, journal=journal, progress=progress, **request.search.as_dict()
            )
        if reads_text:
            started = perf_counter()
            text = load_calibration(
                **request.calibration.as_dict(),
                loaded=handle.reader,
                engine=handle.engine,
                seed=request.seed,
                folder=run,
                progress=progress,
            )
            read = f"{text.source}, {count_of(len(text.texts), 'text')}, {text.num_tokens:,} tokens"
            say(f"calibration: {read} ({perf_counter() - started:.0f} s)")
            about = {"source": text.source, "num_texts": len(text.texts), "num_tokens": text.num_tokens}
            material["calibration"] = {**about, "content_hash": text.content_hash}
        if objective is not None:
            material["objective"] = dict(objective.describe())
        job = _Job(handle, request, run, objective, text, progress, say)
        plan = replace(
            handle.plan(),
            removed=request.remove.layers or (),
            criterion="explicit",
            settings=material,
            scores={"importance": {}},
        )
        if row is not None:
            plan = _without_layers(job, plan)
        if mlp is not None:
            plan = _without_channels(job, plan, mlp)
        plan = _with_held_out(job, plan)
        name = re.sub(r"[^\w.-]+", "-", plan.criterion)
        width = f"-mlp-{plan.channels.share:.3g}" if plan.channels else ""
        plan.save(run.path / "plans" / f"{name}-{len(plan.removed)}{width}.json")
        plan.save(run.path / PLAN_FILE)
        run.write_metrics([], plan=plan.to_dict(), size={"num_parameters": handle.num_parameters(plan)})
        return Selected(plan, run.path / PLAN_FILE)


def folder_settings(
    model: Mapping[str, Any], parts: Sequence[Cell], decoding: Decoding, calibration: CalibrationSettings | None = None
) -> dict[str, Any]:
    """Settings that decide the values in a folder of ``select`` or ``sweep``; where they agree, both can share one."""
    text = None if calibration in (None, CalibrationSettings()) else calibration.as_dict()
    return {**model, **search_settings(parts, decoding), "calibration": text, "seed": decoding.seed}


def objective_parts(wanted: TaskSettings, seed: int) -> list[ObjectiveTask]:
    """The parts of an objective that one task gives, one for each readout. Raises InputError: unknown ones."""
    task = load_task(wanted.task, data=wanted.data, seed=seed, max_new_tokens=wanted.max_new_tokens)
    # One readout a task unless others are asked for: the paper's objective counts each task once.
    readouts = wanted.readouts or (task.readouts[0],)
    return [ObjectiveTask(task=task, readout=name, limit=wanted.limit or 100) for name in readouts]


def _without_layers(job: _Job, plan: CutPlan) -> CutPlan:
    handle, request = job.handle, job.request
    assert request.criterion is not None and request.row is not None, "checked"
    context = Context(
        num_layers=handle.num_layers,
        num_remove=request.num_remove(handle.num_layers),
        seed=request.seed,
        protect=parse_protected(request.protect, handle.num_layers) if request.protect else None,
        loaded=_in_memory(handle) if request.row.needs_model else None,
        engine=handle.engine if request.needs_model else None,
        calibration=job.text,
        objective=job.objective,
        folder=job.run,
        settings=dict(request.settings),
        progress=job.progress,
    )
    started = perf_counter()
    chosen = criterion_of(request.criterion)(context)
    if job.text is not None:
        job.say(f"{request.criterion}: layers ranked ({perf_counter() - started:.0f} s)")
    settings: dict[str, Any] = {"num_remove": context.num_remove, "seed": context.seed, **context.settings}
    if context.protect is not None:
        settings["protect"] = sorted(context.protect)
    importance = {str(layer): score for layer, score in chosen.importance.items()}
    return replace(
        plan,
        removed=chosen.removed,
        criterion=request.criterion,
        settings={**settings, **plan.settings},
        scores={"importance": importance, **chosen.details},
    )


def _without_channels(job: _Job, plan: CutPlan, share: float) -> CutPlan:
    """Without a share of every MLP's channels, chosen on right answers to tasks, or on calibration text."""
    from layercut.selection.channels import answers_as_texts, choose_channels, texts_as_read  # torch

    request, started = job.request, perf_counter()
    loaded = _in_memory(job.handle)
    if loaded is None:
        raise InputError("MLP channels are ranked with the model in memory; use `engine` shared or plain.")
    items: Mapping[str, Sequence[str]] = {}
    if job.objective is not None and any(is_generated(part.readout) for part in job.objective.parts):
        traces = correct_traces(job.objective)
        texts = {name: answers_as_texts(loaded, answers) for name, answers in traces.by_task.items() if answers}
        items = traces.items
    else:
        assert job.text is not None, "without answers there is text"
        texts = {job.text.source: texts_as_read(loaded, job.text.texts)}
    channels, about = choose_channels(
        loaded, plan.removed, share, texts, criterion=request.channels, progress=job.progress
    )
    read = ", ".join(f"{count:,} tokens of {name}" for name, count in about["num_tokens"].items())
    job.say(f"MLP channels ranked by {request.channels} on {read} ({perf_counter() - started:.0f} s)")
    used = record_items(merge_items(selection_items(plan.scores), items))
    return replace(
        plan,
        channels=channels,
        criterion=plan.criterion if plan.removed else request.channels,
        settings={"seed": request.seed, **plan.settings, "channels": request.channels},
        scores={**plan.scores, "channels": about, **({SELECTION_ITEMS: used} if used else {})},
    )


def _with_held_out(job: _Job, plan: CutPlan) -> CutPlan:
    """The plan with its scores on other selection items of each task, if it was chosen on some."""
    request, seen = job.request, selection_items(plan.scores)
    if job.objective is None or not seen or request.held_out == 0:
        if request.held_out:
            by = plan.criterion if request.row is not None else request.channels
            job.say(f"`held_out` {request.held_out} has no effect: {by} did not choose by items of a task.")
        return plan
    bare = CutPlan(num_layers=plan.num_layers, removed=plan.removed, channels=plan.channels)
    scored = held_out(
        job.objective, bare, num_items=request.held_out, seen=seen, seed=request.seed, progress=job.progress
    )
    for part, scores in zip(job.objective.parts, scored["rows"], strict=True):
        wanted = part.limit if request.held_out is None else request.held_out
        num_items = 0 if scores["held_out"] is None else scores["held_out"]["n"]
        if wanted is not None and num_items < wanted:
            job.say(
                f"{part.label}: the plan is scored again on {num_items} of {wanted} held-out items; the task has no "
                "more selection items that the search did not see"
            )
    return replace(plan, scores={**plan.scores, HELD_OUT: scored})


def _in_memory(handle: ModelHandle) -> LoadedModel | None:
    return None if ENGINES[handle.settings.engine].reads_weights else handle.loaded


# What a search or sweep would ask: ``select --dry-run`` and ``sweep --dry-run``


def selection_outline(model: ModelSettings, request: SelectionRequest, *, out: Path) -> Outline:
    """Choosing layers; InputError for a model, criterion, task or layer that is unusable."""
    handle, criterion, settings = ModelHandle(model), request.criterion, request.settings
    assert criterion is not None, "checked"
    row, calibration = criterion_row(criterion), request.calibration
    num_remove, candidates = request.num_remove(handle.num_layers), handle.num_layers - row.protects_first_layer
    if request.protect:
        candidates = handle.num_layers - len(parse_protected(request.protect, handle.num_layers))
    greedy = count_greedy_plans(candidates, num_remove)
    search = settings.get("search", row.searches[0] if row.searches else None)
    measured = greedy if search == "greedy" else candidates
    steps: list[PlannedStep] = []
    if row.needs_model and row.needs_text:
        if calibration.source == GENERATED:
            steps.append(PlannedStep("calibration text that the model writes", calibration.num_texts, "text"))
        passes = measured + 1 if row.searches else 1
        steps.append(PlannedStep(f"{criterion} on the text, at most", passes * calibration.num_texts, "text"))
    for part in request.parts() if row.needs_model else ():
        samples, plans = part.task.samples("selection", part.limit), greedy
        if row.needs_traces:
            steps += _traces(handle, part, samples, measured)
            continue
        if row.needs_objective and "shortlist" in settings:
            numbers = whole_numbers(criterion, settings, shortlist=1, traces=TRACES)
            plans = min(greedy, num_remove * numbers["shortlist"])
            steps += _traces(handle, part, samples[: numbers["traces"]], greedy)[1:]
        steps.append(planned_answers(handle, part, samples, plans + 1, f"at most {plans + 1} plans"))
        if request.held_out != 0:
            held_out = part.task.samples("selection", len(samples) + (request.held_out or len(samples)))[len(samples) :]
            if held_out:
                steps.append(planned_answers(handle, part, held_out, 2, "held out, uncut and cut"))
    return outline_of_steps(handle, steps, out, loads=row.needs_model)


def count_greedy_plans(candidates: int, num_remove: int) -> int:
    """Plans of a greedy search, without the original model.

    >>> count_greedy_plans(29, 2)
    57
    """
    return num_remove * candidates - num_remove * (num_remove - 1) // 2


def planned_answers(handle: ModelHandle, part: Cell, samples: Sequence[Sample], plans: int, what: str) -> PlannedStep:
    """Answers to items under plans. Raises InputError: a task without an item for this, or too long a prompt."""
    if not samples:
        raise InputError(f"{part.label} has no item for this: {what}; give more rows with different prompts.")
    check_longest(handle, (part.task.request(sample, part.readout) for sample in samples))
    return PlannedStep(f"{part.label}, {what}", plans * len(samples))


def _traces(handle: ModelHandle, part: Cell, samples: Sequence[Sample], passes: int) -> list[PlannedStep]:
    if not is_generated(part.readout):
        return []
    uncut = planned_answers(handle, part, samples, 1, "uncut")
    return [uncut, PlannedStep(f"{part.label}, right answers read without each layer, at most", passes * len(samples))]


def outline_of_steps(handle: ModelHandle, steps: Sequence[PlannedStep], folder: Path, *, loads: bool = True) -> Outline:
    """The outline of these steps; ``loads``: the model comes into memory."""
    cache = handle.settings.cache_gib * 2**30 if steps and ENGINES[handle.settings.engine].has_cache else 0
    weights = handle.bytes_in_memory if loads else 0
    return Outline(
        steps=tuple(steps),
        disk_bytes=ANSWER_BYTES * sum(step.items for step in steps),
        memory_bytes=weights + round(cache),
        folder=folder,
    )
