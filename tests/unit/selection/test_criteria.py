from __future__ import annotations

import json
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from layercut.engine.base import HiddenStates
from layercut.errors import InputError
from layercut.selection.base import Context
from layercut.selection.criteria import angular_distance, block_influence
from layercut.surgery.plan import CutPlan
from tests.support.criteria import TEXTS, calibration, made_up, make_identity, measured_on, turning
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS

FINAL_NORM = {"gpt_neox": "final_layer_norm", "gpt2": "ln_f"}


def states_of(loaded: Any, text: str) -> list[np.ndarray]:
    """L + 1 states (T, D) of one text alone, by transformers' output_hidden_states, the last one without the norm."""
    body = loaded.model.base_model
    name = FINAL_NORM.get(loaded.model.config.model_type, "norm")
    norm = getattr(body, name)
    setattr(body, name, torch.nn.Identity())
    try:
        with torch.no_grad():
            ids = loaded.tokenizer(text, return_tensors="pt").input_ids
            states = body(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    finally:
        setattr(body, name, norm)
    return [state[0].double().numpy() for state in states]


def cosines(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return (before * after).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(after, axis=-1)


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_equals_output_hidden_states_of_one_text_at_a_time(model_type):
    loaded = tiny_loaded(model_type)
    by_text = [states_of(loaded, text) for text in TEXTS]
    turns = [np.concatenate([cosines(states[at], states[at + 1]) for states in by_text]) for at in range(NUM_LAYERS)]
    expected = [1 - np.mean(turn) for turn in turns]
    selection = block_influence(measured_on(loaded))
    assert list(selection.importance) == list(range(NUM_LAYERS))
    assert list(selection.importance.values()) == pytest.approx(expected, abs=1e-5)
    assert selection.removed == tuple(np.argsort(expected)[:2])
    assert selection.details == {"num_texts": len(TEXTS), "num_tokens": sum(map(len, TEXTS))}

    def angle(first: int) -> float:
        """Of the last token, over three layers."""
        cosine = [cosines(states[first], states[first + 3])[-1] for states in by_text]
        return float(np.mean(np.arccos(cosine) / np.pi))

    angles = [angle(first) for first in range(NUM_LAYERS - 2)]
    selection = angular_distance(measured_on(loaded, num_remove=3))
    blocks = selection.details["blocks"]
    assert [block["first"] for block in blocks] == [0, 1, 2, 3]
    assert [block["value"] for block in blocks] == pytest.approx(angles, abs=1e-5)
    first = int(np.argmin(angles))
    assert selection.removed == (first + 2, first + 1, first)
    assert selection.details["num_tokens"] == len(TEXTS)
    json.dumps(selection.details, allow_nan=False)


@pytest.mark.parametrize("criterion", [block_influence, angular_distance])
def test_batches_and_order_of_the_texts_change_nothing(criterion):
    loaded = tiny_loaded("qwen3")
    alone = criterion(measured_on(loaded, batch_size=1))
    together = criterion(measured_on(loaded, TEXTS[::-1], batch_size=8))
    assert together.removed == alone.removed
    for layer, value in alone.importance.items():
        assert together.importance[layer] == pytest.approx(value, abs=1e-6)
    for block, other in zip(alone.details.get("blocks", []), together.details.get("blocks", []), strict=True):
        assert other["value"] == pytest.approx(block["value"], abs=1e-6)


def test_padding_on_either_side_takes_no_part():
    states = turning([[10.0, 20.0, 30.0], [40.0, 0.0, 60.0]])
    noise = torch.full((1, 3, 2), 7.0)
    wild = [noise * torch.tensor([1.0, (-1.0) ** index]) for index in range(4)]

    def padded(side: str) -> HiddenStates:
        rows = [(state, pad) if side == "right" else (pad, state) for state, pad in zip(states, wild, strict=True)]
        mask = [1, 1, 0, 0, 0] if side == "right" else [0, 0, 0, 1, 1]
        return HiddenStates((0,), torch.tensor([mask]), tuple(torch.cat(row, dim=1) for row in rows))

    for side in ("left", "right"):
        context = made_up(3, lambda *_, side=side: iter([padded(side)]), 1, num_remove=1)
        selection = block_influence(context)
        tokens = [[10, 20, 30], [40, 0, 60]]
        expected = [1 - np.mean([math.cos(math.radians(turns[layer])) for turns in tokens]) for layer in range(3)]
        assert list(selection.importance.values()) == pytest.approx(expected, abs=1e-6)
        assert selection.details["num_tokens"] == 2
        last = angular_distance(context)
        values = [block["value"] for block in last.details["blocks"]]
        assert values == pytest.approx([40 / 180, 0, 60 / 180], abs=1e-3) and last.details["num_tokens"] == 1


def test_no_batch_is_kept_while_the_next_one_is_made():
    seen: list[weakref.ref[torch.Tensor]] = []
    plans: list[CutPlan] = []

    def batch(index: int) -> HiddenStates:
        states = turning([[float(index % 7), 5.0, 45.0]])
        seen.extend(weakref.ref(state) for state in states)
        return HiddenStates((index,), torch.ones(1, 1), states)

    def lazily(texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        plans.append(plan)
        for index in range(len(texts)):
            assert all(state() is None for state in seen), f"{index} batches in, an old one is still there"
            seen.clear()
            yield batch(index)

    recorded: list[tuple[str, int, int]] = []
    context = made_up(3, lazily, 70, num_remove=1, progress=lambda *progress: recorded.append(progress))
    selection = block_influence(context)
    mean = np.mean([math.cos(math.radians(turn)) for turn in range(7)])
    assert selection.importance[0] == pytest.approx(1 - mean, abs=1e-6)
    assert [plan.is_uncut for plan in plans] == [True]
    assert recorded[0] == ("block_influence", 1, 70)
    assert recorded[-1] == ("block_influence", 70, 70)


def test_of_layers_that_change_nothing_the_later_goes_first_and_protected_ones_stay():
    loaded = tiny_loaded("llama")
    for layer in (0, 1, 3, 4):
        make_identity(loaded.model.model.layers[layer])
    selection = block_influence(measured_on(loaded, num_remove=3, protect=frozenset({0})))
    assert selection.removed == (4, 3, 1) and 0 not in selection.importance
    assert selection.importance[3] == pytest.approx(0, abs=1e-12)


def test_what_cannot_be_measured_is_refused():
    full = measured_on(tiny_loaded("llama"))
    infinite = [state * scale for state, scale in zip(turning([[20.0, 80.0]]), (1, float("inf"), 1), strict=True)]
    overflow = lambda *_: iter([HiddenStates((0,), torch.ones(1, 1), tuple(infinite))])  # noqa: E731
    one, whole = {"num_layers": 4, "num_remove": 1}, {"num_layers": NUM_LAYERS, "num_remove": 1, "engine": full.engine}
    for criterion, context, message in (
        (block_influence, Context(**one, settings={"token": "all"}), "has no settings, but 'token' was given"),
        (block_influence, Context(**one), "use layercut select"),
        (block_influence, Context(**whole), "no text"),
        (block_influence, Context(**whole, calibration=calibration()), "no text"),
        (block_influence, made_up(4, lambda texts, plan: iter(()), 1, num_remove=1), "no token"),
        (block_influence, made_up(2, overflow, 1, num_remove=1), "around layer 0"),
        (angular_distance, Context(**one), "no engine"),
        (angular_distance, Context(**one, settings={"norm": "l1"}), "no settings, but 'norm'"),
        (angular_distance, Context(num_layers=4, num_remove=3, protect=frozenset({1})), "no 3 layers"),
    ):
        with pytest.raises(InputError, match=message):
            criterion(context)


def angles_of(context: Context) -> list[float]:
    return [block["value"] for block in angular_distance(context).details["blocks"]]


def test_no_distance_is_exactly_zero_or_not_a_number_when_nothing_turns():
    loaded = tiny_loaded("llama")
    for layer in loaded.model.model.layers:
        make_identity(layer)
    # Rounding leaves a cosine of 1 + 2e-16 here and there: without the clamp that is no number, without float64 1e-4.
    assert angles_of(measured_on(loaded, num_remove=2)) == pytest.approx([0] * 5, abs=1e-7)


def test_angles_are_averaged_over_texts_and_a_block_counts_from_input_to_output():
    first, second = turning([[30.0, -30.0, 90.0, 20.0]]), turning([[10.0, -10.0, 30.0, 150.0]])

    def batches() -> Iterator[HiddenStates]:
        yield HiddenStates((0,), torch.ones(1, 1), first)
        yield HiddenStates((1,), torch.ones(1, 1), second)

    context = made_up(4, lambda *_: batches(), 2, num_remove=2)
    assert angles_of(context) == pytest.approx([0, 40 / 180, (110 + 180) / 2 / 180], abs=1e-6)
    selection = angular_distance(context)
    assert selection.removed == (1, 0)
    assert selection.importance == {}


def test_last_tokens_count_and_opposite_directions_are_one():
    states = turning([[0.0, 0.0], [180.0, 0.0]])
    batch = HiddenStates((0,), torch.ones(1, 2), states)
    assert angles_of(made_up(2, lambda *_: iter([batch]), 1, num_remove=1))[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("protect", "removed"), [((), (3, 2)), ((3,), (2, 1)), ((0, 3), (2, 1))])
def test_of_equal_blocks_the_later_goes_and_protected_ones_stay(protect, removed):
    still = HiddenStates((0,), torch.ones(1, 1), (torch.ones(1, 1, 2),) * 5)
    context = made_up(4, lambda *_: iter([still]), 1, num_remove=2, protect=frozenset(protect))
    assert angular_distance(context).removed == removed
