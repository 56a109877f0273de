"""The path of plans of one run, depth by depth: the next layer, healed where that may pay, all on selection items."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.prompt_sources import PromptSource
from layercut.progress.cost import clock
from layercut.pruning.budget import CONFIRM
from layercut.pruning.confirm import gone_of
from layercut.pruning.context import PruneContext
from layercut.pruning.healing import TRAINING_ITEMS, DepthHealer, healing_prompts, training_prompts
from layercut.pruning.original import OriginalModel
from layercut.pruning.path import SizePath
from layercut.pruning.settings import AUTO, BOTH, LAYER, NONE, SEAM, TRAINED
from layercut.pruning.speed import RequestTimes, measure_request_times
from layercut.pruning.versus import timer_of
from layercut.runs.prune import SECONDS, SHARED, PathStep, TaskKept, Tried, least_kept, stage_of
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_in

PLANS = "plans"  # folder of the plans of a path of sizes
_SMALL = 1_000_000_000  # parameters up to which the original model stays in memory while another is healed
_REASONABLE = 0.5
"""A plan without layers that keeps less than this share of what is asked for is not healed by ``auto``: maps bring back
little. With thinner MLPs the closed form brought back 45 points of 50 (SmolLM2, docs/experiments/width.md).
"""


_OF_SEAM = 2.0
"""Times as long as the closed form took for a text, a training takes for an example: four forward passes' worth (one
forward, two backward, one of the original model) for three, and half as much again for held-out examples."""
_OF_ANSWER = 4.0
"""The same by the time of an answer, where no closed form ran: an answer takes longer than one pass over it."""


class PathSearch:
    """Builds the path; what was decided stands in the state."""

    def __init__(self, context: PruneContext, original: OriginalModel) -> None:
        self._context, self._original = context, original
        self._model, self._settings, self._state = context.model, context.settings, context.state
        self._progress, self._say = context.progress, context.say

    @property
    def steps(self) -> list[PathStep]:
        """The depths so far."""
        return [PathStep.model_validate(one) for one in self._state.get("path", [])]

    @property
    def tested_steps(self) -> list[PathStep]:
        """The steps to test on report items, in order: all depths, or the last where it was asked for; of sizes those
        that keep the goal on selection items, or else the least.
        """
        steps = self.steps
        if self._settings.remove is not None:
            return steps[-1:]
        if self._context.units == LAYER:
            return steps
        return [step for step in steps if _least(step.chosen.kept) >= self._settings.keep] or steps[:1]

    def plan(self, step: PathStep) -> CutPlan:
        """The plan of a step; its channels are those of the file that was written with it."""
        channels = CutPlan.load(self._file(step)).channels if step.mlp else None
        return self._original.path.plan(step.removed, self._model.plan(), channels)

    def _file(self, step: PathStep) -> Path:
        return self._context.folder / PLANS / f"{step.name}.json"

    def run(self) -> None:
        """One depth after the other, until nothing is left to be shown or the time is used."""
        state, keep = self._state, self._settings.keep
        for step in self.steps:
            self._show(step)
        while "path_ended" not in state:
            steps = self.steps
            why = self._ended(steps, keep)
            if why:
                state.put("path_ended", why)
                break
            step = self._next(steps)
            path, plan = self._original.path, self.plan(step)
            tried = [Tried(kept=path.kept(plan, self._context.seed))]
            tried += self._healed(step, tried[0].kept)
            step = step.model_copy(update={"tried": tuple(tried), "healing": _choose_way(step, tried).healing})
            self._learn_pace()
            steps = sorted([*steps, step], key=lambda step: (step.size or 0, step.depth))
            state.put("path", [step.model_dump(mode="json") for step in steps])
            self._show(step)
        self._train()

    def _next(self, steps: Sequence[PathStep]) -> PathStep:
        """The next plan, not judged yet; the channels of its MLPs are on disk when it is there."""
        if self._context.units == LAYER:
            removed = steps[-1].removed if steps else ()
            self._progress.begin(f"depth {len(removed) + 1}", "choosing the next layer")
            found = self._original.path.next_layer(removed)
            layers = (*removed, found.layer)
            return PathStep(depth=len(layers), removed=layers, candidates=found.num_candidates, tried=())
        place = self._next_size(steps)
        assert place is not None, "the path has not ended"
        sizes, size_path, unit = self._context.sizes, self._size_path, self._context.unit
        before = [step for step in steps if step.size is not None and step.size < sizes[place]]
        removed, start = (before[-1].removed, sizes.index(before[-1].size) + 1) if before else ((), 0)
        self._progress.begin(stage_of(sizes[place], unit), "choosing layers and MLP channels")
        for size in sizes[start : place + 1]:  # each plan removes the layers of the one before
            sized = size_path.next_plan(self._original.path, removed, size)
            removed = sized.plan.removed
        step = PathStep(size=sizes[place], unit=unit, candidates=sized.num_candidates, tried=(), **gone_of(sized.plan))
        self._file(step).parent.mkdir(exist_ok=True)
        sized.plan.save(self._file(step))
        return step

    def _next_size(self, steps: Sequence[PathStep]) -> int | None:
        """Place of the size to try next, by halving: a plan that keeps the goal on selection items is followed by a
        smaller one, another by a larger one. Where two neighbours enclose the goal, half the least size that keeps it
        comes last, so that the test on report items begins with a plan that is safer. None where nothing is left.
        """
        sizes, keep = self._context.sizes, self._settings.keep
        if self._settings.one_size:
            return None if steps else len(sizes) - 1
        fine = [sizes.index(step.size) for step in steps if step.size and _least(step.chosen.kept) >= keep]
        others = [sizes.index(step.size) for step in steps if step.size and _least(step.chosen.kept) < keep]
        largest, least = max(fine, default=-1), min(others, default=len(sizes))
        if least - largest > 1:
            return (largest + least) // 2
        first = min(fine, default=0)
        return first // 2 if first > 1 and least > first else None

    @cached_property
    def _size_path(self) -> SizePath:
        """One for all sizes: channels are ranked once for the same removed layers."""
        times = self._request_times() if self._context.unit == SECONDS else None
        return SizePath(self._model, layers=self._context.units == BOTH, times=times)

    def _request_times(self) -> RequestTimes:
        """Measured once."""
        if "request_times" not in self._state:
            self._progress.begin("speed", "timing a request by layers and channels")
            model, context = self._model, self._context
            mlp, timer = mlp_width_in(model.loaded.model), partial(timer_of, model, profile=context.profile)
            found = measure_request_times(timer, model.num_layers, mlp, context.profile, context.seed, self._progress)
            self._state.put("request_times", found.model_dump())
        return RequestTimes.model_validate(self._state["request_times"])

    def _show(self, step: PathStep) -> None:
        least = least_kept(step.chosen.kept)
        healed = f", healed by {step.healing}" if step.healing else ""
        self._progress.end(
            step.stage,
            note=f"without {step.label}{healed}",
            chosen="n/a" if least is None else f"{least.value:.0%}",
        )

    def _ended(self, steps: Sequence[PathStep], keep: float) -> str:
        """Why the path goes no deeper; empty where it does."""
        if self._context.units != LAYER:
            sizes, unit = self._context.sizes, self._context.unit
            if steps and self._out_of_time:
                return "the rest of the time is for report items"
            if self._next_size(steps) is not None:
                return ""
            if self._settings.one_size or _least(steps[-1].chosen.kept) >= keep:
                return f"{sizes[-1]:.0%} of {SHARED[unit]} is the most that was asked for"
            more = next(step for step in steps if _least(step.chosen.kept) < keep)
            return f"{more.stage} keeps {_least(more.chosen.kept):.0%} on selection items"
        if len(steps) >= self._context.max_depth:
            return f"{self._context.max_depth} layers are the most that were asked for"
        if self._settings.remove is not None:
            return ""
        chosen = [step.chosen.kept for step in steps]
        for kept in chosen[-1:]:
            for one in kept:
                if one.kept is not None and one.kept.high is not None and one.kept.high < keep:
                    what = f"{steps[-1].depth} layers" if steps[-1].size is None else f"without {steps[-1].label} they"
                    return f"{what} keep at most {one.kept.high:.0%} of {one.task} on selection items"
        if len(chosen) > 1 and all(_least(kept) < keep for kept in chosen[-2:]):
            return f"the last two plans keep less than {keep:.0%} on selection items"
        return "the rest of the time is for report items" if steps and self._out_of_time else ""

    @property
    def _out_of_time(self) -> bool:
        seconds = self._settings.seconds
        return seconds is not None and sum(self._state.seconds.values()) > (1 - CONFIRM) * seconds

    def _healed(self, step: PathStep, plain: tuple[TaskKept, ...]) -> list[Tried]:
        """The plan healed, where that may pay."""
        method, keep = self._settings.heal, self._settings.keep
        if method == AUTO:
            pays = _least(plain) != 1 if step.size is not None else _REASONABLE * keep <= _least(plain) < 1
            return [self._heal(step, SEAM)] if pays and self._takes_seams else []
        return [] if method == NONE else [self._heal(step, method)]

    def _parts(self, method: str) -> list[str]:
        """The healings of a plan, one after the other, whose last one gives the model."""
        return [SEAM, TRAINED] if method == TRAINED else [method]

    @property
    def _trained_by(self) -> str:
        """The training method of ``auto``."""
        return TRAINED if self._takes_seams else "lora"

    @cached_property
    def _takes_seams(self) -> bool:
        """True if plans are healed by seams, where one folds into models of this family; says why not."""
        try:
            return bool(self.healer.seam)
        except InputError as error:
            self._say(f"not healed by a seam: {error}")
            return False

    def _heal(self, step: PathStep, method: str) -> Tried:
        """Heal the plan in one way, and judge it on selection items."""
        plan = self.plan(step)
        self._progress.begin(step.stage, f"healing by {method}")
        began = time.monotonic()
        number = self._state.get("training_items", TRAINING_ITEMS[0])
        sources = {name: self._prompts(name, number) for name in self._parts(method)}
        if self._model.num_parameters(self._model.plan()) > _SMALL:
            if SEAM in sources:
                _ = self.healer.seam  # measured while the original model is in memory
            self._original.release()
        for name, source in sources.items():
            checkpoint = self.healer.heal(plan, name, source)
        self.healer.forget(plan)
        seconds = time.monotonic() - began
        self._progress.begin(step.stage, f"scoring the model healed by {method}")
        healed = self.handle_of(checkpoint)
        kept = self._original.path.kept_healed(healed.engine, self._context.seed)
        healed.release()
        return Tried(healing=method, kept=kept, seconds=round(seconds, 1))

    def _prompts(self, method: str, training_items: int) -> PromptSource:
        path, model_hash = self._original.path, self._model.metadata.model_hash
        if method == SEAM:
            return healing_prompts(path, model_hash)
        return training_prompts(path, training_items, model_hash)

    def _learn_pace(self) -> None:
        """Record the seconds that the last plan took for an item; the number of report items follows from them."""
        if self._original.path.pace is not None:
            self._state.put("pace", self._original.path.pace)

    def _train(self) -> None:
        """Train the first depth that is at risk, where the time that is left for it suffices.

        Not on a path of sizes: after the closed form of thinner MLPs, short trainings gained nothing on report items
        (docs/experiments/width.md), and the time buys items.
        """
        state, keep, seconds = self._state, self._settings.keep, self._settings.seconds
        if self._settings.heal != AUTO or seconds is None or self._context.units != LAYER:
            return
        steps = self.steps
        if "trained" not in state:
            weak = next((one for one in steps if _least(one.chosen.kept) < (1 + keep) / 2), None)
            number = None if weak is None else self._training_items(weak, seconds)
            if number is not None:
                state.put("training_items", number)
            state.put("trained", None if weak is None or number is None else weak.name)
        place = next((place for place, one in enumerate(steps) if one.name == state["trained"]), None)
        if place is None or any(one.healing == self._trained_by for one in steps[place].tried):
            return
        tried = (*steps[place].tried, self._heal(steps[place], self._trained_by))
        self._learn_pace()
        steps[place] = steps[place].model_copy(update={"tried": tried, "healing": _best(tried).healing})
        state.put("path", [one.model_dump(mode="json") for one in steps])
        self._show(steps[place])

    def _training_items(self, step: PathStep, seconds: float) -> int | None:
        """Items of each task for a training that fits into the time that report items do not need: by the seconds
        that answers and the closed form took. None where no training fits.
        """
        if find_spec("trl") is None or find_spec("peft") is None or "pace" not in self._state:
            return None
        done = {one.healing for one in step.tried}
        plan, most = self.plan(step), 0.0
        pace = self._state["pace"]
        of_example = _OF_ANSWER * pace
        took = next((one.seconds for one in step.tried if one.healing == SEAM), 0.0)
        if took:
            read = self._prompts(SEAM, 0)
            of_example = _OF_SEAM * took / max(len(read.records or read.prompts), 1)
        left = (1 - CONFIRM) * seconds - sum(self._state.seconds.values())
        parts = [name for name in self._parts(self._trained_by) if name not in done]
        for number in TRAINING_ITEMS:
            try:
                sources = {name: self._prompts(name, number) for name in parts}
            except InputError:
                return None
            most = sum(
                pace * max(0, len(source.prompts) - len(source.known))
                + of_example * self.healer.trained_examples(plan, name, source)
                for name, source in sources.items()
                if name != SEAM
            )
            if most <= left:
                return number
        self._say(f"healing by training may take {clock(most)}, and {clock(max(left, 0))} is left for it: left out")
        return None

    @cached_property
    def healer(self) -> DepthHealer:
        return DepthHealer(self._context)

    def handle_of(self, checkpoint: Path) -> ModelHandle:
        """A healed checkpoint, loaded as the original model is."""
        return ModelHandle(self._model.settings.replace(model=str(checkpoint), revision=None))


def _choose_way(step: PathStep, tried: Sequence[Tried]) -> Tried:
    """The best way on selection items; of a plan with a size the closed form, unless it keeps less than the interval of
    the plan itself allows.

    A hundred items order ways by luck: SmolLM2 at -15 % kept 103 [81, 130] % of sums unhealed, and 82 [69, 96] % of the
    report items.
    """
    closed = next((way for way in tried if way.healing == SEAM), None)
    if step.size is None or closed is None or len(tried) > 2:
        return _best(tried)
    lows = [one.kept.low for one in tried[0].kept if one.kept is not None and one.kept.low is not None]
    return closed if _least(closed.kept) >= min(lows, default=float("-inf")) else tried[0]


def _best(tried: Sequence[Tried]) -> Tried:
    """The one whose worst task keeps most; of equals the one that is not healed."""
    return max(tried, key=lambda one: (_least(one.kept), _mean(one.kept), one.healing is None))


def _least(kept: Sequence[TaskKept]) -> float:
    found = least_kept(tuple(kept))
    return float("-inf") if found is None else found.value


def _mean(kept: Sequence[TaskKept]) -> float:
    known = [one.kept.value for one in kept if one.kept is not None]
    return sum(known) / len(known) if known else float("-inf")
