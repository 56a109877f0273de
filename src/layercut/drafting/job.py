"""Find the plan that makes a model write faster as a draft of itself, forecast it, and measure it.

    runs/draft/  samples/    answers of the original model, and where plans agree with them
                 times.json  times of steps
                 plan.json   the chosen plan
                 model/      its checkpoint, where it makes the model faster
                 draft.json  all of it, see layercut.runs.draft

Selection items choose the plan and its window; report items forecast it, and some of them are written and timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from layercut.drafting.assisted import draft_view, measure_times, times_within, write_twice
from layercut.drafting.forecast import (
    MeasuredAnswer,
    StepTimes,
    TriedDraft,
    WrittenAnswer,
    forecast_speedup,
    make_result,
    part_name,
)
from layercut.drafting.outline import ASKED, goal_parts
from layercut.drafting.search import AnswerReader, can_run, draft_plan, fastest_of_each, search_drafts
from layercut.drafting.settings import DraftSettings
from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.progress.bars import StageProgress
from layercut.pruning.settings import GoalTasks, fitted_profile
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable_writing
from layercut.runs.draft import MODEL, PLAN, TIMES, DraftResult
from layercut.runs.environment import describe_machine, shown_path
from layercut.runs.json_text import load_json
from layercut.selection.answers import ObjectiveTask
from layercut.selection.channels import keep_most, rank_channels
from layercut.selection.search_journal import SearchJournal
from layercut.surgery.channels import Channels
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import check_plan
from layercut.surgery.slots import MlpWidth
from layercut.surgery.width import mlp_width_in

SEARCHED, FIRST, TOKENS = 1024, 256, 128
"""Tokens of each task that the search reads, and of each layer alone; and of each answer at most."""
RANKED = 16  # answers by which channels are ranked
LOOPS = 2  # answers to selection items that are written to time both models within the loops of transformers
_NUMBERS = ("items", "measured", "use", "tasks")
"""Settings that may differ when a run goes on: they ask for more, or name what is recorded elsewhere."""
_RECORDED = MeasuredAnswer._fields[:8]  # without the seconds of each pass


class DraftDone(NamedTuple):
    """The result and its folder."""

    folder: Path
    result: DraftResult
    times: StepTimes


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
    """Search a draft, forecast and measure it; ``layercut draft``. The same call again goes on where it was stopped.

    Raises:
        InputError: an engine that does not run plans in this process, tasks that are not written, or a plan that does
            not fit.
    """
    if ENGINES[model.settings.engine].reads_weights:
        raise InputError(
            "drafts are searched with the model in memory; use `engine` shared or plain. The page says how "
            "vLLM and llama.cpp serve the draft."
        )
    parts = goal_parts(goal, seed)
    kept = {name: value for name, value in settings.as_dict().items() if name not in _NUMBERS}
    tasks = [{**part.describe(), "limit": None} for part in parts]
    wanted = {**model.describe(), "tasks": tasks, **kept, "seed": seed}
    if goal.note:
        say(goal.note)
    progress, seconds = StageProgress(console), dict[str, float]()

    @contextmanager
    def stage(name: str, doing: str) -> Iterator[None]:
        progress.begin(name, doing)
        began = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - began, 1)
        progress.end(name, note="done")

    with resumable_writing(out), RunFolder.begin(out, wanted) as run, SearchJournal(run) as journal, progress.running():
        reader = AnswerReader(model, journal, progress)
        with stage("times", "timing steps by turns"):
            times = _step_times(model, settings, run.path / TIMES, seed, progress)
        with stage("search", "answers of the original model"):
            drafts, tried = _choose_drafts(settings, parts, reader, times, seed)
        with stage("forecast", "answers to report items"):
            answers = [answer for part in parts for answer in reader.write(part, "report", settings.items)]
            agreed = reader.read([own.plan for own in drafts], answers)
        best, written = drafts[0], list[MeasuredAnswer]()
        with stage("measure", "writing with the draft"):
            best.plan.save(run.path / PLAN)
            pays = forecast_speedup(agreed[0], times.cost(best), best.window, seed)["speedup"].value > 1
            if pays and not (run.path / MODEL).exists():
                cut_model(model.source, best.plan, run.path / MODEL, uncut=lambda: model.loaded)
            if times.batch == 1:
                times, written = _write_with_draft(best, parts, reader, times, answers, settings.measured)
        result = make_result(
            model, parts, times, drafts, agreed, written, tried=tried, pays=pays, seed=seed, seconds=seconds
        )
        result.save(run.path)
    return DraftDone(run.path, result, times)


def _step_times(
    model: ModelHandle, settings: DraftSettings, file: Path, seed: int, progress: StageProgress
) -> StepTimes:
    """Times of an earlier call, or measured now."""
    if file.is_file():
        try:
            return StepTimes.model_validate(load_json(file))
        except ValueError as error:
            raise InputError(f"{shown_path(file)} is damaged; remove it, and steps are timed again.") from error
    profile = fitted_profile(settings.serve, model.context_length, "serve" in settings.model_fields_set)
    # Half of the layers and half of the channels, as far as the model can be run so.
    layers, mlp = model.num_layers, _mlp_of(model)
    whole = CutPlan(num_layers=layers)
    plans = [replace(whole, removed=tuple(range(layers // 4, layers // 4 + layers // 2)))] if layers > 1 else []
    if mlp is not None:
        plans.append(replace(whole, channels=mlp.first_channels(mlp.num_kept(0.5))))
    plans = [whole, *(plan for plan in plans if can_run(model, plan))]
    times = measure_times(model.loaded, plans, profile, settings.window, seed, progress)
    write_json(file, times.model_dump(mode="json"))
    return times


def _mlp_of(model: ModelHandle) -> MlpWidth | None:
    """The MLP channels of a model; None where its MLPs cannot be thinned."""
    try:
        return mlp_width_in(model.loaded.model)
    except InputError:
        return None


def _choose_drafts(
    settings: DraftSettings, parts: Sequence[ObjectiveTask], reader: AnswerReader, times: StepTimes, seed: int
) -> tuple[list[TriedDraft], int]:
    """The plan that was named, or the fastest of each kind that a search found; and how many plans were tried."""
    model, named = reader.model, list[TriedDraft]()
    if (spec := settings.remove) is not None:
        if spec.mlp is not None and spec.count is None:
            channels = _rank_channels(reader, parts, mlp_width_in(model.loaded.model))(spec.mlp)
            plan = draft_plan(model, spec.layers or (), channels)
        else:
            name, digest = model.settings.model, model.metadata.model_hash
            bound = spec.bind(num_layers=model.num_layers, model=name, model_hash=digest, seed=seed)
            plan = draft_plan(model, bound.removed, bound.channels)
        check_plan(model.loaded.model, plan)
        named = [TriedDraft(plan, plan.channels.share if plan.channels else 0.0)]
    answers = [reader.write(part, "selection", ASKED) for part in parts]
    texts = _beginnings(answers, SEARCHED)
    if named:
        return reader.try_drafts(named, texts, times, settings.window), 0
    mlp = _mlp_of(model)
    thin = None if mlp is None else _rank_channels(reader, parts, mlp)
    reader.progress.begin("search", "trying plans")
    drafts = search_drafts(reader, texts, _beginnings(answers, FIRST), times, settings.window, thin)
    return fastest_of_each(drafts), len(drafts)


def _beginnings(answers: Sequence[Sequence[WrittenAnswer]], tokens: int) -> list[WrittenAnswer]:
    """The beginnings of the first answers of each task, until they have this many tokens."""
    texts = []
    for of_task in answers:
        left = tokens
        for answer in of_task:
            if left > 0:
                texts.append(answer._replace(tokens=answer.tokens[:TOKENS]))
                left -= len(texts[-1].tokens)
    return texts


def _rank_channels(reader: AnswerReader, parts: Sequence[ObjectiveTask], mlp: MlpWidth) -> Callable[[float], Channels]:
    """Rank channels by answers to selection items; gives, by the share to remove, the most needed ones."""
    reader.progress.begin("search", "ranking channels")
    texts = {}
    for part in parts:
        answers = reader.write(part, "selection", ASKED)[:RANKED]
        texts[part_name(part)] = [(*answer.prompt, *answer.tokens) for answer in answers]
    ranked = rank_channels(reader.model.loaded, (), texts, progress=reader.progress)
    return lambda share: keep_most(mlp, ranked, share)


def _write_with_draft(
    best: TriedDraft,
    parts: Sequence[ObjectiveTask],
    reader: AnswerReader,
    times: StepTimes,
    answers: Sequence[WrittenAnswer],
    number: int,
) -> tuple[StepTimes, list[MeasuredAnswer]]:
    """The times within the loops of transformers, and some answers that were written with the draft."""
    progress, readout, loaded = reader.progress, f"window-{best.window}", reader.model.loaded
    by_task = [[answer for answer in answers if answer.task == part_name(part)] for part in parts]
    turns = [answer for answer in chain(*zip_longest(*by_task)) if answer is not None]
    wanted = {f"{answer.task}.{answer.id}": answer for answer in turns[:number]}
    written = reader.part("written", readout, best.plan, list(wanted), describe_machine())
    view = draft_view(loaded.model, best.plan)
    within = reader.part("loops", readout, best.plan, ["step"], describe_machine())
    if not within.is_complete:
        first = [reader.write(part, "selection", ASKED)[0] for part in parts][:LOOPS]
        measured = times_within(times, best, first, [*write_twice(loaded, view, first, best.window)])
        within.append([{"id": "step", "times": measured.model_dump(mode="json")}])
    done = {record["id"] for record in written.records}
    if left := {name: answer for name, answer in wanted.items() if name not in done}:
        progress("answers written twice", len(done), len(wanted))
        for key, took in zip(left, write_twice(loaded, view, list(left.values()), best.window), strict=True):
            written.append([{name: getattr(took, name) for name in _RECORDED} | {"id": key}])
            progress("answers written twice", len(written.records), len(wanted))
    return StepTimes.model_validate(within.records[0]["times"]), [
        MeasuredAnswer(**{name: record[name] for name in _RECORDED} | {"id": wanted[record["id"]].id})
        for record in written.records
    ]
