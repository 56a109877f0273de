from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from layercut.errors import InputError
from layercut.selection import criterion
from layercut.selection.base import Context
from layercut.selection.magnitude import magnitude
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS

LAYERS = {"gpt_neox": "gpt_neox.layers.", "gpt2": "transformer.h."}


def context(loaded: Any, **fields: Any) -> Context:
    return Context(**{"num_layers": NUM_LAYERS, "num_remove": 2, "loaded": loaded, **fields})


def matrices_of(loaded: Any, layer: int) -> list[np.ndarray]:
    """The layer's matrices by name in the state dict, in float64."""
    prefix = f"{LAYERS.get(loaded.model.config.model_type, 'model.layers.')}{layer}."
    named = {name: tensor for name, tensor in loaded.model.state_dict().items() if name.startswith(prefix)}
    return [t.double().numpy() for name, t in named.items() if "norm" not in name and "ln_" not in name and t.ndim > 1]


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_equals_numpy(model_type: str, norm: str) -> None:
    loaded = tiny_loaded(model_type)
    sizes = []
    for layer in range(NUM_LAYERS):
        flat = np.concatenate([matrix.ravel() for matrix in matrices_of(loaded, layer)])
        sizes.append(np.linalg.norm(flat, ord=1 if norm == "l1" else 2))

    selection = magnitude(context(loaded, settings={"norm": norm}))

    assert list(selection.importance.values()) == pytest.approx(sizes, rel=1e-6)
    assert selection.removed == tuple(np.argsort(sizes)[:2])
    assert selection.details["norm"] == norm
    assert selection.details["num_weights"]["0"] == sum(matrix.size for matrix in matrices_of(loaded, 0))
    json.dumps(selection.details, allow_nan=False)


def test_l1_is_the_default_and_the_norms_can_disagree() -> None:
    loaded = tiny_loaded("llama")
    first, second = loaded.model.model.layers[0], loaded.model.model.layers[1]
    with torch.no_grad():
        for layer in loaded.model.model.layers:
            for weight in layer.parameters():
                weight.fill_(1.0)
        for weight in first.parameters():  # a few large weights: small in l1, large in l2
            weight.zero_()
            weight.view(-1)[0] = 100.0
    num_weights = sum(weight.numel() for weight in second.parameters() if weight.ndim > 1)
    num_matrices = sum(1 for weight in first.parameters() if weight.ndim > 1)
    by_l1 = magnitude(context(loaded, num_remove=1))
    by_l2 = magnitude(context(loaded, num_remove=1, settings={"norm": "l2"}))
    assert by_l1.importance[1] == num_weights
    assert by_l1.removed == (0,)
    assert by_l2.importance[0] == pytest.approx(100 * num_matrices**0.5)
    assert by_l2.removed == (5,)  # all others are equal, and of equals the later goes


@pytest.mark.parametrize(("norm", "order"), [("l1", 1), ("l2", 2)])
def test_half_precision_weights_are_summed_in_full_precision(norm: str, order: int) -> None:
    loaded = tiny_loaded("llama")
    loaded.model.to(torch.bfloat16)
    flat = [np.concatenate([matrix.ravel() for matrix in matrices_of(loaded, layer)]) for layer in range(NUM_LAYERS)]
    expected = [np.linalg.norm(weights, ord=order) for weights in flat]
    selection = magnitude(context(loaded, settings={"norm": norm}))
    assert list(selection.importance.values()) == pytest.approx(expected, rel=1e-8)


def test_norms_biases_and_embeddings_take_no_part() -> None:
    loaded = tiny_loaded("gpt_neox")
    before = magnitude(context(loaded))
    with torch.no_grad():
        for weight in loaded.model.parameters():
            if weight.ndim < 2:
                weight.mul_(100)
        loaded.model.get_input_embeddings().weight.mul_(100)
        loaded.model.get_output_embeddings().weight.mul_(100)
    assert magnitude(context(loaded)) == before


def test_protected_layers_stay() -> None:
    loaded = tiny_loaded("llama")
    least = magnitude(context(loaded)).removed[0]
    selection = magnitude(context(loaded, protect=frozenset({least})))
    assert least not in selection.removed
    assert least not in selection.importance


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(InputError, match="there is no model"):
        magnitude(context(None))
    with pytest.raises(InputError, match="unknown norm .*'l3'"):
        magnitude(context(tiny_loaded("llama"), settings={"norm": "l3"}))
    damaged = tiny_loaded("llama")
    with torch.no_grad():
        damaged.model.model.layers[2].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match="layer 2 .*not finite"):
        magnitude(context(damaged))
    offloaded = tiny_loaded("llama")
    offloaded.model.model.layers[4].to("meta")
    with pytest.raises(InputError, match="self_attn.q_proj.weight of layer 4"):
        magnitude(context(offloaded))
    packed = tiny_loaded("llama")
    up = packed.model.model.layers[1].mlp.up_proj
    up.weight = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(InputError, match="layer 1, .*torch.uint8"):
        magnitude(context(packed))


def test_it_is_known_by_its_name() -> None:
    assert criterion("magnitude") is magnitude
