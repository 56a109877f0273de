"""Fold a linear map of an MLP's output into the MLP's own weights, exactly; or change its last matrix.

In pre-norm families the last linear layer writes straight into the stream, so any map folds into it: T (W a + b) is
(T W) a + T b; with experts, into each one's. Every fold is compared with the map itself. How a layer adds the MLP's
output to the stream is measured (``norm_gain``): granite multiplies it first, and families that normalise it (gemma2,
gemma3, olmo2, olmo3, glm4) are refused.
"""

# Shapes: B batch, T tokens, N tokens, D hidden size, I intermediate size, E experts.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from layercut.errors import InputError, VerificationError

TOLERANCE = 1e-4  # largest difference between the folded module and the mapped output, as a share of the largest value
_PROJECTIONS = ("down_proj", "dense_4h_to_h", "o_proj", "dense", "c_proj")  # last linear layers of an MLP or attention
_LINEAR = 0.05
"""How far a layer's output may be from what its MLP gives times a factor, as a share; above rounding to bfloat16."""


def residual_branch(layer: nn.Module) -> nn.Module:
    """The module of a decoder layer whose output is what the MLP adds to the stream; InputError if none is known."""
    if isinstance(module := getattr(layer, "mlp", None), nn.Module):
        return module
    raise InputError(f"{type(layer).__name__} has no MLP that layercut knows, so its seam cannot be repaired.")


def last_projection(layer: nn.Module) -> Any:
    """The last matrix of a layer's MLP, which writes straight into the stream; InputError without one."""
    if _stacked(residual_branch(layer)) is not None:
        raise InputError(f"{type(layer).__name__} has experts, so there is no one last matrix; use `seam` linear.")
    return _projection(residual_branch(layer))


@torch.no_grad()
def norm_gain(layer: nn.Module, run: Callable[[], None]) -> float:
    """The factor by which a layer of a model adds what ``residual_branch`` gives to the stream; 1 in most families.

    Measured on the tokens that ``run`` gives to the layer: the output of the branch is changed at random, by as much as
    the layer's output is large so that rounding hides nothing, and the layer's output must follow. Raises InputError.
    """
    module = residual_branch(layer)
    with outputs_of_layers([module, layer], range(2)) as seen:
        run()
    plain = seen[1].double()
    drawn = torch.randn(seen[0].shape, generator=torch.Generator().manual_seed(0)).to(seen[0].device)
    change = (plain.square().mean().sqrt() * drawn).to(seen[0].dtype)

    def changed(_: Any, __: Any, output: Any) -> Any:
        return output + change if isinstance(output, Tensor) else (output[0] + change, *output[1:])

    with module.register_forward_hook(changed), outputs_of_layers([layer], range(1)) as seen:
        run()
    moved = seen[0].double() - plain
    change = change.double().reshape(moved.shape)
    factor = ((moved * change).sum() / change.square().sum()).item()
    if not (moved - factor * change).norm() <= _LINEAR * abs(factor) * change.norm():
        raise InputError(f"{type(layer).__name__} does more with its MLP's output than add it; use `method` lora.")
    return 1.0 if abs(factor - 1) < 1e-3 else factor


@torch.no_grad()
def fold_map_into_mlp(layer: nn.Module, map_DD: Tensor) -> None:
    """Change the weights so that the MLP adds ``map_DD @ x`` where it added ``x``, or raise VerificationError."""
    module = residual_branch(layer)
    states_1ND = _random_states(module, map_DD.shape[0])
    wanted_1ND = _output(module, states_1ND).double() @ map_DD.to(states_1ND.device).double().T
    with _verified(module, states_1ND, wanted_1ND):
        matrix = map_DD.to(states_1ND.device)
        if (stacked := _stacked(module)) is not None:
            stacked.copy_(torch.einsum("od,edi->eoi", matrix, stacked.double()))
            return
        projection = _projection(module)
        weight, bias = projection.weight, getattr(projection, "bias", None)
        weight.copy_(weight.double() @ matrix.T if _is_transposed(projection) else matrix @ weight.double())
        if bias is not None:
            bias.copy_(matrix @ bias.double())


@torch.no_grad()
def add_to_projection(layer: nn.Module, change_DI: Tensor) -> None:
    """Change the last matrix so that the MLP adds ``change_DI @ a`` more, a its input, or raise VerificationError."""
    module, projection = residual_branch(layer), last_projection(layer)
    states_1ND = _random_states(module, change_DI.shape[0])
    change = change_DI.to(states_1ND.device).double()
    with inputs_of_module(projection) as seen:
        output_1ND = _output(module, states_1ND).double()
    with _verified(module, states_1ND, output_1ND + seen[0].double() @ change.T):
        projection.weight.copy_(projection.weight.double() + (change.T if _is_transposed(projection) else change))


@contextmanager
def _verified(module: nn.Module, states_1ND: Tensor, wanted_1ND: Tensor) -> Iterator[None]:
    """The block changes a module, whose output is then ``wanted_1ND``; otherwise undo it, raise VerificationError."""
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    yield
    difference = (_output(module, states_1ND).double() - wanted_1ND).abs().max().item()
    tolerance = max(TOLERANCE, 4 * torch.finfo(states_1ND.dtype).eps) * max(1.0, wanted_1ND.abs().max().item())
    if not difference <= tolerance:
        for name, value in module.named_parameters():
            value.copy_(before[name])
        raise VerificationError(f"a map folded into {type(module).__name__} changed its output by {difference:.2g}.")


def _stacked(module: nn.Module) -> nn.Parameter | None:
    """The last weights (E, D, I) of all experts; None without experts."""
    weights = getattr(getattr(module, "experts", None), "down_proj", None)
    return weights if isinstance(weights, nn.Parameter) else None


def _projection(module: nn.Module) -> Any:
    for projection in (getattr(module, name, None) for name in _PROJECTIONS):
        if projection is not None:
            return projection
    raise InputError(f"{type(module).__name__} has no last linear layer that layercut knows to fold a map into.")


def _is_transposed(projection: nn.Module) -> bool:
    """True for gpt2's Conv1D, which keeps its weights as in by out, (I, D)."""
    return not isinstance(projection, nn.Linear)


def _random_states(module: nn.Module, size: int) -> Tensor:
    """Random states (1, N, D) for a comparison, the same for the same size."""
    first: Any = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 16, size, generator=generator).to(first.device, first.dtype)


def _output(module: nn.Module, states: Tensor) -> Tensor:
    output = module(states)
    first: Tensor = output[0] if isinstance(output, tuple) else output
    return first


@contextmanager
def outputs_of_layers(layers: Any, indices: Iterable[int]) -> Iterator[dict[int, Tensor]]:
    """The outputs (B, T, D) of these layers in a forward pass, by index."""
    seen: dict[int, Tensor] = {}

    def keep(index: int) -> Any:
        # No computation here: with gradient checkpointing the layer runs twice, and must do the same both times.
        return lambda _, __, output: seen.__setitem__(index, output if isinstance(output, Tensor) else output[0])

    with ExitStack() as hooks:
        for index in indices:
            hooks.enter_context(layers[index].register_forward_hook(keep(index)))
        yield seen


@contextmanager
def inputs_of_module(module: Any) -> Iterator[list[Tensor]]:
    """The inputs of a module in the calls of a forward pass, in their order."""
    seen: list[Tensor] = []
    with module.register_forward_pre_hook(lambda _, states: seen.append(states[0])):
        yield seen


class _Reached(Exception):
    """The layer whose output was wanted has been computed."""


def run_up_to_layer(layer: Any, model: Any, ids_BT: Tensor) -> None:
    """Run a model on rows up to a layer's output, without those above it; hooks set before see all of it."""

    def stop(*_: Any) -> None:
        raise _Reached

    with suppress(_Reached), layer.register_forward_hook(stop):
        model.base_model(input_ids=ids_BT, use_cache=False)
