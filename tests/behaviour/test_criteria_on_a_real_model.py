"""Criteria on the bundled SmolLM2-135M in float32 against plain transformers (about a minute)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from layercut.models.loading import load_model
from layercut.selection import find_criterion
from layercut.selection.base import Context
from tests.support.criteria import calibration

NAME = "bundled:smollm2-135m"
TEXTS = (
    "A shop sold 48 clips in April and half as many in May. Altogether it sold 48 + 24 = 72 clips.",
    "The tower is 324 metres tall, about the same height as an 81-storey building.",
    "Yes.",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded() -> Any:
    try:
        bundled_file(bundled_model(NAME))
    except InputError as error:
        pytest.skip(str(error))
    return load_model(NAME, dtype="float32", device="cpu")


def context(loaded: Any, **fields: Any) -> Context:
    return Context(
        num_layers=loaded.num_layers,
        num_remove=4,
        loaded=loaded,
        engine=PlainEngine(loaded, batch_size=2),
        calibration=calibration(*TEXTS),
        **fields,
    )


def test_block_influence_equals_output_hidden_states(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    body = loaded.model.model
    cosines: list[list[float]] = [[] for _ in range(loaded.num_layers)]
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setitem(body._modules, "norm", torch.nn.Identity())
        for text in TEXTS:
            ids = loaded.tokenizer(text, return_tensors="pt").input_ids
            states = [state[0].double() for state in body(ids, output_hidden_states=True).hidden_states]
            for layer, found in enumerate(cosines):
                found += cosine_similarity(states[layer], states[layer + 1]).tolist()
    selection = find_criterion("block_influence")(context(loaded))
    expected = [1 - sum(found) / len(found) for found in cosines]
    assert list(selection.importance.values()) == pytest.approx(expected, abs=1e-5)


def test_angular_distance_gives_a_plan(loaded: Any) -> None:
    removed = find_criterion("angular_distance")(context(loaded, protect=frozenset({0}))).removed
    assert len(set(removed)) == 4
    assert set(removed) <= set(range(1, 30))
