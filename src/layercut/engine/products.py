"""Matrix products on a CPU by oneDNN, where it reads weights faster than torch's own way does.

A product with few rows, as decoding has them, takes as long as reading its weights. torch leaves float32 to MKL, and
puts bfloat16 weights in oneDNN's order anew for each product. ``packed_weights`` does it once, in place of their own.
``fast_products`` has oneDNN read float32 weights as they lie. Sums are taken in another order, so results
differ by rounding. Scores of texts are left to torch, so that they stay those of transformers
(``docs/experiments/speed_engines.md``).
"""

# Shapes: A rows, I input and O output features.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

_FEWEST_ROWS = 4
"""One row is a product with a vector, and for two and three MKL reads faster weights that are not packed."""
_FEWEST_WEIGHTS = 2**16
"""256 kB in float32. Smaller ones gain as well where a step has read other weights in between, as all layers of a model
do; below this the call itself is most of the time."""
_ROWS = 256  # rows for which oneDNN chooses the order: with it, every number of rows was fast


def large_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers whose products gain; none where torch does not have both libraries."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):  # type: ignore[no-untyped-call]
        return []
    return [module for module in model.modules() if isinstance(module, nn.Linear) and _gains(module)]


@contextmanager
def fast_products(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Within it these layers compute products of few rows in float32 by oneDNN, without gradients."""
    layers = [layer for layer in layers if layer.weight.dtype == torch.float32 and "forward" not in vars(layer)]
    for layer in layers:
        vars(layer)["forward"] = partial(_product, layer, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


@contextmanager
def packed_weights(model: nn.Module) -> Iterator[None]:
    """Within it large layers hold their weights in oneDNN's order, in place of their own, and compute by oneDNN.

    A layer's weights are put in order when it is first called; where a model reads a layer's weights without calling
    it, as some routers of experts are read, they stay as they are. Nothing but the forward pass of a layer that was
    called can read its weights meanwhile: its parameter holds none. Weights that are another module's too, such as an
    embedding's that is the head as well, are left alone. Leaving puts the same numbers back.
    """
    users = Counter(id(own) for module in model.modules() for own in module.parameters(recurse=False))
    layers = [_InOrder(layer) for layer in large_layers(model) if users[id(layer.weight)] == 1]
    try:
        yield
    finally:
        for layer in layers:
            layer.close()


class _InOrder:
    """A layer's products from its weights in oneDNN's order."""

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        self._in_order: Tensor | None = None
        vars(layer)["forward"] = self

    def __call__(self, states_AI: Tensor) -> Tensor:
        if self._in_order is None:
            weight = self._layer.weight
            self._in_order = torch.ops.mkldnn._reorder_linear_weight(weight.data, _ROWS)
            weight.data = weight.data.new_tensor(torch.nan).expand(weight.shape)  # holds one number
        return one_dnn_product(states_AI, self._in_order, self._layer.bias)

    def close(self) -> None:
        del vars(self._layer)["forward"]
        weight, self._in_order = self._in_order, None  # let go of here, so that the next layer's takes its place
        if weight is not None:
            self._layer.weight.data = weight.to_dense()


def _gains(layer: nn.Linear) -> bool:
    weight = layer.weight
    is_own = type(layer) is nn.Linear and "forward" not in vars(layer)  # accelerate puts one there
    is_plain = not hasattr(weight, "__tensor_flatten__") and weight.device.type == "cpu" and weight.is_contiguous()
    is_fast = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )
    return is_own and is_plain and weight.numel() >= _FEWEST_WEIGHTS and is_fast


def _product(layer: nn.Linear, usual: Callable[[Tensor], Tensor], states_AI: Tensor) -> Tensor:
    """(A, O); any dimensions may come before the last."""
    if states_AI.numel() < _FEWEST_ROWS * layer.in_features or torch.is_grad_enabled():
        return usual(states_AI)
    return one_dnn_product(states_AI, layer.weight, layer.bias)


def one_dnn_product(states_AI: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(A, O) by oneDNN; the weight lies in torch's order or in oneDNN's."""
    return torch.ops.mkldnn._linear_pointwise(states_AI, weight, bias, "none", [], "")  # type: ignore[no-any-return]
