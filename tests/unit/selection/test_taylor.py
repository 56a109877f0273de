from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from layercut.errors import InputError
from layercut.selection import criterion
from layercut.selection.base import Context
from layercut.selection.taylor import taylor
from layercut.surgery.remove import decoder_layers
from tests.support.criteria import TEXTS, calibration, make_identity
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS


def context(loaded: Any, *texts: str, **fields: Any) -> Context:
    fields = {"num_layers": NUM_LAYERS, "num_remove": 2, "loaded": loaded, **fields}
    return Context(calibration=calibration(*(texts or TEXTS)), **fields)


def plainly(loaded: Any, texts: tuple[str, ...] = TEXTS) -> list[float]:
    """The whole model's gradients of the mean next-token loss in one backward pass, then |w * gradient|."""
    model = loaded.model
    losses = []
    for text in texts:
        ids = loaded.tokenizer(text, return_tensors="pt").input_ids
        logits = model(input_ids=ids).logits[0, :-1]
        losses.append(cross_entropy(logits, ids[0, 1:], reduction="none"))
    torch.cat(losses).mean().backward()
    scores = []
    for layer in decoder_layers(model):
        found = [w for w in layer.parameters() if w.ndim > 1 and w.grad is not None]
        scores.append(sum(float((w.detach().double() * w.grad.double()).abs().sum()) for w in found))
    model.zero_grad(set_to_none=True)
    return scores


@pytest.mark.parametrize("model_type", sorted(CONFIGS))
def test_equals_one_backward_pass_through_the_whole_model(model_type: str) -> None:
    loaded = tiny_loaded(model_type)
    expected = plainly(loaded)
    selection = taylor(context(loaded))
    assert list(selection.importance.values()) == pytest.approx(expected, rel=1e-4)
    order = sorted(range(NUM_LAYERS), key=lambda layer: expected[layer])
    assert selection.removed == tuple(order[:2])
    assert selection.details == {"num_texts": 4, "num_tokens": sum(len(text) - 1 for text in TEXTS)}


def test_the_absolute_value_is_taken_after_the_texts_are_summed() -> None:
    loaded = tiny_loaded("llama")
    together = taylor(context(loaded)).importance
    alone = [taylor(context(loaded, text)).importance for text in TEXTS if len(text) > 1]
    shares = [len(text) - 1 for text in TEXTS if len(text) > 1]
    for layer in range(NUM_LAYERS):
        apart = sum(share * one[layer] for share, one in zip(shares, alone, strict=True)) / sum(shares)
        assert together[layer] < 0.99 * apart


def test_only_one_layer_asks_for_gradients_at_a_time_and_none_are_left_anywhere() -> None:
    loaded = tiny_loaded("qwen2")
    model = loaded.model
    layers = list(model.model.layers)
    asking: list[tuple[int, set[int]]] = []

    def look(layer: torch.nn.Module, _: Any) -> None:
        asks = {index for index, one in enumerate(layers) if any(w.requires_grad for w in one.parameters())}
        others = [name for name, w in model.named_parameters() if w.requires_grad and ".layers." not in name]
        assert not others, "embeddings and head need no gradients"
        assert all(weight.grad is None for weight in model.parameters())
        asking.append((layers.index(layer), asks))

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    taylor(context(loaded, "first text", "second text"))
    for hook in hooks:
        hook.remove()
    forward = [(layer, set()) for _ in range(2) for layer in range(NUM_LAYERS)]
    backward = [(layer, {layer}) for layer in reversed(range(NUM_LAYERS)) for _ in range(2)]
    assert asking == forward + backward


def test_the_model_is_as_it_was_afterwards() -> None:
    loaded = tiny_loaded("gpt2")
    model = loaded.model
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    model.train()
    model.transformer.h[1].eval()
    first = model.transformer.h[0]
    first.mlp.c_fc.weight.requires_grad_(False)
    kept = torch.ones_like(first.attn.c_attn.weight)
    first.attn.c_attn.weight.grad = kept
    asks = {name: weight.requires_grad for name, weight in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    with torch.no_grad():
        selection = taylor(context(loaded))
        assert not torch.is_grad_enabled()
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == asks
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert first.attn.c_attn.weight.grad is kept
    assert bool((kept == 1).all())
    assert sum(weight.grad is not None for weight in model.parameters()) == 1
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.transformer.h)
    # Dropout was off, though the model was being trained: the same again in eval mode.
    assert taylor(context(tiny_loaded("gpt2"))).importance == pytest.approx(selection.importance, rel=1e-6)


def test_a_model_that_was_loaded_for_reading_is_scored_and_stays_frozen() -> None:
    loaded = tiny_loaded("qwen3")
    before = taylor(context(loaded)).importance
    loaded.model.requires_grad_(False)
    assert taylor(context(loaded)).importance == before
    assert not any(weight.requires_grad for weight in loaded.model.parameters())


def test_the_model_is_as_it_was_after_an_error() -> None:
    loaded = tiny_loaded("llama")
    with torch.no_grad():
        loaded.model.model.layers[3].mlp.up_proj.weight.mul_(float("inf"))
    with pytest.raises(InputError, match="gradients of layer 0"):
        taylor(context(loaded))
    broken = loaded.model.model.layers[5]
    broken.forward = None
    with pytest.raises(TypeError):
        taylor(context(loaded))
    assert all(weight.requires_grad and weight.grad is None for weight in loaded.model.parameters())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in loaded.model.model.layers)


def test_a_layer_whose_output_is_not_used_goes_first() -> None:
    loaded = tiny_loaded("llama")
    layer = loaded.model.model.layers[2]
    make_identity(layer)  # its last matrices are zero and cut the gradient off from all that comes before them
    selection = taylor(context(loaded))
    assert selection.importance[2] == 0
    assert selection.removed[0] == 2


def test_the_score_is_the_slope_of_the_loss_when_a_weight_is_scaled() -> None:
    """A matrix with a single weight has no terms that cancel, so its score is the slope, taken here by steps."""
    loaded = tiny_loaded("llama")
    matrices = {name: w for name, w in loaded.model.model.layers[2].named_parameters() if w.ndim > 1}
    with torch.no_grad():
        for name, weight in matrices.items():
            if "down_proj" not in name:
                weight.zero_()
    losses = []
    ids = loaded.tokenizer(TEXTS[2], return_tensors="pt").input_ids
    up, gate, down = (matrices[f"mlp.{name}_proj.weight"] for name in ("up", "gate", "down"))
    with torch.no_grad():
        gate[0], up[0] = 0.3, 0.2  # one hidden unit, so that down_proj[:, 0] alone matters
        down.zero_()
        down[0, 0] = 0.5
        for scale in (1.01, 0.99):
            down[0, 0] = 0.5 * scale
            losses.append(float(cross_entropy(loaded.model(input_ids=ids).logits[0, :-1].double(), ids[0, 1:])))
        down[0, 0] = 0.5
    slope = abs(losses[0] - losses[1]) / 0.02
    loss = cross_entropy(loaded.model(input_ids=ids).logits[0, :-1], ids[0, 1:])
    others = [
        (w.detach() * g).abs().sum() for w, g in zip((up, gate), torch.autograd.grad(loss, (up, gate)), strict=True)
    ]
    assert taylor(context(loaded, TEXTS[2])).importance[2] == pytest.approx(slope + float(sum(others)), rel=1e-3)


def test_a_weight_that_no_token_uses_adds_nothing() -> None:
    loaded = tiny_loaded("llama")
    before = taylor(context(loaded)).importance
    loaded.model.model.layers[1].expert = torch.nn.Linear(4, 4)  # as an expert that the router never chose
    assert taylor(context(loaded)).importance == before


def test_half_precision_models_are_scored() -> None:
    loaded = tiny_loaded("llama")
    full = taylor(context(loaded)).importance
    loaded.model.to(torch.bfloat16)
    half = taylor(context(loaded)).importance
    for layer in range(NUM_LAYERS):
        assert half[layer] == pytest.approx(full[layer], rel=0.15)


def test_protected_layers_stay_and_progress_is_told() -> None:
    loaded = tiny_loaded("llama")
    recorded: list[tuple[str, int, int]] = []
    least = taylor(context(loaded)).removed[0]
    selection = taylor(context(loaded, protect=frozenset({least}), progress=lambda *step: recorded.append(step)))
    assert least not in selection.removed
    assert least not in selection.importance
    assert recorded == [("taylor", done, 10) for done in range(1, 11)]  # four texts of two tokens or more, six layers


def test_what_is_missing_or_unusable_is_named() -> None:
    loaded = tiny_loaded("llama")
    with pytest.raises(InputError, match="there is no model"):
        taylor(context(None))
    with pytest.raises(InputError, match="there is none"):
        taylor(Context(num_layers=NUM_LAYERS, num_remove=1, loaded=loaded))
    with pytest.raises(InputError, match="two tokens or more"):
        taylor(context(loaded, "x", "y"))
    with pytest.raises(InputError, match="text 1 has 600 tokens"):
        taylor(context(loaded, "fine", "x" * 600))
    with pytest.raises(InputError, match="no settings, but 'norm'"):
        taylor(context(loaded, settings={"norm": "l1"}))


def test_it_is_known_by_its_name() -> None:
    assert criterion("taylor") is taylor
