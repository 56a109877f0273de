"""Find the plan that makes a model write faster as a draft of itself, and measure it.

Selection items choose the plan and its window; answers to report items, written with and without it, judge it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from layercut.drafting import DraftSettings
from layercut.drafting.assisted import MeasuredAnswer, draft_view, measure_times, write_twice
from layercut.drafting.search import (
    AnswerReader,
    StepTimes,
    TriedDraft,
    can_run,
    choose_drafts,
    mlp_of,
)
from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.evidence.paired import ratio_of_sums
from layercut.models.weights import read_config, stored_tensors
from layercut.progress.bars import RunProgress
from layercut.pruning.settings import LAPTOP, Profile, fitted_profile
from layercut.pruning.speed import unread_bytes
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable_writing
from layercut.runs.draft import MODEL, PLAN, DraftMeasured, DraftPlan, DraftResult
from layercut.runs.environment import command_line, describe_machine
from layercut.runs.prune import Estimated, as_estimated
from layercut.runs.records import Notes
from layercut.selection.answers import ObjectiveTask
from layercut.selection.goal import GoalTasks
from layercut.selection.search_journal import SearchJournal
from layercut.selection.specs import plan_of
from layercut.selection.written_answers import WrittenAnswer, part_name
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.text import count_of, two_decimals

_NUMBERS = ("items", "use", "tasks")
"""Settings that may differ when a run goes on: they ask for more, or name what is recorded elsewhere."""


class DraftDone(NamedTuple):
    """The result and its folder."""

    folder: Path
    result: DraftResult


def run_draft(
    model: ModelHandle,
    settings: DraftSettings,
    goal: GoalTasks,
    *,
    out: Path,
    seed: int = 0,
    console: Console,
    say: Callable[[str], None],
) -> DraftDone:
    """Search a draft and measure it; the same call again goes on where it was stopped."""
    if ENGINES[model.settings.engine].reads_weights:
        raise InputError(
            "drafts are searched with the model in memory; use `engine` shared or plain. The page says how "
            "vLLM and llama.cpp serve the draft."
        )
    parts, named = goal.parts(seed), None if settings.remove is None else plan_of(model, settings.remove, seed)
    kept = {name: value for name, value in settings.as_dict().items() if name not in _NUMBERS}
    tasks = [{**part.describe(), "limit": None} for part in parts]
    wanted = {**model.describe(), "tasks": tasks, **kept, "seed": seed}
    if goal.note:
        say(goal.note)
    profile = fitted_profile(LAPTOP, model.context_length, is_given=False)
    progress = RunProgress(console, steps=["times", "search", "measure"])

    @contextmanager
    def stage(name: str, doing: str) -> Iterator[None]:
        progress.step(name)
        progress.begin(name, doing)
        with run.notes.stage(name):
            yield
        progress.end(name, note="done")

    with resumable_writing(out), RunFolder.begin(out, wanted) as run, SearchJournal(run) as journal, progress.running():
        reader = AnswerReader(model, journal, progress)
        with stage("times", "timing steps by turns"):
            times = _step_times(reader, run.notes, profile, settings.window, seed)
        with stage("search", "answers of the original model"):
            drafts, tried = choose_drafts(reader, parts, named, settings.window, times)
            drafts[0].plan.save(run.path / PLAN)
        with stage("measure", "answers to report items"):
            answers = [answer for part in parts for answer in reader.write(part, "report", settings.items)]
            written = _write_with_draft(drafts[0], reader, answers)
        result = _make_result(model, parts, drafts, times, written, seed, tried=tried, seconds=run.notes.seconds)
        if result.checkpoint and not (run.path / MODEL).exists():
            cut_model(model.source, drafts[0].plan, run.path / MODEL, uncut=lambda: model.loaded)
        result.save(run.path)
    return DraftDone(run.path, result)


def _step_times(reader: AnswerReader, notes: Notes, profile: Profile, window: int, seed: int) -> StepTimes:
    """Times of an earlier call on this machine, or measured now."""
    model, where = reader.model, describe_machine()
    if where not in (known := notes.get("times", {})):
        # Half of the layers and half of the channels, as far as the model can be run so.
        whole, count, mlp = CutPlan(num_layers=model.num_layers), model.num_layers, mlp_of(model)
        plans = [replace(whole, removed=tuple(range(count // 4, count // 4 + count // 2)))] if count > 1 else []
        if mlp is not None:
            plans.append(replace(whole, channels=mlp.first_channels(mlp.num_kept(0.5))))
        plans = [whole, *(plan for plan in plans if can_run(model, plan))]
        times = measure_times(model.loaded, plans, profile, window, seed, reader.progress)
        known = {**known, where: times.model_dump(mode="json")}
        notes.put("times", known)
    return StepTimes.model_validate(known[where])


def _write_with_draft(best: TriedDraft, reader: AnswerReader, answers: Sequence[WrittenAnswer]) -> list[MeasuredAnswer]:
    """The answers, each written with the draft and without it; those of an earlier call on this machine stay."""
    ids, loaded = [answer.id for answer in answers], reader.model.loaded
    known = reader.part("written", f"window-{best.window}", best.plan, ids, describe_machine())
    done = {record["id"] for record in known.records}
    reader.progress("answers written twice", len(done), len(ids))
    if left := [answer for answer in answers if answer.id not in done]:
        for answer in write_twice(loaded, draft_view(loaded.model, best.plan), left, best.window):
            known.append([answer._asdict()])
            reader.progress("answers written twice", len(known.records), len(ids))
    return [MeasuredAnswer(**{field: record[field] for field in MeasuredAnswer._fields}) for record in known.records]


def _measured(task: str, answers: Sequence[MeasuredAnswer], seed: int) -> DraftMeasured:
    """Ratios of sums over answers, with 95 % intervals over answers."""

    def ratio(above: Sequence[float], below: Sequence[float]) -> Estimated:
        return as_estimated(ratio_of_sums(np.array(above, dtype=float), np.array(below, dtype=float), seed))

    tokens, rounds = [answer.tokens for answer in answers], [answer.rounds for answer in answers]
    return DraftMeasured(
        task=task,
        tokens=sum(tokens),
        num_same=sum(answer.is_same for answer in answers),
        # A round writes one token more than it accepts.
        accepted=ratio([answer.tokens - answer.rounds for answer in answers], [answer.proposed for answer in answers]),
        per_round=ratio(tokens, rounds),
        speedup=ratio([answer.plain for answer in answers], [answer.drafted for answer in answers]),
    )


def _make_result(
    model: ModelHandle,
    parts: Sequence[ObjectiveTask],
    drafts: Sequence[TriedDraft],
    times: StepTimes,
    written: Sequence[MeasuredAnswer],
    seed: int,
    **more: Any,
) -> DraftResult:
    """Everything that draft.json holds; the first draft is the one that wrote the answers."""
    name = parts[0].label if len(parts) == 1 else "all tasks"
    path, best, measured = model.source.path, drafts[0], _measured(name, written, seed)
    unread = unread_bytes(read_config(path), stored_tensors(path))
    whole = plan_cut(path, CutPlan(num_layers=model.num_layers)).bytes_after - unread
    plans = tuple(
        DraftPlan(
            removed=tuple(sorted(draft.plan.removed)),
            mlp=draft.mlp,
            read=(plan_cut(path, draft.plan).bytes_after - unread) / whole,
            window=draft.window,
            step=times.step.seconds(*draft.stays),
            agrees=draft.agrees,
            forecast=draft.speedup,
        )
        for draft in drafts
    )
    speedup = measured.speedup
    is_faster, is_slower = speedup.low is not None and speedup.low > 1, (speedup.high or speedup.value) < 1
    what = f"the model without {plans[0].amount}, {count_of(best.window, 'token')} at a time"
    speed = f"x {two_decimals(speedup)} as fast, measured on {count_of(speedup.n, 'answer')}"
    why = f"None: with the best draft ({what}) the model writes" if is_slower else f"Draft: {what}. The model writes"
    why += f" {speed}, of which {measured.num_same} are equal to the letter."
    return DraftResult(
        model=model.settings.model,
        dtype=model.dtype,
        plans=plans,
        checks=times.check,
        measured=measured,
        tasks=tuple(
            _measured(part.label, [answer for answer in written if answer.task == part_name(part)], seed)
            for part in parts
        ),
        verdict="faster" if is_faster else "slower" if is_slower else "undecided",
        why=why if is_faster or is_slower else f"{why} Whether it is faster is not shown.",
        checkpoint=MODEL if speedup.value > 1 else None,
        where=describe_machine(),
        seed=seed,
        command=command_line(sys.argv),
        **more,
    )
