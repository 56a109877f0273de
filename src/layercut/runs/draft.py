"""The format of draft.json, which ``layercut draft`` writes and its page reads: forecast and measured speed-ups."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from layercut.runs.prune import Estimated, ResultFile
from layercut.text import Removal

DRAFT, TIMES, PLAN, MODEL = "draft.json", "times.json", "plan.json", "model"
"""Files and the checkpoint of a draft's folder."""
BESIDE = "draft"  # a draft in the folder of a prune, whose page then has its answer
DraftVerdict = Literal["faster", "undecided", "slower"]
"""By the 95 % interval of the forecast speed-up: above 1, around 1, below 1."""


class _Plain(BaseModel, frozen=True, extra="forbid"):
    """Base of the parts of a result."""


class DraftTask(_Plain):
    """Answers of one task."""

    task: str
    readout: str
    n: int  # answers to report items
    tokens: int  # tokens of them
    speedup: Estimated  # forecast of the chosen plan on this task
    per_round: Estimated


class DraftPlan(_Plain, Removal):
    """One plan as a draft, on answers to report items, which the search did not see."""

    kind: str
    removed: tuple[int, ...]
    mlp: float = 0.0  # share of the MLP channels that goes
    read: float  # bytes of weights that a token passes through, as a share of the original model's
    window: int  # tokens that it proposes
    step: float  # seconds of one of its steps, as a share of the original model's
    agrees: Estimated  # share of all tokens at which its likeliest token is the answer's
    accepted: Estimated  # share of the proposed tokens that is accepted
    per_round: Estimated  # tokens written in a pass of the original model
    speedup: Estimated  # forecast
    bandwidth: Estimated  # forecast where a step takes as long as reading its weights, however many tokens it checks

    @property
    def words(self) -> str:
        """The draft, for people."""
        return f"without {self.label}"


class DraftMeasured(_Plain):
    """Answers that were written with and without the draft."""

    speedup: Estimated
    forecast: Estimated  # on the same answers
    num_same: int  # answers with the same tokens
    num_expected: int  # answers with as many passes of the original model as were forecast
    rounds: int  # passes of the original model, of all answers together
    expected_rounds: int


class DraftResult(ResultFile, frozen=True):
    """All of it."""

    FILE, VERB = DRAFT, "draft"
    model: str
    dtype: str
    serve: str
    tasks: tuple[DraftTask, ...]
    plans: tuple[DraftPlan, ...]  # the chosen one first, then the fastest of each other kind
    tried: int  # plans of the search; 0 where the plan was given
    verdict: DraftVerdict
    why: str  # the answer in a sentence
    checks: tuple[float, ...]
    """Times of a step of the original model over 1, 2, 3 ... tokens, as multiples of the first."""
    measured: DraftMeasured | None = None
    checkpoint: str | None = None
    commands: tuple[tuple[str, str], ...] = ()  # how it is served: engine, command
    times: str  # the machine of the times
    where: str
    seed: int
    command: str
    seconds: dict[str, float]

    @property
    def chosen(self) -> DraftPlan:
        """The plan of the answer."""
        return self.plans[0]

    @property
    def speedup(self) -> Estimated:
        """Measured, or forecast where nothing was."""
        return (self.measured or self.chosen).speedup
