"""Matrix products with few rows, as decoding has them, on a CPU in float32.

torch leaves them to MKL, which copies the weights into its own order for each product, and for 4 to 15 rows chooses
kernels that read them at a half to a fifth of the machine's speed. oneDNN reads them as they lie
(``docs/experiments/speed.md``). Sums are taken in another order, so results differ by rounding. Scores of texts are
left to torch, so that they stay those of transformers.
"""

# Shapes: A rows, I input and O output features.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

_FEWEST_ROWS = 4
"""One row is a product with a vector, and for two and three MKL reads faster."""
_FEWEST_WEIGHTS = 2**21
"""8 MB: smaller weights stay in the processor's cache, where putting them in order costs little."""


def large_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers whose products gain; none where torch has not both libraries."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()):  # type: ignore[no-untyped-call]
        return []
    return [one for one in model.modules() if isinstance(one, nn.Linear) and _gains(one)]


@contextmanager
def fast_products(layers: Sequence[nn.Linear]) -> Iterator[None]:
    """Within it these layers compute products of few rows by oneDNN, without gradients."""
    for layer in layers:
        vars(layer)["forward"] = partial(_product, layer, layer.forward)
    try:
        yield
    finally:
        for layer in layers:
            del vars(layer)["forward"]


def _gains(layer: nn.Linear) -> bool:
    weight = layer.weight
    is_own = type(layer) is nn.Linear and "forward" not in vars(layer)  # accelerate puts one there
    is_plain = (
        not hasattr(weight, "__tensor_flatten__") and weight.device.type == "cpu" and weight.dtype == torch.float32
    )
    return is_own and is_plain and weight.numel() >= _FEWEST_WEIGHTS


def _product(layer: nn.Linear, usual: Callable[[Tensor], Tensor], states_AI: Tensor) -> Tensor:
    """(A, O); any dimensions may come before the last."""
    if states_AI.numel() < _FEWEST_ROWS * layer.in_features or torch.is_grad_enabled():
        return usual(states_AI)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(states_AI, layer.weight, layer.bias, "none", [], "")
    return product
