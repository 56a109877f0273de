"""Which layers of a parent another checkpoint has, found by comparing weights."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from layercut.errors import InputError
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.lineage import Lineage, best_match, given_layers, match_layers, similarity_rows
from layercut.surgery.plan import CutPlan
from tests.support.tiny import CONFIGS, save_tiny

REMOVED = (1, 4)
KEPT = (0, 2, 3, 5)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("lineage") / "parent")


@pytest.fixture
def cut(parent: Path, tmp_path: Path) -> Path:
    cut_checkpoint(parent, CutPlan(num_layers=6, removed=REMOVED), tmp_path / "cut")
    (tmp_path / "cut" / "plan.json").unlink()
    return tmp_path / "cut"


def change(folder: Path, how) -> Path:
    """Rewrite a folder's weights."""
    file = folder / "model.safetensors"
    save_file({name: how(name, tensor) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return folder


def noisy(scale: float):
    torch.manual_seed(1)
    return lambda name, tensor: tensor + scale * tensor.std() * torch.randn_like(tensor)


def test_a_cut_without_its_plan_is_found_layer_by_layer(parent: Path, cut: Path) -> None:
    found = match_layers(parent, cut)
    assert found.layers == KEPT and found.removed == REMOVED
    assert {match.change for match in found.matches} == {"none"}
    assert "without 1,4; weights unchanged" in found.describe()
    assert similarity_rows(found)[1] == ("1", "2", "1.0000", "unchanged")


def test_bfloat16_counts_as_unchanged(parent: Path, cut: Path) -> None:
    found = match_layers(parent, change(cut, lambda _, tensor: tensor.bfloat16()))
    assert found.layers == KEPT and {match.change for match in found.matches} == {"none"}


def test_noise_on_all_weights_is_retraining(parent: Path, cut: Path) -> None:
    found = match_layers(parent, change(cut, noisy(0.5)))
    assert found.layers == KEPT and {match.change for match in found.matches} == {"retrained"}
    # Noise of half the weights' own spread: cosine 1 / sqrt(1 + 0.25).
    assert all(abs(match.similarity - 0.894) < 0.03 for match in found.matches)
    assert "(lowest cosine 0.8" in found.describe()


def test_one_healed_layer_is_told_from_the_others(parent: Path, cut: Path) -> None:
    add = noisy(0.2)
    found = match_layers(parent, change(cut, lambda name, t: add(name, t) if ".layers.2." in name else t))
    assert [match.change for match in found.matches] == ["none", "none", "retrained", "none"]
    assert found.layers == KEPT


def test_layers_behind_those_that_the_config_counts_take_no_part(parent: Path, cut: Path) -> None:
    file = cut / "model.safetensors"
    tensors = load_file(file)
    extra = {name.replace(".layers.3.", ".layers.4."): tensor + 1 for name, tensor in tensors.items()}
    save_file({**extra, **tensors}, file, metadata={"format": "pt"})
    found = match_layers(parent, cut)
    assert found.layers == KEPT and len(found.matches) == 4


def test_another_seed_has_no_layer_of_the_parent(parent: Path, tmp_path: Path) -> None:
    found = match_layers(parent, save_tiny("llama", tmp_path / "other", seed=7))
    assert found.layers is None and {match.change for match in found.matches} == {"new"}
    assert "0 of the parent's 6 layers" in found.describe() and "6 new" in found.describe()


def test_a_merged_layer_is_one(parent: Path, cut: Path) -> None:
    whole = load_file(parent / "model.safetensors")

    def merge(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return (whole[name] + whole[name.replace("layers.0.", "layers.1.")]) / 2

    found = match_layers(parent, change(cut, lambda name, t: merge(name, t) if "layers.0." in name else t))
    assert [match.change for match in found.matches] == ["merged", "none", "none", "none"]
    assert found.layers is None


def test_repeated_and_exchanged_layers_are_no_cut(parent: Path, tmp_path: Path) -> None:
    whole = load_file(parent / "model.safetensors")
    order = [0, 1, 1, 3, 2]
    config = AutoConfig.for_model("llama", **CONFIGS["llama"] | {"num_hidden_layers": len(order)})
    model = AutoModelForCausalLM.from_config(config)
    state = model.state_dict()
    for name in [name for name in state if ".layers." in name]:
        head, _, rest = name.partition(".layers.")
        index, _, suffix = rest.partition(".")
        state[name] = whole[f"{head}.layers.{order[int(index)]}.{suffix}"]
    model.load_state_dict(state)
    model.save_pretrained(tmp_path / "odd")
    found = match_layers(parent, tmp_path / "odd")
    assert [match.parent for match in found.matches] == order
    assert sorted(match.change for match in found.matches) == ["none", "none", "none", "repeated", "repeated"]
    assert found.layers is None


def test_another_width_or_architecture_is_said(parent: Path, tmp_path: Path) -> None:
    narrow = AutoConfig.for_model("llama", **CONFIGS["llama"] | {"hidden_size": 16})
    AutoModelForCausalLM.from_config(narrow).save_pretrained(tmp_path / "narrow")
    found = match_layers(parent, tmp_path / "narrow")
    assert found.layers is None and "another width: mlp." in found.describe() and "32x48" in found.describe()
    other = match_layers(parent, save_tiny("gpt2", tmp_path / "gpt2"))
    assert other.layers is None and "another architecture" in other.describe()


def test_layers_with_a_narrower_mlp_are_found_by_their_other_matrices(parent: Path, cut: Path) -> None:
    def narrow(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if ".layers.1." not in name or ".mlp." not in name:
            return tensor
        return (tensor[:, :40] if "down_proj" in name else tensor[:40]).contiguous()

    found = match_layers(parent, change(cut, narrow))
    assert found.layers == KEPT
    assert [match.change for match in found.matches] == ["none", "width", "none", "none"]
    assert "another width in 1" in found.describe()
    assert Lineage.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_packed_integers_are_not_compared(parent: Path, cut: Path) -> None:
    packed = change(cut, lambda name, t: t.to(torch.int8) if "q_proj" in name else t)
    assert "(self_attn.q_proj.weight is I8)" in match_layers(parent, packed).describe()


def test_given_layers_are_checked() -> None:
    assert given_layers("0,2-3,5", 6, 4) == KEPT
    for text, what in (("0-6", "0-5"), ("0,2", "names 2 layers"), ("3,2,1,0", "in order")):
        with pytest.raises(InputError, match=what):
            given_layers(text, 6, 4)


@pytest.mark.parametrize("seed", range(20))
def test_the_match_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    similarity, floor = random.random((5, 4)), 0.4
    pairs = best_match(similarity, floor)
    assert pairs == sorted(pairs) and all(similarity[pair] > floor for pair in pairs)

    def value(some) -> float:
        return sum(similarity[pair] - floor for pair in some)

    every = (
        list(zip(rows, columns, strict=True))
        for size in range(5)
        for rows in itertools.combinations(range(5), size)
        for columns in itertools.combinations(range(4), size)
    )
    assert value(pairs) == pytest.approx(max(value(some) for some in every))
