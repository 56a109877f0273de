"""Times of a step: of the original model over several tokens at once, and of a draft, by what its plan leaves.

A step of the original model that checks a proposal reads the weights once for all its tokens; how much longer it takes
than a step of one token decides whether a draft pays. Steps of drafts are measured at a few plans, and those of other
plans follow from them: time goes with the layers and MLP channels that stay.
"""

# Shapes: B batch, T tokens.

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import BaseModel, ValidationError

from layercut.engine.timing import cache_name, now, random_ids
from layercut.errors import InputError
from layercut.pruning.profile import Profile
from layercut.pruning.speed import TimeParts
from layercut.runs.atomic import write_json
from layercut.runs.environment import machine
from layercut.runs.json_text import load
from layercut.surgery.remove import bypass

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.models.loading import LoadedModel
    from layercut.progress import Progress
    from layercut.surgery.plan import CutPlan

NUM_ROUNDS = 5  # timed rounds; one more before them warms caches up
FORMAT_VERSION = 1


class StepCost(NamedTuple):
    """Seconds, or bytes read, of the steps that an answer takes with one draft."""

    check: Sequence[float]  # of the original model over 1, 2, 3 ... tokens.
    draft: float  # of the draft over one token
    read: float = 0.0  # to read the prompt, without a draft
    draft_read: float = 0.0  # seconds that the draft adds to that
    per_token: float = 0.0
    per_round: float = 0.0


class DraftSteps(BaseModel, frozen=True, extra="forbid"):
    """Seconds of a model by what a plan leaves of it."""

    layers: float  # share of the layers that stay
    channels: float  # share of the MLP channels that stay in them
    step: float  # seconds of a step of one token for each request of the batch
    read: float  # seconds to read the prompts of the batch
    name: str = ""  # of another model

    @property
    def key(self) -> tuple[float, float, str]:
        """Identity of the timed model."""
        return self.layers, self.channels, self.name


class StepTimes(BaseModel, frozen=True, extra="forbid"):
    """Measured times of one model on one machine, in seconds; they may be of another machine than this one."""

    format_version: int = FORMAT_VERSION
    model: str
    model_hash: str
    dtype: str
    where: str
    batch: int
    prompt: int  # tokens that each request reads
    middle: int  # tokens in front of a timed step
    check: tuple[float, ...]  # of a step of the original model over 1, 2, 3 ... tokens of each request.
    drafts: tuple[DraftSteps, ...]  # the original model first
    per_token: float = 0.0  # seconds that the loop of plain decoding adds to a step
    per_round: float = 0.0  # seconds that the loop of assisted decoding adds to a round

    def cost(self, plan: CutPlan, name: str = "") -> StepCost:
        """Of a plan as a draft: as measured, or from the measured ones, as a part that is always there, one of each
        layer and one of each channel; ``name`` is that of another model.
        """
        found = DraftSteps(**shares_of(plan), step=0, read=0, name=name)
        timed = [one for one in self.drafts if one.key == found.key]
        if timed:
            found = timed[-1]
        else:
            plans = [one for one in self.drafts if not one.name]
            stay = [(one.layers, one.channels) for one in plans]
            parts = {what: TimeParts.fitted(stay, [getattr(one, what) for one in plans]) for what in ("step", "read")}
            times = {what: one.seconds(found.layers, found.channels) for what, one in parts.items()}
            found = found.model_copy(update=times)
        return StepCost(self.check, found.step, self.drafts[0].read, found.read, self.per_token, self.per_round)

    def save(self, file: Path) -> None:
        """Write it, for this machine or another one."""
        write_json(file, self.model_dump(mode="json"))

    @classmethod
    def load(cls, file: Path) -> StepTimes:
        """Read it. Raises InputError: no such file, or another one."""
        try:
            return cls.model_validate(load(file))
        except (ValidationError, OSError) as error:
            raise InputError(f"{file} holds no times of `layercut draft`; write them with `times_only`.") from error


def measure_times(
    loaded: LoadedModel, plans: Sequence[CutPlan], profile: Profile, window: int, seed: int, progress: Progress
) -> StepTimes:
    """Time checks of 1 to ``window + 1`` tokens and steps of the plans, by turns; medians over rounds.

    Args:
        plans: the original model first.

    Raises:
        InputError: a model whose key-value cache cannot be shortened, so that nothing can be taken back.
    """
    whole = Stepper(loaded.model, profile, seed)
    steppers = [whole, *(Stepper(loaded.model, profile, seed, plan) for plan in plans[1:])]
    pieces = [(whole, tokens) for tokens in range(1, window + 2)] + [(one, 1) for one in steppers[1:]]
    medians = _by_turns(pieces, progress)
    steps = [medians[0], *medians[window + 1 :]]
    return StepTimes(
        model=loaded.name,
        model_hash=loaded.model_hash,
        dtype=loaded.dtype,
        where=machine(),
        batch=profile.batch,
        prompt=profile.prompt,
        middle=profile.middle,
        check=tuple(medians[: window + 1]),
        drafts=tuple(
            DraftSteps(**shares_of(plan), step=step, read=one.read)
            for plan, step, one in zip(plans, steps, steppers, strict=True)
        ),
    )


def shares_of(plan: CutPlan) -> dict[str, Any]:
    """Shares that a plan leaves: of the layers, and of the MLP channels in them."""
    return {
        "layers": len(plan.kept) / plan.num_layers,
        "channels": 1 - (plan.channels.share if plan.channels else 0.0),
    }


def measure_draft(
    loaded: LoadedModel,
    view: PreTrainedModel,
    plan: CutPlan,
    times: StepTimes,
    seed: int,
    progress: Progress,
    name: str = "",
) -> StepTimes:
    """The times with those of one draft, timed by turns with the original model and scaled to its step in them."""
    profile = Profile(times.batch, times.prompt, 2 * (times.middle - times.prompt))
    whole, draft = (Stepper(model, profile, seed) for model in (loaded.model, view))
    step, own = _by_turns([(whole, 1), (draft, 1)], progress)
    scale = times.check[0] / step
    read = draft.read * times.drafts[0].read / whole.read
    found = DraftSteps(**shares_of(plan), step=own * scale, read=read, name=name)
    return times.model_copy(update={"drafts": (*times.drafts, found)})


def _by_turns(pieces: Sequence[tuple[Stepper, int]], progress: Progress) -> list[float]:
    """Median seconds of steps over some tokens, in rounds whose order changes."""
    seconds: list[list[float]] = [[] for _ in pieces]
    for number in range(NUM_ROUNDS + 1):
        progress("rounds timed", number, NUM_ROUNDS + 1)
        for place in range(len(pieces)):
            turned = (place + number) % len(pieces)
            stepper, tokens = pieces[turned]
            found = stepper.step(tokens)
            seconds[turned] += [found] if number else []
    return [statistics.median(one) for one in seconds]


class Stepper:
    """One model behind a text of random tokens, where a plan is given under it."""

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, profile: Profile, seed: int, plan: CutPlan | None = None) -> None:
        self._model, self._plan = model, plan
        self._ids_BT = random_ids(model, profile.batch, profile.middle + 64, seed)
        self._middle, self._keyword = profile.middle, cache_name(model)
        with self._under():
            self._forward(self._ids_BT[:, :8])
            self.read = min(self._timed(self._ids_BT[:, : profile.prompt]) for _ in range(2))
            self._cache = getattr(self._forward(self._ids_BT[:, : profile.middle]), self._keyword)
        self._cache.activate_past_recording()
        if not getattr(self._cache, "is_croppable", True):
            raise InputError(
                f"the key-value cache of {type(model).__name__} cannot be shortened, as it must be where a proposal is "
                "refused, so it takes no draft."
            )

    def _under(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._plan is None else bypass(self._model, self._plan)

    @torch.no_grad()
    def step(self, tokens: int) -> float:
        """Seconds of a step over some tokens of each request."""
        ids_BT = self._ids_BT[:, self._middle : self._middle + tokens]
        with self._under():
            took = self._timed(ids_BT, keep=tokens, **{self._keyword: self._cache})
        self._cache.crop(-tokens)
        return took

    def _timed(self, ids_BT: torch.Tensor, **more: Any) -> float:
        began = now(self._model)
        self._forward(ids_BT, **more)
        return now(self._model) - began

    def _forward(self, ids_BT: torch.Tensor, keep: int = 1, **more: Any) -> Any:
        return self._model(input_ids=ids_BT, use_cache=True, logits_to_keep=keep, **more)
