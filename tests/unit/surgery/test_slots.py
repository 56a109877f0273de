"""Entries of a tensor by channels: one or two each, of one MLP or of stacked experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from layercut.surgery.slots import ChannelSlot, taken, zeroed

ONE = ChannelSlot("mlp.up_proj", "weight", 0, "one", False)
STACK = ChannelSlot("mlp.experts", "down_proj", 2, "one", True, mlps=2, is_stacked=True)


@pytest.mark.parametrize(
    ("slot", "channels", "entries"),
    [
        (ONE, [1, 2], [1, 2]),
        (ONE._replace(order="halves"), [1, 2], [1, 2, 5, 6]),
        (ONE._replace(order="pairs"), [1, 2], [2, 3, 4, 5]),
        (ONE._replace(first=2, mlps=2), [0, 5, 8, 15], [0, 7]),  # two shared experts in one, after two others
        (ONE._replace(first=2, mlps=2, order="halves"), [0, 5, 8, 15], [0, 7, 8, 15]),
        (STACK, [0, 1, 5, 6], [[0, 1], [1, 2]]),
        (STACK._replace(first=1, order="halves"), [0, 5, 6, 8, 11], [[1, 2, 5, 6], [0, 3, 4, 7]]),
    ],
)
def test_entries_of_channels(slot: ChannelSlot, channels: list[int], entries: list[Any]) -> None:
    assert slot.entries(channels, 4) == entries


def test_an_experts_own_tensor_has_its_channels() -> None:
    own = STACK.of_expert(1, is_half=False)
    assert (own.dim, own.first, own.is_stacked) == (1, 1, False) and own.entries([0, 1, 5, 6], 4) == [1, 2]
    gates = STACK._replace(dim=1, order="halves").of_expert(0, is_half=True)
    assert gates.entries([0, 1, 5, 6], 4) == [0, 1]


def test_taken_and_zeroed_along_one_dimension() -> None:
    stack = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(taken(stack[0], 1, [0, 3]), stack[0][:, [0, 3]])
    both = taken(stack, 2, [[0, 1], [1, 2]])
    assert torch.equal(both, torch.stack([stack[0][:, [0, 1]], stack[1][:, [1, 2]]]))
    zeros = zeroed(stack, 1, [[0], [2]])
    assert not zeros[0, 0].any() and not zeros[1, 2].any() and torch.equal(zeros[1, :2], stack[1, :2])
    assert not zeroed(stack[0], 0, [2])[2].any() and stack.sum() == sum(range(24))
