"""Find the plan that makes a model write faster as a draft of itself, forecast it, and measure it.

    runs/draft/  samples/    answers of the original model, and where plans agree with them
                 times.json  times of this machine
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

from layercut.drafting.assisted import (
    MeasuredAnswer,
    draft_view,
    measure_other,
    measure_times,
    times_within,
    write_twice,
)
from layercut.drafting.forecast import StepTimes, TriedDraft, WrittenAnswer, forecast_speedup
from layercut.drafting.outcome import make_result
from layercut.drafting.outline import ASKED, goal_parts
from layercut.drafting.search import AnswerReader, can_run, draft_plan, fastest_of_each, part_name, search_drafts
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
from layercut.runs.environment import describe_machine
from layercut.selection.answers import ObjectiveTask
from layercut.selection.channels import keep_most, rank_channels
from layercut.selection.search_journal import JournalPart, SearchJournal
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
_NUMBERS = ("items", "measured", "times", "times_only", "use", "tasks")
"""Settings that may differ when a run goes on: they ask for more, or name what is recorded elsewhere."""
_RECORDED = MeasuredAnswer._fields[:8]  # without the seconds of each pass


class DraftDone(NamedTuple):
    """The result and its folder; no result where times alone were measured."""

    folder: Path
    result: DraftResult | None
    times: StepTimes


def run_draft(
    model: ModelHandle,
    settings: DraftSettings,
    goal: GoalTasks | None,
    *,
    out: Path,
    seed: int = 0,
    console: Console,
    say: Callable[[str], None],
) -> DraftDone:
    """Search a draft, forecast and measure it; ``layercut draft``. The same call again goes on where it was stopped.

    Raises:
        InputError: an engine that does not run plans in this process, tasks that are not written, a plan that does not
            fit, or times of another model.
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
    if goal and goal.note:
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
        original = reader = AnswerReader(model, journal, progress)
        if settings.draft is not None:
            other = ModelHandle(model.settings.replace(model=settings.draft, revision=None))
            reader = AnswerReader(other, journal, progress)
        with stage("times", "timing steps by turns"):
            times = _step_times(model, settings, run.path / TIMES, seed, progress)
        if settings.times_only:
            return DraftDone(run.path, None, times)
        with stage("search", "answers of the original model"):
            times, drafts, tried = _choose(settings, parts, original, reader, times, seed)
        with stage("forecast", "answers to report items"):
            answers = [answer for part in parts for answer in original.write(part, "report", settings.items)]
            agreed = reader.read([own.plan for own in drafts], answers)
        best, written = drafts[0], list[MeasuredAnswer]()
        with stage("measure", "writing with the draft"):
            best.plan.save(run.path / PLAN)
            checkpoint = best.name or None
            if not best.name and forecast_speedup(agreed[0], times.cost(best), best.window, seed)["speedup"].value > 1:
                checkpoint = MODEL
                if not (run.path / MODEL).exists():
                    cut_model(model.source, best.plan, run.path / MODEL, uncut=lambda: model.loaded)
            if settings.times is None and times.batch == 1:
                times, written = _write_with(best, parts, original, reader, times, answers, settings.measured)
        result = make_result(
            original,
            reader,
            parts,
            times,
            drafts,
            agreed,
            written,
            tried=tried,
            checkpoint=checkpoint,
            seed=seed,
            seconds=seconds,
        )
        result.save(run.path)
    return DraftDone(run.path, result, times)


def _step_times(
    model: ModelHandle, settings: DraftSettings, file: Path, seed: int, progress: StageProgress
) -> StepTimes:
    """Times of the file that was named, of an earlier call, or measured now."""
    if settings.times is not None:
        times = StepTimes.load(settings.times)
        if times.model_hash != model.metadata.model_hash or len(times.check) <= settings.window:
            raise InputError(
                f"{settings.times} holds times of {times.model} for up to {len(times.check) - 1} proposed tokens; "
                f"measure {settings.window} of this model there with `times_only`."
            )
        return times
    if file.is_file():
        return StepTimes.load(file)
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


def _choose(
    settings: DraftSettings,
    parts: Sequence[ObjectiveTask],
    original: AnswerReader,
    reader: AnswerReader,
    times: StepTimes,
    seed: int,
) -> tuple[StepTimes, list[TriedDraft], int]:
    """The plan or model that was named, or the fastest of each kind that a search found; how many plans were tried."""
    model = original.model
    named: TriedDraft | None = None
    if settings.draft is not None:
        named = TriedDraft(CutPlan(num_layers=reader.model.num_layers), name=settings.draft)
        times = _with_other(original, reader, named, times, seed)
    elif (spec := settings.remove) is not None:
        if spec.mlp is not None and spec.count is None:
            channels = _rank_channels(original, parts, mlp_width_in(model.loaded.model))(spec.mlp)
            plan = draft_plan(model, spec.layers or (), channels)
        else:
            name, digest = model.settings.model, model.metadata.model_hash
            bound = spec.bind(num_layers=model.num_layers, model=name, model_hash=digest, seed=seed)
            plan = draft_plan(model, bound.removed, bound.channels)
        check_plan(model.loaded.model, plan)
        named = TriedDraft(plan, plan.channels.share if plan.channels else 0.0)
    answers = [original.write(part, "selection", ASKED) for part in parts]
    texts = _beginnings(answers, SEARCHED)
    if named is not None:
        return times, reader.try_drafts([named], texts, times, settings.window), 0
    mlp = _mlp_of(model)
    thin = None if mlp is None else _rank_channels(original, parts, mlp)
    original.progress.begin("search", "trying plans")
    drafts = search_drafts(original, texts, _beginnings(answers, FIRST), times, settings.window, thin)
    return times, fastest_of_each(drafts), len(drafts)


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


def _rank_channels(
    original: AnswerReader, parts: Sequence[ObjectiveTask], mlp: MlpWidth
) -> Callable[[float], Channels]:
    """Rank channels by answers to selection items; gives, by the share to remove, the most needed ones."""
    original.progress.begin("search", "ranking channels")
    texts = {}
    for part in parts:
        answers = original.write(part, "selection", ASKED)[:RANKED]
        texts[part_name(part)] = [(*answer.prompt, *answer.tokens) for answer in answers]
    ranked = rank_channels(original.model.loaded, (), texts, progress=original.progress)
    return lambda share: keep_most(mlp, ranked, share)


def _with_other(
    original: AnswerReader, reader: AnswerReader, other: TriedDraft, times: StepTimes, seed: int
) -> StepTimes:
    """The times with those of another model. Raises InputError: one with other tokens."""
    models = [own.model.loaded for own in (original, reader)]
    sizes = [loaded.model.config.get_text_config(decoder=True).vocab_size for loaded in models]
    texts = [loaded.tokenizer.get_vocab() for loaded in models]
    if sizes[0] != sizes[1] or texts[0] != texts[1]:
        raise InputError(
            f"`draft` {other.name} has other tokens than {original.model.settings.model}; take one with the same."
        )
    view = draft_view(models[1].model, other.plan)
    known = reader.part("times", "window-0", other.plan, ["step"], describe_machine())
    return _measured_once(known, lambda: measure_other(models[0], view, other, times, seed, original.progress))


def _measured_once(known: JournalPart, measure: Callable[[], StepTimes]) -> StepTimes:
    """The times that a journal holds, or which are measured now."""
    if not known.is_complete:
        known.append([{"id": "step", "times": measure().model_dump(mode="json")}])
    return StepTimes.model_validate(known.records[0]["times"])


def _write_with(
    best: TriedDraft,
    parts: Sequence[ObjectiveTask],
    original: AnswerReader,
    reader: AnswerReader,
    times: StepTimes,
    answers: Sequence[WrittenAnswer],
    number: int,
) -> tuple[StepTimes, list[MeasuredAnswer]]:
    """The times within the loops of transformers, and some answers that were written with the draft."""
    progress, readout, loaded = original.progress, f"window-{best.window}", original.model.loaded
    by_task = [[answer for answer in answers if answer.task == part_name(part)] for part in parts]
    turns = [answer for answer in chain(*zip_longest(*by_task)) if answer is not None]
    wanted = {f"{answer.task}.{answer.id}": answer for answer in turns[:number]}
    written = reader.part("written", readout, best.plan, list(wanted), describe_machine())
    view = draft_view(reader.model.loaded.model, best.plan)

    def within_loops() -> StepTimes:
        first = [original.write(part, "selection", ASKED)[0] for part in parts][:LOOPS]
        return times_within(times, best, first, [*write_twice(loaded, view, first, best.window)])

    within = _measured_once(reader.part("loops", readout, best.plan, ["step"], describe_machine()), within_loops)
    done = {record["id"] for record in written.records}
    if left := {name: answer for name, answer in wanted.items() if name not in done}:
        progress("answers written twice", len(done), len(wanted))
        for key, took in zip(left, write_twice(loaded, view, list(left.values()), best.window), strict=True):
            written.append([{name: getattr(took, name) for name in _RECORDED} | {"id": key}])
            progress("answers written twice", len(written.records), len(wanted))
    return within, [
        MeasuredAnswer(**{name: record[name] for name in _RECORDED} | {"id": wanted[record["id"]].id})
        for record in written.records
    ]
