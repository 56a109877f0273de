"""The reference agrees with a right cut of every family, and sees each of ten wrong ones."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from layercut.surgery.remove import decoder_layers, remove_layers
from layercut.surgery.verify import layers_skipped
from tests.support.surgery import generate, logits_of, plan_of
from tests.support.tiny import tiny_model

REMOVED = (1, 3)


def differs(cut, whole) -> bool:
    """True if a cut model gives other logits, or writes other text with its cache, than the original without layers."""
    with layers_skipped(whole, REMOVED):
        expected, text = logits_of(whole), generate(whole, use_cache=False)
    if not torch.allclose(logits_of(cut), expected, atol=1e-4):
        return True
    try:
        return generate(cut, use_cache=True) != text
    except RuntimeError:  # two layers share a place in the cache
        return True


def another_layer(cut, whole):
    decoder_layers(cut)[1] = deepcopy(decoder_layers(whole)[3])
    decoder_layers(cut)[1].self_attn.layer_idx = 1


def one_layer_too_many(cut, whole):
    remove_layers(cut, [3])


def two_layers_swapped(cut, whole):
    layers = decoder_layers(cut)
    layers[1], layers[2] = layers[2], layers[1]
    layers[1].self_attn.layer_idx, layers[2].self_attn.layer_idx = 1, 2


def a_layer_twice(cut, whole):
    decoder_layers(cut)[1] = deepcopy(decoder_layers(cut)[0])
    decoder_layers(cut)[1].self_attn.layer_idx = 1


def kinds_not_renumbered(cut, whole):
    cut.config.layer_types = whole.config.layer_types[: cut.config.num_hidden_layers]


def kinds_moved_by_one(cut, whole):
    cut.config.layer_types = [*cut.config.layer_types[1:], cut.config.layer_types[0]]


def depth_not_counted(cut, whole):
    cut.config.num_hidden_layers -= 1


def cache_index_not_renumbered(cut, whole):
    decoder_layers(cut)[1].self_attn.layer_idx = 2


def cache_index_used_twice(cut, whole):
    decoder_layers(cut)[3].self_attn.layer_idx = 2


def scaled_by_depth(cut, whole):
    for layer in decoder_layers(cut):
        layer.self_attn.scaling *= (4 / 6) ** 0.5


def scaled_by_position(cut, whole):
    for index, layer in enumerate(decoder_layers(cut)):
        layer.self_attn.attn_logit_softcapping = 1 + index


MUTATIONS = (
    another_layer, one_layer_too_many, two_layers_swapped, a_layer_twice, kinds_not_renumbered, kinds_moved_by_one,
    depth_not_counted, cache_index_not_renumbered, cache_index_used_twice, scaled_by_depth, scaled_by_position,
)  # fmt: skip


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_wrong_cut_is_seen(mutate) -> None:
    whole = tiny_model("gemma2")
    cut = remove_layers(deepcopy(whole), plan_of(REMOVED))
    assert not differs(cut, whole)
    mutate(cut, whole)
    assert differs(cut, whole)


def test_the_model_is_itself_again() -> None:
    model = tiny_model("gemma2")
    before = logits_of(model)
    with layers_skipped(model, REMOVED):
        assert not torch.equal(logits_of(model), before)
    assert torch.equal(logits_of(model), before)


def test_layers_that_change_their_input_in_place_hand_on_what_came() -> None:
    class InPlace(nn.Module):
        def forward(self, hidden_states, **kwargs):
            return hidden_states.mul_(2), "state"

    model = tiny_model("llama")
    layers = decoder_layers(model)
    layers[2] = InPlace()
    with layers_skipped(model, [2]):
        given = torch.randn(1, 3, 32)
        states, rest = layers[2](given)
    assert states is given and rest is None
