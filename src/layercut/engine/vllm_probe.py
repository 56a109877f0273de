"""Check that vLLM computes what transformers computes, with all layers and without one: the model itself is asked.

The reference is computed before vLLM starts, because vLLM changes classes of transformers in this process, and because
two copies of a model need not fit on one device: it runs on the CPU.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from layercut.engine.base import Engine, LikelihoodRequest, Likelihoods
from layercut.engine.plain import PlainEngine
from layercut.errors import one_line
from layercut.models.loading import load_model
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.models.loading import WeightlessModel

TEXTS = (
    "The quick brown fox jumps over the lazy dog. 12 + 30 = 42, and 7 times 6 is the same. " * 3,
    "def add(a, b):\n    return a + b\n\n\nprint(add(2, 3))\n",
)
"""The first is longer than the prefix cache's blocks on a CPU."""
CONTINUATIONS = (" the", "\n", " x")
TOLERANCE = {"float32": 0.02, "bfloat16": 0.5, "float16": 0.1}
"""Tolerance of a continuation's log-likelihood, in nats: both engines round in their own order."""


class ExpectedScores(NamedTuple):
    """Scores of transformers under some plans."""

    plans: tuple[CutPlan, ...]
    scores: tuple[Mapping[str, Likelihoods], ...]


def requests() -> list[LikelihoodRequest]:
    """Both texts, each with the continuations that are scored."""
    return [LikelihoodRequest(id=str(at), prompt=text, continuations=CONTINUATIONS) for at, text in enumerate(TEXTS)]


def reference(model: WeightlessModel) -> ExpectedScores:
    """Scores of the texts by transformers, on the CPU, with all layers and without the one in the middle.

    Raises:
        InputError: transformers cannot load the model.
    """
    middle = model.num_layers // 2
    plans = tuple(CutPlan(num_layers=model.num_layers, removed=removed) for removed in ((), (middle,)))
    loaded = load_model(model.source, dtype=model.dtype, device="cpu", trust_remote_code=model.trust_remote_code)
    engine = PlainEngine(loaded, batch_size=1)
    scores = tuple(_scores(engine, plan) for plan in plans)
    del engine, loaded
    gc.collect()
    return ExpectedScores(plans, scores)


def difference(expected: ExpectedScores, engine: Engine, dtype: str) -> str:
    """Differences of an engine from transformers, in words; empty if they agree."""
    for plan, wanted in zip(expected.plans, expected.scores, strict=True):
        under = "with all layers" if plan.is_uncut else f"without layer {plan.removed[0]}"
        try:
            scores = _scores(engine, plan)
        except Exception as error:  # vLLM's own code, called in a way that it may not know
            return f"{under} it fails ({one_line(error)})"
        worst = max(
            abs(ours - theirs)
            for name, one in wanted.items()
            for ours, theirs in zip(scores[name].log_likelihoods, one.log_likelihoods, strict=True)
        )
        if not worst <= TOLERANCE[dtype]:  # so written, it also catches NaN
            return f"{under} its log-likelihoods differ from those of transformers by {worst:.2g} nats"
    return ""


def _scores(engine: Engine, plan: CutPlan) -> dict[str, Likelihoods]:
    return {scores.id: scores for _, batch in engine.ask(requests(), [plan]) for scores in batch}
