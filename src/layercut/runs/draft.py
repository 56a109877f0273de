"""The format of draft.json: the plans of the search, and answers written with and without the chosen one."""

from __future__ import annotations

import json
from typing import Literal

from layercut.runs.prune import Estimated, ResultFile, ResultPart
from layercut.text import Removal

DRAFT, PLAN, MODEL = "draft.json", "plan.json", "model"
"""Files and the checkpoint of a draft's folder."""
DraftVerdict = Literal["faster", "undecided", "slower"]
"""By the 95 % interval of the measured speed-up: above 1, around 1, below 1."""


class DraftPlan(ResultPart, Removal):
    """One plan as a draft, on answers to selection items."""

    removed: tuple[int, ...]
    mlp: float = 0.0  # share of the MLP channels that goes
    read: float  # bytes of weights that a token passes through, as a share of the original model's
    window: int  # tokens that it proposes
    step: float  # seconds of one of its steps, as a share of the original model's
    agrees: float  # share of all tokens at which its likeliest token is the answer's
    forecast: float  # times as fast, by its tokens and the times of steps; what the search ranks plans by

    @property
    def words(self) -> str:
        """The draft, for people."""
        return f"without {self.label}"


class DraftMeasured(ResultPart):
    """Answers to report items that were written with and without the draft."""

    task: str
    tokens: int  # written with the draft
    num_same: int  # answers with the same tokens
    accepted: Estimated  # share of the proposed tokens that is accepted
    per_round: Estimated  # tokens written in a pass of the original model
    speedup: Estimated


class DraftResult(ResultFile, frozen=True):
    """All of it."""

    FILE, VERB = DRAFT, "draft"
    model: str
    dtype: str
    plans: tuple[DraftPlan, ...]  # the chosen one first, then the fastest of each other kind
    tried: int  # plans of the search; 0 where the plan was given
    checks: tuple[float, ...]
    """Times of a step of the original model over 1, 2, 3 ... tokens, as multiples of the first."""
    measured: DraftMeasured  # all answers
    tasks: tuple[DraftMeasured, ...]
    verdict: DraftVerdict
    why: str  # the answer in a sentence
    checkpoint: str | None = None
    where: str
    seed: int
    command: str
    seconds: dict[str, float]

    @property
    def chosen(self) -> DraftPlan:
        """The plan of the answer."""
        return self.plans[0]

    @property
    def commands(self) -> dict[str, str]:
        """How it is served, by engine; relative paths are from its folder."""
        window = self.chosen.window
        speculative = json.dumps({"method": "draft_model", "model": MODEL, "num_speculative_tokens": window})
        return {
            "transformers": f'view = layercut.draft_view(model, layercut.CutPlan.load("{PLAN}")); '
            f"view.generation_config.num_assistant_tokens = {window}; "
            'view.generation_config.num_assistant_tokens_schedule = "constant"; '
            "view.generation_config.assistant_confidence_threshold = 0.0; "
            "model.generate(**inputs, assistant_model=view)",
            "vllm": f"vllm serve {self.model} --speculative-config '{speculative}'",
            "llama.cpp": "llama-server -m model.gguf -md draft.gguf --spec-type draft-simple "
            f"--spec-draft-n-max {window} --spec-draft-n-min {window}",
        }
