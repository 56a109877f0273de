from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from layercut.engine.base import HiddenStates
from layercut.errors import InputError
from layercut.selection.base import Context
from layercut.selection.criteria import angular_distance
from tests.support.criteria import TEXTS, made_up, make_identity, measured_on, turning
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS
from tests.unit.selection.test_criteria import cosines, states_of


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_every_block_equals_output_hidden_states_of_one_text_at_a_time(model_type: str) -> None:
    loaded = tiny_loaded(model_type)
    num_remove = 3
    angles: list[list[float]] = [[] for _ in range(NUM_LAYERS - num_remove + 1)]
    for text in TEXTS:
        states = states_of(loaded, text)
        for first, found in enumerate(angles):
            found.append(np.arccos(cosines(states[first], states[first + num_remove]))[-1] / np.pi)
    expected = [np.mean(found) for found in angles]

    selection = angular_distance(measured_on(loaded, num_remove=num_remove))

    blocks = selection.details["blocks"]
    assert [block["first"] for block in blocks] == [0, 1, 2, 3]
    assert [block["value"] for block in blocks] == pytest.approx(expected, abs=1e-5)
    first = int(np.argmin(expected))
    assert selection.removed == (first + 2, first + 1, first)
    assert selection.details["num_tokens"] == len(angles[0])
    json.dumps(selection.details, allow_nan=False)


def test_no_distance_is_exactly_zero_or_not_a_number_when_nothing_turns() -> None:
    loaded = tiny_loaded("llama")
    for layer in loaded.model.model.layers:
        make_identity(layer)
    selection = angular_distance(measured_on(loaded, num_remove=2))
    # Rounding leaves a cosine of 1 + 2e-16 here and there: without the clamp that is no number, without float64 1e-4.
    assert [block["value"] for block in selection.details["blocks"]] == pytest.approx([0] * 5, abs=1e-7)


def test_angles_are_averaged_over_texts_and_a_block_counts_from_input_to_output() -> None:
    first, second = turning([[30.0, -30.0, 90.0, 20.0]]), turning([[10.0, -10.0, 30.0, 150.0]])

    def batches() -> Iterator[HiddenStates]:
        yield HiddenStates((0,), torch.ones(1, 1), first)
        yield HiddenStates((1,), torch.ones(1, 1), second)

    context = made_up(4, lambda *_: batches(), 2, num_remove=2)
    selection = angular_distance(context)
    assert [block["value"] for block in selection.details["blocks"]] == pytest.approx(
        [0, 40 / 180, (110 + 180) / 2 / 180], abs=1e-6
    )
    assert selection.removed == (1, 0)
    assert selection.importance == {}


def test_last_tokens_count_and_opposite_directions_are_one() -> None:
    states = turning([[0.0, 0.0], [180.0, 0.0]])
    batch = lambda *_: iter([HiddenStates((0,), torch.ones(1, 2), states)])  # noqa: E731
    last = angular_distance(made_up(2, batch, 1, num_remove=1))
    assert last.details["blocks"][0]["value"] == pytest.approx(1, abs=1e-3)


def test_of_equal_blocks_the_later_goes_and_protected_ones_stay() -> None:
    still = lambda *_: iter([HiddenStates((0,), torch.ones(1, 1), (torch.ones(1, 1, 2),) * 5)])  # noqa: E731
    assert angular_distance(made_up(4, still, 1, num_remove=2)).removed == (3, 2)
    assert angular_distance(made_up(4, still, 1, num_remove=2, protect=frozenset({3}))).removed == (2, 1)
    assert angular_distance(made_up(4, still, 1, num_remove=2, protect=frozenset({0, 3}))).removed == (2, 1)


def test_what_is_missing_or_unknown_is_named() -> None:
    with pytest.raises(InputError, match="there is no engine"):
        angular_distance(Context(num_layers=4, num_remove=1))
    with pytest.raises(InputError, match="no settings, but 'norm'"):
        angular_distance(Context(num_layers=4, num_remove=1, settings={"norm": "l1"}))
    with pytest.raises(InputError, match="no 3 layers"):
        angular_distance(Context(num_layers=4, num_remove=3, protect=frozenset({1})))
