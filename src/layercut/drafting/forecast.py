"""How fast a draft would be: rounds follow exactly from an answer's tokens, seconds from measured steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import BaseModel

from layercut.pruning.speed import TimeParts
from layercut.surgery.plan import CutPlan


class WrittenAnswer(NamedTuple):
    """A greedy answer of the original model, and where a draft agrees with it."""

    id: str  # with its task
    task: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]  # with its stop token
    limit: int  # tokens that it may have at most
    agrees: Sequence[bool] = ()  # for each token: the draft's likeliest one is the same


class TriedDraft(NamedTuple):
    """A plan as a draft, with its best window on the answers that chose it."""

    plan: CutPlan
    share: float = 0.0  # of the MLP channels, that the plan was to remove
    window: int = 0
    speedup: float = 0.0  # forecast on those answers
    agrees: float = 0.0  # share of their tokens at which its likeliest token is the same

    @property
    def stays(self) -> tuple[float, float]:
        """Shares that the plan leaves, of the layers and of the MLP channels in them."""
        return len(self.plan.kept) / self.plan.num_layers, 1 - self.mlp

    @property
    def mlp(self) -> float:
        """Share of the MLP channels that the plan removes."""
        return self.plan.channels.share if self.plan.channels else 0.0


class StepTimes(BaseModel, frozen=True, extra="forbid"):
    """Measured seconds of the steps of one model and of its plans, which have layers as a share of all."""

    prompt: int  # tokens of the prompt that was read
    check: tuple[float, ...]  # of a step of the original model over 1, 2, 3 ... tokens
    step: TimeParts  # of a step over one token, by what a plan leaves
    read: TimeParts  # to read the prompt, by what a plan leaves


def find_rounds(agrees: Sequence[bool], window: int, limit: int) -> list[int]:
    """The rounds that write an answer, as transformers' assisted generation runs them: the tokens that each proposes.

    A round is a pass of the original model, which writes one token more than it accepts; the last one of ``limit``
    tokens is always its own.
    """
    rounds = []
    place, end = 0, len(agrees)
    while place < end:
        most = min(window, max(limit - place - 1, 0))
        accepted = 0
        while accepted < most and place + accepted < end and agrees[place + accepted]:
            accepted += 1
        has_ended = accepted > 0 and place + accepted == end and end < limit
        rounds.append(accepted if has_ended else most)
        place += accepted + 1
    return rounds


def forecast_seconds(answer: WrittenAnswer, draft: TriedDraft, window: int, times: StepTimes) -> tuple[float, float]:
    """Seconds of one answer without a draft and with it."""
    rounds = find_rounds(answer.agrees, window, answer.limit)
    share = len(answer.prompt) / times.prompt
    # Reading the prompt gives the first token, of the draft as well. The first round is checked in the same pass.
    read, draft_read = times.read.seconds(1), times.read.seconds(*draft.stays)
    drafted = share * (read + draft_read) + max(sum(rounds) - 1, 0) * times.step.seconds(*draft.stays)
    drafted += sum(times.check[proposed] for proposed in rounds) - times.check[rounds[0]]
    return share * read + (len(answer.agrees) - 1) * times.check[0], drafted


def best_window(answers: Sequence[WrittenAnswer], draft: TriedDraft, most: int, times: StepTimes) -> tuple[int, float]:
    """The window from 1 to ``most`` with the highest speed-up of all answers, and that; of equals the shorter one."""
    speedups = {}
    for window in range(1, most + 1):
        plain, drafted = zip(*(forecast_seconds(answer, draft, window, times) for answer in answers), strict=True)
        speedups[window] = sum(plain) / sum(drafted)
    return max(speedups.items(), key=lambda item: (item[1], -item[0]))
