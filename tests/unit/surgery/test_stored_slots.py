"""Tensors of a checkpoint that hold MLP channels: of one MLP, of each expert, of experts stacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.models.structure import structure_of
from layercut.models.weights import TensorSpan, read_config, stored_tensors
from layercut.surgery.channels import Channels
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from layercut.surgery.slots import ChannelSlot
from layercut.surgery.stored_slots import stored_slots
from layercut.surgery.width import mlp_width_of
from tests.support.tiny import NUM_LAYERS, save_tiny


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
    turned = [
        piece._replace(entry=piece.entry._replace(shape=piece.entry.shape[::-1])) if piece.name == name else piece
        for piece in pieces
    ]
    assert name in slots_in(folder) and name not in slots_in(folder, turned)


def test_a_checkpoint_that_stores_them_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny("mixtral", tmp_path / "m")
    monkeypatch.setattr("layercut.surgery.stored_slots._JOINED", frozenset({"Concatenate"}))
    kept = dict.fromkeys(range(NUM_LAYERS), tuple(48 * expert + one for expert in range(4) for one in range(24)))
    plan = CutPlan(num_layers=NUM_LAYERS, channels=Channels(field="intermediate_size", width=48, kept=kept))
    with pytest.raises(InputError, match=r"does not store mlp\.experts\.\w+ of layer 0 as it is in memory"):
        cut_checkpoint(folder, plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()
