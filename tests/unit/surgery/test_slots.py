"""Entries of a tensor by channels: one or two each, of one MLP or of stacked experts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from layercut.errors import InputError
from layercut.models.structure import structure_of
from layercut.models.weights import TensorSpan, read_config, stored_tensors
from layercut.surgery.channels import Channels
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import ChannelSlot, map_entries, mlp_width_of, stored_slots
from tests.support.tiny import NUM_LAYERS, save_tiny

ONE = ChannelSlot("mlp.up_proj", "weight", 0, "one", False)
ZEROED = partial(torch.index_fill, value=0.0)
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
    assert torch.equal(map_entries(torch.index_select, stack[0], 1, [0, 3]), stack[0][:, [0, 3]])
    both = map_entries(torch.index_select, stack, 2, [[0, 1], [1, 2]])
    assert torch.equal(both, torch.stack([stack[0][:, [0, 1]], stack[1][:, [1, 2]]]))
    zeros = map_entries(ZEROED, stack, 1, [[0], [2]])
    assert not zeros[0, 0].any() and not zeros[1, 2].any() and torch.equal(zeros[1, :2], stack[1, :2])
    assert not map_entries(ZEROED, stack[0], 0, [2])[2].any() and stack.sum() == sum(range(24))


def slots_in(folder: Path, pieces: list[TensorSpan] | None = None) -> dict[str, tuple[int, ChannelSlot]]:
    config, pieces = read_config(folder), pieces or stored_tensors(folder)
    structure = structure_of(config, "it", [piece.name for piece in pieces])
    return stored_slots(pieces, mlp_width_of(config, "it"), structure, config, "it")


def test_each_experts_matrices_are_stored_by_themselves(tmp_path: Path) -> None:
    found = slots_in(save_tiny("mixtral", tmp_path / "m"))
    assert len(found) == NUM_LAYERS * 4 * 3
    for name, dim in (("w1", 0), ("w3", 0), ("w2", 1)):
        layer, slot = found[f"model.layers.2.block_sparse_moe.experts.3.{name}.weight"]
        assert (layer, slot.dim, slot.first, slot.order) == (2, dim, 3, "one")
        assert slot.entries([0, 48, 3 * 48 + 7], 48) == [7]


def test_a_dense_model_has_its_own_names(tmp_path: Path) -> None:
    found = slots_in(save_tiny("phi3", tmp_path / "m"))
    assert found["model.layers.1.mlp.gate_up_proj.weight"][1].order == "halves" and len(found) == 2 * NUM_LAYERS


def test_other_shapes_are_not_known(tmp_path: Path) -> None:
    """A tensor the other way round must not be cut along the wrong dimension."""
    folder = save_tiny("mixtral", tmp_path / "m")
    pieces = stored_tensors(folder)
    name = "model.layers.2.block_sparse_moe.experts.3.w2.weight"
    turned = [piece._replace(shape=piece.shape[::-1]) if piece.name == name else piece for piece in pieces]
    assert name in slots_in(folder) and name not in slots_in(folder, turned)


def test_a_checkpoint_that_stores_them_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("mixtral", tmp_path / "m")
    monkeypatch.setattr("layercut.surgery.width._JOINED", frozenset({"Concatenate"}))
    kept = dict.fromkeys(range(NUM_LAYERS), tuple(48 * expert + one for expert in range(4) for one in range(24)))
    plan = CutPlan(num_layers=NUM_LAYERS, channels=Channels(field="intermediate_size", width=48, kept=kept))
    with pytest.raises(InputError, match=r"stores mlp\.experts\.\w+ of layer 0 in an unknown way"):
        cut_checkpoint(folder, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
