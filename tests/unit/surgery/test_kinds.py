"""A layer that would become another one refuses its plan; what holds a position follows the layer."""

from __future__ import annotations

import pytest
from torch import nn

from benchmarks.families import NUM_LAYERS, tiny_config, tiny_model, write_cut
from layercut import cut, remove_layers
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, check_plan_on_model, decoder_layers
from tests.support.tiny import byte_tokenizer


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("diffllama", "as layer 1 of the pruned model; keep layers 0-2."),
        ("beam", "layer 2 would change: its attn_residual_add_idx is 6 and would be 4 as layer 1"),
        ("jamba", "attn_layer_period = 2 sets the kind of a layer by its position"),
        ("gemma3n_text", "embed_tokens_per_layer holds something for every decoder layer: its shape of weight"),
    ],
)
def test_the_line_names_layer_and_field(model_type, says):
    model = tiny_model(tiny_config(model_type))
    layers, before = decoder_layers(model), model.config.to_dict()
    with pytest.raises(InputError) as caught, bypass(model, CutPlan(num_layers=NUM_LAYERS, removed=(1,))):
        pass
    assert decoder_layers(model) is layers
    assert model.config.to_dict() == before
    assert "\n" not in str(caught.value)
    assert says in str(caught.value)


def test_every_place_in_the_cache_follows_its_layer():
    """longcat_flash has two attention blocks a layer, each with a place of its own."""
    model = tiny_model(tiny_config("longcat_flash"))
    layers = list(decoder_layers(model))
    before = [places_of(layer) for layer in layers]
    with bypass(model, CutPlan(num_layers=NUM_LAYERS, removed=(0, 3))):
        assert [places_of(layers[old]) for old in (1, 2, 4, 5)] == before[:4]
        assert {6, 7} <= before[3]
        assert (model.config.num_layers, model.config.num_hidden_layers) == (4, 8)
    assert [places_of(layer) for layer in layers] == before


def places_of(layer: nn.Module) -> set[int]:
    return {part.layer_idx for part in layer.modules() if hasattr(part, "layer_idx")}  # type: ignore[misc]


def test_a_search_refuses_such_a_plan_before_it_runs():
    model = tiny_model(tiny_config("beam"))
    check_plan_on_model(model, CutPlan(num_layers=NUM_LAYERS, removed=(4, 5)))
    with pytest.raises(InputError, match="attn_residual_add_idx"):
        check_plan_on_model(model, CutPlan(num_layers=NUM_LAYERS, removed=(0,)))


@pytest.mark.parametrize(
    ("model_type", "removed", "why"),
    [
        ("bamba", [2, 5], "keep one of 2,5"),
        ("recurrent_gemma", [2, 5], "keep one of 2,5"),
        ("granitemoehybrid", [2, 5], "no layer with attention would stay .* keep one of 2,5"),
        ("olmo_hybrid", [0, 1, 3, 4], "transformers accepts no such pruned model: .* at least one 'linear_attention'"),
    ],
)
def test_a_plan_that_no_model_of_the_type_can_have_is_refused(model_type, removed, why, tmp_path):
    model = tiny_model(tiny_config(model_type))
    model.save_pretrained(tmp_path / "uncut")
    byte_tokenizer().save_pretrained(tmp_path / "uncut")
    for refuse in (
        lambda: write_cut(tmp_path / "uncut", tuple(removed), tmp_path / "cut"),
        lambda: cut(str(tmp_path / "uncut"), removed, tmp_path / "cut"),
        lambda: remove_layers(model, removed),
    ):
        with pytest.raises(InputError, match=why):
            refuse()
    assert not (tmp_path / "cut").exists()


def test_a_model_that_transformers_cannot_run_is_named_and_may_be_written_unchecked(tmp_path):
    """The chunked product of transformers' xLSTM fails where keys are narrower than values."""
    tiny_model(tiny_config("xlstm")).save_pretrained(tmp_path / "uncut")
    byte_tokenizer().save_pretrained(tmp_path / "uncut")
    with pytest.raises(InputError, match="layers 1,3: .*`verify=false`"):
        cut(str(tmp_path / "uncut"), [1, 3], tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    assert cut(str(tmp_path / "uncut"), [1, 3], tmp_path / "cut", verify=False).is_dir()
