"""Thinner MLPs: masked = sliced = written = reloaded, for every kind of MLP, and what is refused."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from layercut.errors import InputError, VerificationError
from layercut.models.loading import load_model
from layercut.models.sources import resolve_source
from layercut.models.structure import plain_experts, structure_of
from layercut.models.weights import TensorSpan, read_config, stored_tensors
from layercut.surgery.channels import Channels
from layercut.surgery.checkpoint import cut_checkpoint, recorded_plans_of, with_earlier
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import apply_plan_to_model, bypass, decoder_layers, masked_channels, remove_layers
from layercut.surgery.width import ChannelSlot, config_with_width, map_entries, mlp_width_in, mlp_width_of, stored_slots
from tests.invariants.test_surgery_bypass import state_of
from tests.support.surgery import generate, logits_of
from tests.support.tiny import CONFIGS, NUM_LAYERS, byte_tokenizer, save_tiny, tiny_model

SHARED = "deepseek_v3"
"""Two shared experts in one MLP next to the others, and one dense layer of another width."""
PAIRS = "gpt_oss"
"""Gates and ups of experts in pairs, the other way round, with biases."""
EXPERTS: dict[str, dict[str, Any]] = {
    SHARED: {
        "moe_intermediate_size": 16, "n_routed_experts": 4, "n_shared_experts": 2, "num_experts_per_tok": 2,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1, "q_lora_rank": 8, "kv_lora_rank": 8,
        "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "num_key_value_heads": 4, "head_dim": 4,
    },
    PAIRS: {"num_local_experts": 4, "num_experts_per_tok": 2, "layer_types": ["full_attention"] * NUM_LAYERS},
}  # fmt: skip
families = pytest.mark.parametrize("family", [*CONFIGS, *EXPERTS])


@pytest.fixture(autouse=True)
def more_experts(monkeypatch):
    for name, own in EXPERTS.items():
        monkeypatch.setitem(CONFIGS, name, CONFIGS["llama"] | own)


def thin_plan(model: Any, removed: tuple[int, ...] = (), num_kept: int | None = None, seed: int = 1) -> CutPlan:
    """Some of the channels, half if it is left out, drawn at random: others in every layer and of every expert."""
    mlp, generator = mlp_width_in(model), torch.Generator().manual_seed(seed)
    kept = {}
    for layer in mlp.slots:
        drawn = torch.stack([torch.randperm(mlp.width, generator=generator) for _ in range(mlp.mlps(layer))])
        few = drawn[:, : num_kept or mlp.width // 2].sort().values + mlp.width * torch.arange(mlp.mlps(layer))[:, None]
        kept[layer] = tuple(few.flatten().tolist())
    return CutPlan(
        num_layers=NUM_LAYERS, removed=removed, channels=Channels(field=mlp.field, width=mlp.width, kept=kept)
    )


@families
@pytest.mark.parametrize("removed", [(), (1, 4)])
def test_thinner_is_whole_with_zeros_for_the_removed_channels(family, removed):
    model = tiny_model(family)
    plan, before = thin_plan(model, removed), state_of(model)
    with bypass(model, plan):
        thin = logits_of(model)
    assert state_of(model) == before
    with masked_channels(model, plan), bypass(model, plan.depth_only):
        zeros = logits_of(model)
    with bypass(model, plan.depth_only):
        whole = logits_of(model)
    assert torch.allclose(thin, zeros, atol=1e-4 * float(zeros.abs().max()))
    assert (thin - whole).abs().max() > 1e-2 * whole.abs().max()
    assert state_of(model) == before


@families
def test_bypass_is_removed_is_written_is_reloaded(family, tmp_path):
    whole, cut = tiny_model(family), tiny_model(family)
    plan = thin_plan(whole, (2,))
    remove_layers(cut, plan)
    source = resolve_source(str(written(whole, tmp_path / "whole")))
    done = cut_model(source, plan, tmp_path / "thin", uncut=lambda: load_model(source, device="cpu"))
    assert "by at most 0 (float32" in done.verified
    again: Any = load_model(str(tmp_path / "thin"), device="cpu").model
    with bypass(whole, plan):
        assert torch.equal(logits_of(whole), logits_of(cut)) and torch.equal(logits_of(cut), logits_of(again))
        assert generate(whole, use_cache=True) == generate(again, use_cache=True) == generate(again, use_cache=False)
        assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in again.parameters())
    assert plan.channels is not None and getattr(again.config, plan.channels.field) == plan.channels.width // 2
    stored = [*again.parameters(), *(one for name, one in again.named_buffers() if "correction" in name)]
    assert done.parameters_after == sum(one.numel() for one in stored)


def test_llama_equals_modules_sliced_by_hand():
    model, reference = tiny_model("llama"), tiny_model("llama")
    plan = thin_plan(model)
    assert plan.channels is not None
    for layer, channels in plan.channels.kept.items():
        mlp, few = decoder_layers(reference)[layer].mlp, list(channels)
        for name in ("gate_proj", "up_proj"):
            sliced = nn.Linear(32, 24, bias=False)
            sliced.weight = nn.Parameter(getattr(mlp, name).weight[few])
            setattr(mlp, name, sliced)
        mlp.down_proj.weight = nn.Parameter(mlp.down_proj.weight[:, few].contiguous())
    assert torch.equal(logits_of(remove_layers(model, plan)), logits_of(reference))


def test_where_the_channels_of_a_model_are():
    """Gates and ups in one matrix lie in halves or in pairs; experts are thinned and dense layers stay."""
    assert [slot.order for slot in mlp_width_in(tiny_model("phi3")).slots[0]] == ["halves", "one"]
    assert [slot.order for slot in mlp_width_in(tiny_model(PAIRS)).slots[0]] == ["pairs", "pairs", "one"]
    mlp = mlp_width_in(tiny_model("qwen3_moe"))
    assert (mlp.field, mlp.width, list(mlp.slots)) == ("moe_intermediate_size", 16, [1, 5])
    assert [mlp.mlps(layer) for layer in mlp.slots] == [4, 4]
    shared = mlp_width_in(tiny_model(SHARED))
    assert list(shared.slots) == [1, 2, 3, 4, 5] and shared.mlps(1) == 4 + 2
    assert [(slot.first, slot.mlps) for slot in shared.readers(1)] == [(0, 4), (4, 2)]


@pytest.mark.parametrize("family", ["mixtral", SHARED])
def test_experts_equal_modules_sliced_by_hand(family):
    """Each expert keeps its own channels, and its shared experts theirs."""
    model, reference = tiny_model(family), tiny_model(family)
    plan = thin_plan(model)
    assert plan.channels is not None
    width, half = plan.channels.width, plan.channels.num_kept
    for layer, channels in plan.channels.kept.items():
        mlp = decoder_layers(reference)[layer].mlp
        of_expert = [[one % width for one in channels if one // width == expert] for expert in range(4)]
        gates, ups = mlp.experts.gate_up_proj.data.chunk(2, dim=1)
        down = mlp.experts.down_proj.data
        mlp.experts.gate_up_proj.data = torch.stack(
            [torch.cat([gates[at][few], ups[at][few]]) for at, few in enumerate(of_expert)]
        )
        mlp.experts.down_proj.data = torch.stack([down[at][:, few] for at, few in enumerate(of_expert)])
        mlp.experts.intermediate_dim = half
        if family == SHARED:
            few, shared = [one - 4 * width for one in channels if one // width >= 4], mlp.shared_experts
            for name in ("gate_proj", "up_proj"):
                getattr(shared, name).weight.data = getattr(shared, name).weight.data[few]
            shared.down_proj.weight.data = shared.down_proj.weight.data[:, few].contiguous()
    assert torch.equal(logits_of(remove_layers(model, plan)), logits_of(reference))


def written(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_what_cannot_be_thinner_is_refused_before_it_is_written(tmp_path):
    config = {"model_type": "bloom", "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 260}
    with pytest.raises(InputError, match="a bloom .*no MLP whose width one field says"):
        mlp_width_of(config, "a bloom")
    llama, mixtral = tiny_model("llama"), tiny_model("mixtral")
    other = Channels(field="intermediate_size", width=40, kept=dict.fromkeys(range(NUM_LAYERS), (0, 1)))
    with pytest.raises(InputError, match="with intermediate_size 40; this model has 6 with intermediate_size 48"):
        apply_plan_to_model(llama, CutPlan(num_layers=NUM_LAYERS, channels=other))
    with pytest.raises(InputError, match="keeps 38 MLP channels of each expert, .* a multiple of 8; make the plan"):
        cut_checkpoint(written(mixtral, tmp_path / "experts"), thin_plan(mixtral, num_kept=38), tmp_path / "thin")
    llama.config.quantization_config = {"quant_method": "fp8", "modules_to_not_convert": ["lm_head"]}
    with pytest.raises(InputError, match="thin the original and quantise that"):
        cut_checkpoint(written(llama, tmp_path / "fp8"), thin_plan(llama), tmp_path / "thin")
    assert not (tmp_path / "thin").exists()


def test_weights_that_change_are_sliced_again():
    """The parts are held for the next bypass, and must not outlive the weights that they were taken from."""
    model = tiny_model("llama")
    plan = thin_plan(model)
    with bypass(model, plan):
        first = logits_of(model)
    with bypass(model, plan):
        assert torch.equal(logits_of(model), first)
    with torch.no_grad():
        decoder_layers(model)[3].mlp.up_proj.weight.mul_(2)
    with bypass(model, plan):
        assert not torch.equal(logits_of(model), first)


def test_a_channel_that_is_not_where_it_should_be_is_found(tmp_path, monkeypatch):
    """Slices of the first matrices at other places than those of the last: no comparison of slices would see it."""
    model = tiny_model("phi3")
    plan, source = thin_plan(model), resolve_source(str(written(model, tmp_path / "whole")))
    monkeypatch.setattr(ChannelSlot, "entries", lambda slot, few, width: [*few, *few][: len(few) * (2 - slot.reads)])
    with pytest.raises(VerificationError, match="with zeros for the removed MLP channels"):
        cut_model(source, plan, tmp_path / "thin", uncut=lambda: load_model(source, device="cpu"))
    assert not (tmp_path / "thin").exists()


def test_a_thin_checkpoint_says_what_it_lost_and_is_cut_again(tmp_path):
    model = tiny_model("llama")
    cut_checkpoint(written(model, tmp_path / "whole"), thin_plan(model), tmp_path / "thin")
    found = with_earlier(CutPlan(num_layers=NUM_LAYERS), resolve_source(str(tmp_path / "thin")))
    assert "without 50.0 % of the MLP channels" in found.describe()
    cut_checkpoint(tmp_path / "thin", CutPlan(num_layers=NUM_LAYERS, removed=(5,)), tmp_path / "both")
    assert [bool(plan.get("channels")) for plan in recorded_plans_of(tmp_path / "both")] == [True, False]


def test_pairs_that_are_taken_for_halves_are_found_when_a_cut_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("layercut.surgery.width._IN_PAIRS", frozenset())
    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path / "cache"))
    model: Any = tiny_model(PAIRS)
    config = json.dumps(model.config.to_dict() | {"initializer_range": 0.021})  # found anew, and not remembered
    model.config.initializer_range = 0.021
    assert {slot.order for slot in mlp_width_in(model).slots[0]} == {"halves", "one"}
    source = resolve_source(str(written(model, tmp_path / "whole")))
    with pytest.raises(VerificationError, match="with zeros for the removed MLP channels"):
        cut_model(source, thin_plan(model), tmp_path / "thin", uncut=lambda: load_model(source, device="cpu"))
    assert not (tmp_path / "thin").exists()
    with pytest.raises(InputError, match="transformers accepts no it of intermediate_size"):
        config_with_width(config, "intermediate_size", "wide", "it")  # type: ignore[arg-type]


def test_experts_can_be_run_one_after_the_other():
    model: Any = tiny_model("mixtral")
    was = model.config._experts_implementation
    assert plain_experts(model) == was and model.config._experts_implementation == "eager"


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
def test_entries_of_channels(slot, channels, entries):
    assert slot.entries(channels, 4) == entries


def test_an_experts_own_tensor_has_its_channels():
    own = STACK.of_expert(1, is_half=False)
    assert (own.dim, own.first, own.is_stacked) == (1, 1, False) and own.entries([0, 1, 5, 6], 4) == [1, 2]
    gates = STACK._replace(dim=1, order="halves").of_expert(0, is_half=True)
    assert gates.entries([0, 1, 5, 6], 4) == [0, 1]


def test_taken_and_zeroed_along_one_dimension():
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


def test_each_experts_matrices_are_stored_by_themselves(tmp_path):
    found = slots_in(save_tiny("mixtral", tmp_path / "m"))
    assert len(found) == NUM_LAYERS * 4 * 3
    for name, dim in (("w1", 0), ("w3", 0), ("w2", 1)):
        layer, slot = found[f"model.layers.2.block_sparse_moe.experts.3.{name}.weight"]
        assert (layer, slot.dim, slot.first, slot.order) == (2, dim, 3, "one")
        assert slot.entries([0, 48, 3 * 48 + 7], 48) == [7]
    # A tensor the other way round must not be cut along the wrong dimension.
    last = "model.layers.2.block_sparse_moe.experts.3.w2.weight"
    pieces = stored_tensors(tmp_path / "m")
    turned = [piece._replace(shape=piece.shape[::-1]) if piece.name == last else piece for piece in pieces]
    assert last in found and last not in slots_in(tmp_path / "m", turned)


def test_a_dense_model_has_its_own_names(tmp_path):
    found = slots_in(save_tiny("phi3", tmp_path / "m"))
    assert found["model.layers.1.mlp.gate_up_proj.weight"][1].order == "halves" and len(found) == 2 * NUM_LAYERS


def test_a_checkpoint_that_stores_them_otherwise_is_refused(tmp_path, monkeypatch):
    folder = save_tiny("mixtral", tmp_path / "m")
    monkeypatch.setattr("layercut.surgery.width._JOINED", frozenset({"Concatenate"}))
    with pytest.raises(InputError, match=r"stores mlp\.experts\.\w+ of layer 0 in an unknown way"):
        cut_checkpoint(folder, thin_plan(tiny_model("mixtral")), tmp_path / "out")
    assert not (tmp_path / "out").exists()
