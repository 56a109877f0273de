"""First-order Taylor score: remove first the layers whose weights affect the loss least."""

# Shapes: T tokens of one text, D hidden size, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from layercut.engine.rows import text_tokens
from layercut.errors import InputError
from layercut.selection.base import Context, Selection, by_importance, choose
from layercut.selection.magnitude import layer_matrices, loaded_model
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.models.loading import LoadedModel


class _Call(NamedTuple):
    """The input of a decoder layer."""

    state_1TD: Tensor
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    """Masks, positions and rotary tables; the layers of a text share them."""


class _Text(NamedTuple):
    """One calibration text after the forward pass."""

    calls: list[_Call]
    """One per layer; the backward pass removes them from the end."""
    gradient_1TD: Tensor
    """Gradient of the text's mean loss by the output of the backward pass's next layer; on the CPU."""
    share: float
    """The text's part of all predicted tokens."""


def taylor(context: Context) -> Selection:
    """Rank decoder layers by the first-order change of the loss if their weights were zero.

    I_l = sum over every weight w of layer l's matrices of |w * dL/dw|, in nats, where L is the mean next-token loss
    over all tokens of the calibration text. The absolute value is taken per weight, after the gradient has been
    averaged over the text. Kim et al., "Shortened LLaMA", arXiv:2402.02834, after Ma et al., "LLM-Pruner",
    arXiv:2305.11627. Their Taylor+ protects the first four and the last two layers (``--protect first:4,last:2``), and
    their code counts norm weights too, which are left out here.

    Memory, beside the model: one layer's gradients in float32, every layer's input for every text on the CPU (layers x
    tokens x hidden size), and one text's logits. Gradients have the model's dtype and are summed in float32; load the
    model in float32 where half precision is in doubt.

    Details: ``num_texts`` and ``num_tokens`` (predicted tokens). There are no settings.

    Raises:
        InputError: a setting, no model or no text, a text without tokens or longer than the model's context, no text of
            two tokens, weights that cannot be read, or gradients that are not numbers.
    """
    choose("taylor", context.settings)
    loaded = loaded_model(context, "taylor")
    if context.calibration is None:
        raise InputError(
            "taylor takes gradients on calibration text, and there is none; use layercut select with --calibration, or "
            "give the Context a calibration."
        )
    rows = [text_tokens(loaded, text, index) for index, text in enumerate(context.calibration.texts)]
    rows = [row for row in rows if len(row) > 1]  # a single token predicts nothing
    if not rows:
        raise InputError("taylor needs a calibration text of two tokens or more: the loss is that of the next token.")
    with _frozen(loaded.model), torch.enable_grad():
        scores = _scores(context, loaded, rows)
    for layer, score in enumerate(scores):
        if not math.isfinite(score):
            raise InputError(
                f"taylor: the gradients of layer {layer} are not finite numbers. Load the model with another dtype, "
                "bfloat16 or float32; if they stay, its weights are damaged."
            )
    details = {"num_texts": len(rows), "num_tokens": sum(len(row) - 1 for row in rows)}
    return by_importance(context, {layer: scores[layer] for layer in context.candidates}, details)


def _scores(context: Context, loaded: LoadedModel, rows: Sequence[tuple[int, ...]]) -> list[float]:
    """Score of every layer, by a backward pass that takes *all* texts through one layer before the layer below.

    The score needs the gradient summed over all texts, so a pass text by text would keep a sum for every weight of the
    model. Layer by layer, one layer's sums are enough. The forward pass records each layer's input; the backward pass
    runs each layer again on it, which costs a second forward pass, as in gradient checkpointing.
    """
    layers = decoder_layers(loaded.model)
    matrices = layer_matrices(loaded, "taylor")
    num_tokens = sum(len(row) - 1 for row in rows)
    steps = len(rows) + len(layers)
    texts = []
    for row in rows:
        calls, gradient_1TD = _forward(loaded.model, layers, row)
        texts.append(_Text(calls, gradient_1TD, (len(row) - 1) / num_tokens))
        context.progress("taylor", len(texts), steps)
    scores = []
    for index in reversed(range(len(layers))):
        weights = list(matrices[index].values())
        sums = [torch.zeros_like(weight, dtype=torch.float32, requires_grad=False) for weight in weights]
        for place, text in enumerate(texts):
            below_1TD, *gradients = _backward(layers[index], weights, text.calls.pop(), text.gradient_1TD)
            texts[place] = text._replace(gradient_1TD=below_1TD)
            for total, gradient in zip(sums, gradients, strict=True):
                total.add_(gradient, alpha=text.share)
        scores.append(sum(_salience(weight, total) for weight, total in zip(weights, sums, strict=True)))
        context.progress("taylor", len(rows) + len(scores), steps)
    return scores[::-1]


def _forward(model: PreTrainedModel, layers: nn.ModuleList, row: tuple[int, ...]) -> tuple[list[_Call], Tensor]:
    """Run one text: each layer's call, and the gradient of the mean loss by the last layer's output."""
    calls: list[_Call] = []
    outputs: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(_Call(args[0].detach().cpu(), args[1:], kwargs))

    def start_graph(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        # Parameters have no gradients here, so the graph holds only what comes after this tensor.
        outputs.append(output.detach().requires_grad_())
        return outputs[0]

    hooks = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in layers]
    hooks.append(layers[-1].register_forward_hook(start_graph))
    try:
        ids_1T = torch.tensor([row], device=model.device)
        logits_1TV = model(input_ids=ids_1T, use_cache=False).logits
    finally:
        for hook in hooks:
            hook.remove()
    loss = cross_entropy(logits_1TV[0, :-1].float(), ids_1T[0, 1:].to(logits_1TV.device))
    (gradient_1TD,) = torch.autograd.grad(loss, outputs)
    return calls, gradient_1TD.cpu()


def _backward(layer: nn.Module, weights: Sequence[nn.Parameter], call: _Call, gradient_1TD: Tensor) -> list[Tensor]:
    """From the gradient by a layer's output to those by its input (on the CPU) and by each of its weights."""
    state_1TD = call.state_1TD.to(weights[0].device).requires_grad_()
    for weight in weights:
        weight.requires_grad_()
    output_1TD = layer(state_1TD, *call.args, **call.kwargs)
    # torch.autograd.grad changes no ``.grad``. An expert that no token chose has no gradient.
    below_1TD, *gradients = torch.autograd.grad(
        output_1TD, [state_1TD, *weights], gradient_1TD.to(output_1TD.device), materialize_grads=True
    )
    for weight in weights:
        weight.requires_grad_(False)
    return [below_1TD.cpu(), *gradients]


def _salience(weight: nn.Parameter, gradient: Tensor) -> float:
    """Sum of |w * dL/dw| over a matrix: float32 products, float64 sum on the CPU."""
    return float((weight.detach().float() * gradient).abs().cpu().sum(dtype=torch.float64))


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No gradients and no dropout inside the block; afterwards every module and parameter is as before."""
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    model.requires_grad_(False)
    model.train(False)
    try:
        yield
    finally:
        for parameter, requires_grad in asked:
            parameter.requires_grad_(requires_grad)
        for module, training in modes:
            module.training = training
