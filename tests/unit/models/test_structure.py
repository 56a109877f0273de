"""Where structure finds the decoder layers, how checkpoints name them, and what is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.families import NUM_LAYERS, tiny_config
from layercut.errors import InputError
from layercut.models.structure import Structure, counted_layers, structure_of


def found(model_type: str, tensors: tuple[str, ...] = (), **fields: Any) -> Structure:
    return structure_of({**tiny_config(model_type).to_dict(), **fields}, "here", tensors)


@pytest.mark.parametrize(
    ("model_type", "layers", "section", "field"),
    [
        ("llama", "model.layers", "", "num_hidden_layers"),
        ("gpt2", "transformer.h", "", "n_layer"),
        ("gpt_neox", "gpt_neox.layers", "", "num_hidden_layers"),
        ("opt", "model.decoder.layers", "", "num_hidden_layers"),
        ("mamba", "backbone.layers", "", "num_hidden_layers"),
        ("gemma3", "model.language_model.layers", "text_config", "num_hidden_layers"),
        ("qwen3_5", "model.layers", "text_config", "num_hidden_layers"),
        ("longcat_flash", "model.layers", "", "num_layers"),
    ],
)
def test_the_list_that_the_text_config_counts(model_type: str, layers: str, section: str, field: str) -> None:
    structure = found(model_type)
    assert (structure.layers, structure.section, structure.num_layers_field) == (layers, section, field)


def test_a_vision_tower_of_the_same_depth_is_not_taken_for_the_language_model() -> None:
    config = tiny_config("llava").to_dict()
    config["vision_config"]["num_hidden_layers"] = NUM_LAYERS
    assert structure_of(config, "here").layers == "model.language_model.layers"


@pytest.mark.parametrize(
    ("model_type", "stored"),
    [
        ("gemma3", "language_model.model.layers."),  # as on the hub
        ("gemma3", "model.language_model.layers."),  # as transformers 5 names them
        ("gpt2", "h."),
        ("gpt2", "transformer.h."),
    ],
)
def test_names_of_a_checkpoint_are_those_that_transformers_maps_to_the_layers(model_type: str, stored: str) -> None:
    own = {"gemma3": "self_attn.q_proj.weight", "gpt2": "attn.c_attn.weight"}[model_type]
    tower = [f"vision_tower.vision_model.encoder.layers.{index}.layer_norm1.weight" for index in range(NUM_LAYERS)]
    names = (*tower, *(f"{stored}{index}.{own}" for index in range(NUM_LAYERS)))
    structure = found(model_type, names)
    assert structure.stored == (stored,)
    assert [name for name in names if structure.tensor_pattern.match(name)] == list(names[NUM_LAYERS:])


def test_leading_parts_of_a_name_may_be_missing_in_a_checkpoint() -> None:
    pattern = Structure(model_type="gpt2", layers="transformer.h").tensor_pattern
    for prefix in ("h.", "transformer.h."):
        assert pattern.match(f"{prefix}11.ln_1.weight").groups() == (prefix, "11", ".ln_1.weight")
    assert not pattern.match("other.h.11.ln_1.weight") and not pattern.match("h.x.ln_1.weight")


@pytest.mark.parametrize(
    ("config", "number"),
    [
        *(({"num_hidden_layers": 3}, 3), ({"n_layer": 3}, 3), ({"num_hidden_layers": "3"}, None), ({}, None)),
        ({"text_config": {"num_hidden_layers": 3}, "num_hidden_layers": 9}, 3),
    ],
)
def test_layers_are_counted_without_transformers(config: dict[str, Any], number: int | None) -> None:
    assert counted_layers(config) == number


@pytest.mark.parametrize(
    ("model_type", "fields", "says"),
    [
        ("bert", {"is_decoder": False}, r"here \(bert\) is an encoder \(is_decoder = false\)"),
        ("bart", {}, r"here \(bart\) is an encoder-decoder"),
        ("zamba2", {}, r"layers 2 and 5 of here \(zamba2\) share weights"),
        ("minimax", {}, r"no layer of here \(minimax\) can be removed: .*slope_rate"),
        ("vit", {}, r"here \(vit\) is no causal language model"),
    ],
)
def test_what_is_no_stack_of_decoder_layers_is_refused_in_one_line(
    model_type: str, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        found(model_type, **fields)
    assert "\n" not in str(caught.value)


def test_code_that_comes_with_a_model_is_refused() -> None:
    config = {"model_type": "martian", "auto_map": {"AutoModelForCausalLM": "modeling_martian.Martian"}}
    with pytest.raises(InputError, match="type 'martian'.*auto_map"):
        structure_of(config, "here")
