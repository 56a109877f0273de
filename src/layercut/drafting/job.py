"""Find the plan that makes a model write faster as a draft of itself, forecast it, and measure it.

    draft(ModelHandle(settings), DraftSettings(use="math"), goal, out=Path("runs/draft"), ...)

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
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.drafting.agreement import Agreements, WrittenAnswer, name_of
from layercut.drafting.forecast import Drafted, best_window, forecast
from layercut.drafting.measure import MeasuredAnswer, measure, times_within
from layercut.drafting.outcome import outcome
from layercut.drafting.search import DraftSearch, TriedDraft, fastest_of_each
from layercut.drafting.settings import ASKED, DraftSettings
from layercut.drafting.times import StepTimes, measure_draft, measure_times
from layercut.drafting.view import draft_view
from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.progress.bars import StageProgress
from layercut.pruning.goal import GoalTasks
from layercut.pruning.profile import fitted
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable
from layercut.runs.draft import MODEL, PLAN, TIMES, DraftResult
from layercut.runs.environment import machine
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.channels import keep_most, rank_channels
from layercut.selection.search_journal import JournalPart, SearchJournal
from layercut.selection.select import objective_parts
from layercut.selection.specs import LayerSpec
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import check_plan
from layercut.surgery.slots import MlpWidth
from layercut.surgery.width import mlp_width_in

SEARCHED, FIRST, TOKENS = 1024, 256, 128
"""Tokens of each task that the search reads, and of each layer alone; and of each answer at most."""
RANKED = 16  # answers by which channels are ranked
DRAWN = 16  # answers to report items on which drawn tokens are forecast
LOOPS = 2  # answers to selection items that are written to time both models within the loops of transformers
_CRITERION, _STEP = "draft", "step"
_NUMBERS = ("items", "measured", "times", "times_only", "use", "tasks")
"""Settings that may differ when a run goes on: they ask for more, or name what is recorded elsewhere."""


class DraftDone(NamedTuple):
    """The result and its folder; no result where times alone were measured."""

    folder: Path
    result: DraftResult | None
    times: StepTimes


def draft(
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
    parts = [part for task in (goal.tasks if goal else ()) for part in objective_parts(task, seed)]
    kept = {name: value for name, value in settings.as_dict().items() if name not in _NUMBERS}
    asked = [{**part.describe(), "limit": None} for part in parts]
    wanted = {**model.describe(), "tasks": asked, **kept, "seed": seed}
    if goal and goal.note:
        say(goal.note)
    with resumable(out), RunFolder.begin(out, wanted) as run, SearchJournal(run) as journal:
        progress = StageProgress(console)
        with progress.running():
            return _Job(model, settings, parts, run, journal, progress, seed).run()


class _Job:
    """The stages of one run."""

    def __init__(
        self,
        model: ModelHandle,
        settings: DraftSettings,
        parts: Sequence[ObjectiveTask],
        run: RunFolder,
        journal: SearchJournal,
        progress: StageProgress,
        seed: int,
    ) -> None:
        self._model, self._settings, self._parts, self._folder = model, settings, parts, run.path
        self._progress, self._seed = progress, seed
        self._agreements = Agreements(model, journal, progress)
        self._seconds: dict[str, float] = {}
        self._num_tried = 0
        wanted = settings.draft
        self._other = None if wanted is None else ModelHandle(model.settings.replace(model=wanted, revision=None))
        self._reading = self._agreements if self._other is None else Agreements(self._other, journal, progress)

    def run(self) -> DraftDone:
        with self._stage("times", "timing steps by turns"):
            times = self._times()
        if self._settings.times_only:
            return DraftDone(self._folder, None, times)
        with self._stage("search", "answers of the original model"):
            times, chosen = self._chosen(times)
        with self._stage("forecast", "answers to report items"):
            answers = self._answers("report", self._settings.items)
            plans = [self._plan(one.removed, one.share, one.channels) for one in chosen]
            agrees = self._reading.of(plans, answers)
            some = answers[:: -(-len(answers) // DRAWN)]
            drawn = self._agreements.overlaps(plans[0], some) if self._other is None else []
        found: list[MeasuredAnswer] = []
        with self._stage("measure", "writing with the draft"):
            plans[0].save(self._folder / PLAN)
            checkpoint = self._checkpoint(plans[0], agrees[0], chosen[0], times)
            if self._settings.times is None and times.batch == 1:
                times, found = self._measured(times, plans[0], chosen[0], answers)
        result = outcome(
            model=self._model,
            other=self._other,
            parts=self._parts,
            times=times,
            chosen=chosen,
            plans=plans,
            answers=answers,
            agrees=agrees,
            drawn=drawn,
            written=found,
            tried=self._num_tried,
            checkpoint=checkpoint,
            seed=self._seed,
            seconds=self._seconds,
        )
        result.save(self._folder)
        return DraftDone(self._folder, result, times)

    @contextmanager
    def _stage(self, name: str, doing: str) -> Iterator[None]:
        self._progress.begin(name, doing)
        began = time.monotonic()
        yield
        self._seconds[name] = round(time.monotonic() - began, 1)
        self._progress.end(name, note="done")

    # Times

    def _times(self) -> StepTimes:
        settings, file = self._settings, self._folder / TIMES
        if settings.times is not None:
            found = StepTimes.load(settings.times)
            if found.model_hash != self._model.metadata.model_hash or len(found.check) <= settings.window:
                raise InputError(
                    f"{settings.times} holds times of {found.model} for up to {len(found.check) - 1} proposed tokens; "
                    f"measure {settings.window} of this model there with `times_only`."
                )
            return found
        if file.is_file():
            return StepTimes.load(file)
        given = "serve" in settings.model_fields_set
        profile = fitted(settings.serve, self._model.context_length, given)
        found = measure_times(
            self._model.loaded, self._timed_plans(), profile, settings.window, self._seed, self._progress
        )
        found.save(file)
        return found

    def _timed_plans(self) -> list[CutPlan]:
        """The original model, half of its layers, and half of its channels, as far as it has such plans."""
        layers = self._model.num_layers
        whole, half = CutPlan(num_layers=layers), tuple(range(layers // 4, layers // 4 + layers // 2))
        deep = [CutPlan(num_layers=layers, removed=half)] if half else []
        if self._mlp is not None:
            deep.append(replace(whole, channels=self._mlp.first_channels(self._mlp.num_kept(0.5))))
        return [whole, *(plan for plan in deep if self._fits(plan))]

    def _fits(self, plan: CutPlan) -> bool:
        try:
            check_plan(self._model.loaded.model, plan)
        except InputError:
            return False
        return True

    # Search

    @cached_property
    def _mlp(self) -> MlpWidth | None:
        try:
            return mlp_width_in(self._model.loaded.model)
        except InputError:
            return None

    def _plan(self, removed: Sequence[int], share: float, channels: Any = None) -> CutPlan:
        if self._other is not None:
            return CutPlan(num_layers=self._other.num_layers)
        if channels is None and share and self._mlp is not None:
            channels = keep_most(self._mlp, self._ranked, share)
        base = self._model.plan()
        return replace(base, removed=tuple(removed), channels=channels, criterion=_CRITERION)

    @cached_property
    def _ranked(self) -> dict[int, tuple[int, ...]]:
        """Channels of each layer, the most needed first, by answers to selection items."""
        self._progress.begin("search", "ranking channels")
        texts: dict[str, list[tuple[int, ...]]] = {}
        for part in self._parts:
            known = self._agreements.answers(part, "selection", ASKED)[:RANKED]
            texts[name_of(part)] = [(*one.prompt, *one.tokens) for one in known]
        return rank_channels(self._model.loaded, (), texts, progress=self._progress)

    def _answers(self, split: Any, limit: int) -> list[WrittenAnswer]:
        return [one for part in self._parts for one in self._agreements.answers(part, split, limit)]

    def _short(self, tokens: int) -> list[WrittenAnswer]:
        """The beginnings of the first answers of each task, until they have this many tokens."""
        found = []
        for part in self._parts:
            left = tokens
            for one in self._agreements.answers(part, "selection", ASKED):
                if left > 0:
                    found.append(one.first(TOKENS))
                    left -= len(found[-1].tokens)
        return found

    def _chosen(self, times: StepTimes) -> tuple[StepTimes, list[TriedDraft]]:
        """The plan that was named, or the fastest of each kind that the search found; the answer's first."""
        if self._other is not None:
            return self._another(self._other, times)
        if self._settings.remove is not None:
            return times, [self._given(self._settings.remove, times)]
        context = Context(num_layers=self._model.num_layers, num_remove=1)
        search = DraftSearch(
            agreements=self._agreements,
            answers=self._short(SEARCHED),
            first=self._short(FIRST),
            times=times,
            most=self._settings.window,
            candidates=context.with_first_protected().candidates,
            plan=self._plan,
            fits=self._fits,
            has_channels=self._mlp is not None,
        )
        _ = self._ranked if self._mlp is not None else None
        self._progress.begin("search", "trying plans")
        tried = search.run()
        self._num_tried = len(tried)
        return times, fastest_of_each(tried)

    def _given(self, spec: LayerSpec, times: StepTimes) -> TriedDraft:
        """The plan that was named, with its best window on selection items."""
        if spec.mlp is not None and spec.count is None:
            plan = self._plan(spec.layers or (), spec.mlp)
        else:
            name, digest = self._model.settings.model, self._model.metadata.model_hash
            plan = spec.bind(num_layers=self._model.num_layers, model=name, model_hash=digest, seed=self._seed)
        check_plan(self._model.loaded.model, plan)
        share = plan.channels.share if plan.channels else 0.0
        return TriedDraft(plan.removed, share, *self._window(plan, times, ""), plan.channels)

    def _another(self, other: ModelHandle, times: StepTimes) -> tuple[StepTimes, list[TriedDraft]]:
        """Another model, timed, with its best window."""
        name, plan = other.settings.model, CutPlan(num_layers=other.num_layers)
        sizes = [one.loaded.model.config.get_text_config(decoder=True).vocab_size for one in (self._model, other)]
        texts = [one.loaded.tokenizer.get_vocab() for one in (self._model, other)]
        if sizes[0] != sizes[1] or texts[0] != texts[1]:
            raise InputError(
                f"`draft` {name} has other tokens than {self._model.settings.model}; take one with the same."
            )
        known = self._journaled("times", plan, 0, [_STEP])
        if not known.is_complete:
            view = draft_view(other.loaded.model, plan)
            exact = measure_draft(self._model.loaded, view, plan, times, self._seed, self._progress, name)
            known.append([{"id": _STEP, "times": exact.model_dump(mode="json")}])
        times = StepTimes.model_validate(known.records[0]["times"])
        return times, [TriedDraft((), 0.0, *self._window(plan, times, name), None, name)]

    def _window(self, plan: CutPlan, times: StepTimes, name: str) -> tuple[int, float]:
        (agrees,) = self._reading.of([plan], self._short(SEARCHED))
        return best_window(agrees, times.cost(plan, name), self._settings.window, times.prompt)

    # Measured

    def _checkpoint(self, plan: CutPlan, agrees: Sequence[Drafted], one: TriedDraft, times: StepTimes) -> str | None:
        """Write the draft where it is forecast to pay; other engines take it as a model of its own."""
        if one.name:
            return one.name
        found = forecast(agrees, times.cost(plan), one.window, times.prompt, self._seed)
        target = self._folder / MODEL
        if found.speedup.value <= 1:
            return None
        if not target.exists():
            cut_model(self._model.source, plan, target, uncut=lambda: self._model.loaded)
        return MODEL

    def _measured(
        self, times: StepTimes, plan: CutPlan, one: TriedDraft, answers: Sequence[WrittenAnswer]
    ) -> tuple[StepTimes, list[MeasuredAnswer]]:
        """The times within the loops of transformers, and some answers that were written with the draft."""
        learnt = [self._agreements.answers(part, "selection", ASKED)[0] for part in self._parts][:LOOPS]
        by_task = {name: [one for one in answers if one.task == name] for name in map(name_of, self._parts)}
        turns = [one for turn in zip_longest(*by_task.values()) for one in turn if one is not None]
        wanted = {f"{one.task}.{one.id}": one for one in turns[: self._settings.measured]}
        loops = self._journaled("loops", plan, one.window, [_STEP])
        written = self._journaled("written", plan, one.window, list(wanted))
        view = None
        if not (loops.is_complete and written.is_complete):
            view = draft_view((self._other or self._model).loaded.model, plan)
        if not loops.is_complete:
            assert view is not None
            found = list(measure(self._model.loaded, view, learnt, one.window))
            within = times_within(times, plan, one, learnt, found)
            loops.append([{"id": _STEP, "times": within.model_dump(mode="json")}])
        times = StepTimes.model_validate(loops.records[0]["times"])
        done = {record["id"] for record in written.records}
        if left := {name: answer for name, answer in wanted.items() if name not in done}:
            assert view is not None
            self._progress("answers written twice", len(wanted) - len(left), len(wanted))
            more = measure(self._model.loaded, view, list(left.values()), one.window)
            for name, took in zip(left, more, strict=True):
                written.append([{**took.answer._asdict(), "id": name}])
                self._progress("answers written twice", len(written.records), len(wanted))
        known = [{**record, "id": wanted[record["id"]].id} for record in written.records]
        return times, [MeasuredAnswer(**{name: each[name] for name in MeasuredAnswer._fields}) for each in known]

    def _journaled(self, name: str, plan: CutPlan, window: int, ids: Sequence[str]) -> JournalPart:
        """Times of this machine."""
        return self._reading.part(name, f"window-{window}", plan, ids, machine())
