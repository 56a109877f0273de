"""Bypass = cut in memory; cut nothing = original; with cache = without; what was bypassed comes back exactly."""

import pytest
import torch
from torch import nn

from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers, remove_layers
from layercut.surgery.verify import layers_skipped
from tests.support.surgery import PLANS, generate, left_padded_batch, logits_of, plan_of
from tests.support.tiny import CONFIGS, NUM_LAYERS, tiny_model

families = pytest.mark.parametrize("model_type", CONFIGS)
plans = pytest.mark.parametrize("removed", PLANS.values(), ids=PLANS.keys())


def state_of(model):
    """Everything that a bypass may touch."""
    layers = decoder_layers(model)
    indices = [(name, module.layer_idx) for name, module in model.named_modules() if hasattr(module, "layer_idx")]
    modules = [(name, id(module)) for name, module in model.named_modules()]
    weights = [(name, id(weight), weight._version) for name, weight in model.named_parameters()]
    config = model.config.to_dict()
    return id(layers), indices, modules, weights, config, sorted(vars(model.config)), sorted(vars(model))


@families
@plans
def test_bypass_equals_cut_in_memory_equals_layers_skipped_in_place(model_type, removed):
    """An independent oracle: nothing is renumbered in the original stack, and the text is written without a cache."""
    model, reference = tiny_model(model_type), tiny_model(model_type)
    cut = remove_layers(tiny_model(model_type), plan_of(removed))
    with bypass(model, plan_of(removed)), layers_skipped(reference, removed):
        assert torch.equal(logits_of(model), logits_of(reference))
        assert torch.equal(logits_of(model), logits_of(cut))
        assert generate(model, use_cache=True) == generate(reference, use_cache=False)
        assert model.config.to_dict() == cut.config.to_dict()
    assert len(decoder_layers(cut)) == NUM_LAYERS - len(removed) == cut.config.num_hidden_layers


@families
def test_cutting_nothing_changes_nothing(model_type):
    model, untouched = tiny_model(model_type), tiny_model(model_type)
    before = state_of(model)
    with bypass(model, plan_of(())):
        assert torch.equal(logits_of(model), logits_of(untouched))
    assert remove_layers(model, plan_of(())) is model
    assert state_of(model) == before


@families
@plans
def test_the_model_comes_back_exactly(model_type, removed):
    model = tiny_model(model_type)
    logits = logits_of(model)  # also lets transformers set up what it sets up on first use
    with bypass(model, plan_of(())):
        pass
    before = state_of(model)
    with bypass(model, plan_of(removed)):
        assert not torch.equal(logits_of(model), logits)
        generate(model, use_cache=True)
    assert state_of(model) == before
    assert torch.equal(logits_of(model), logits)


def test_the_model_comes_back_after_an_exception_and_a_refusal():
    model = tiny_model("gemma3_text")
    logits = logits_of(model)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt), bypass(model, plan_of((0, 2))):
        raise KeyboardInterrupt
    assert state_of(model)[:5] == before[:5]
    assert torch.equal(logits_of(model), logits)
    before = state_of(model)
    with pytest.raises(InputError, match="this one has 6"):
        remove_layers(model, CutPlan(num_layers=30, removed=(3,)))
    assert state_of(model) == before


@families
def test_hidden_states_are_complete_after_a_bypass_that_first_asked_for_them(model_type):
    model, reference = tiny_model(model_type), tiny_model(model_type)
    with bypass(model, plan_of((0, 3))):
        inside = model(**left_padded_batch(), output_hidden_states=True).hidden_states
        assert len(inside) == NUM_LAYERS - 1
    after = model(**left_padded_batch(), output_hidden_states=True).hidden_states
    expected = reference(**left_padded_batch(), output_hidden_states=True).hidden_states
    assert len(after) == NUM_LAYERS + 1
    assert all(torch.equal(a, b) for a, b in zip(after, expected, strict=True))


def test_one_bypass_at_a_time():
    model = tiny_model("llama")
    with bypass(model, plan_of((1,))):
        for second in (lambda: bypass(model, plan_of(())).__enter__(), lambda: remove_layers(model, plan_of((2,)))):
            with pytest.raises(InputError, match="a bypass is active"):
                second()
        assert len(decoder_layers(model)) == NUM_LAYERS - 1
    with bypass(model, plan_of((2,))):
        assert len(decoder_layers(model)) == NUM_LAYERS - 1


class _Identity(nn.Module):
    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states


@families
def test_the_oracle_sees_an_identity_module_in_place_of_layer_0(model_type):
    """The obvious way to skip layer 0 gives wrong cached text; a comparison blind to it would prove nothing above."""
    model = tiny_model(model_type)
    decoder_layers(model)[0] = _Identity()
    assert generate(model, use_cache=True) != generate(model, use_cache=False)


def test_attention_scaled_by_position_only_loses_layers_from_the_end():
    model = tiny_model("gpt2")
    model.config.scale_attn_by_inverse_layer_idx = True
    with pytest.raises(InputError, match="only layers at the end can be removed; layer 5 stays"):
        bypass(model, plan_of((3, 4))).__enter__()
    with bypass(model, plan_of((4, 5))):
        assert len(decoder_layers(model)) == 4


def test_a_model_without_a_list_of_layers_is_refused():
    head = tiny_model("llama").lm_head
    head.config = tiny_model("llama").config
    with pytest.raises(InputError, match="no list of 6"):
        bypass(head, plan_of((0,))).__enter__()
