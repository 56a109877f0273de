"""Greedy search by bypassing layers = every plan built by hand from a fresh model, judged and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from layercut.selection.base import Context, Objective
from layercut.selection.greedy import remove_greedily
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, remove_layers
from tests.support.tiny import NUM_LAYERS, tiny_model

TEXT = b"Nothing is as practical as a good theory, unless it is a good table of what was measured."


@torch.no_grad()
def mean_log_likelihood(model: Any) -> float:
    ids_BT = torch.tensor([list(TEXT)])
    logits_BTV = model(ids_BT, use_cache=False).logits.double()
    log_p_T = logits_BTV.log_softmax(-1)[0, :-1].gather(-1, ids_BT[0, 1:, None])
    return float(log_p_T.mean())


class LogLikelihood(Objective):
    """The objective that perplexity is: higher is better, one model, layers skipped in place."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def describe(self) -> Mapping[str, Any]:
        return {"objective": "log-likelihood"}

    def values(self, plans: Sequence[CutPlan]) -> list[float]:
        values = []
        for plan in plans:
            with bypass(self.model, plan):
                values.append(mean_log_likelihood(self.model))
        return values


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma2"])
def test_equals_brute_force_over_models_that_were_really_cut(model_type):
    removed: list[int] = []
    values: list[list[float]] = []
    for _ in range(3):
        candidates = [layer for layer in range(NUM_LAYERS) if layer not in removed]
        plans = [CutPlan(num_layers=NUM_LAYERS, removed=(*removed, layer)) for layer in candidates]
        values.append([mean_log_likelihood(remove_layers(tiny_model(model_type), plan)) for plan in plans])
        removed.append(candidates[max(range(len(candidates)), key=lambda place: values[-1][place])])

    selection = remove_greedily(Context(num_layers=NUM_LAYERS, num_remove=3), LogLikelihood(tiny_model(model_type)))
    assert list(selection.removed) == removed
    for found, expected in zip(selection.details["rounds"], values, strict=True):
        assert found["values"] == pytest.approx(expected, abs=1e-6)
