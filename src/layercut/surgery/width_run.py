"""Check which entries of an MLP's tensors belong to one channel, by running an MLP of a few channels.

With zeros in the columns of some channels in its last matrix, the MLP must compute the same as without these channels.
So the order of gate and up in one tensor (in halves or in pairs) is found, and an MLP that computes something else in
both orders is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import product, takewhile
from typing import TYPE_CHECKING, Any

from layercut.errors import CheckpointError, InputError
from layercut.models.structure import blueprint, config_of, plain_experts, structure_in, with_text_fields
from layercut.surgery.slots import ChannelSlot, Order, taken, zeroed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

Slots = tuple[ChannelSlot, ...]
_FEW = 8  # channels of the MLP that is run
_STAY = (0, 3, 4, 6)
_CLOSE = 1e-5


def with_width(config: str, field: str, width: int, name: str) -> PretrainedConfig:
    """The config of the model with another width of its MLPs. InputError: transformers accepts none such."""
    whole = config_of(json.loads(config), name)
    text = whole.get_text_config(decoder=True)
    held = getattr(text, field, None)
    try:
        return with_text_fields(
            whole, {**text.to_dict(), field: [width] * len(held) if isinstance(held, list) else width}
        )
    except CheckpointError as error:
        raise InputError(f"transformers accepts no {name} of {field} {width}: {error}") from error


def in_order(config: str, kind: Any, field: str, name: str, slots: Mapping[int, Slots]) -> dict[int, Slots]:
    """The slots of each layer with the order of two entries a channel, by running one layer of each kind.
    Raises InputError: the channels of an MLP are not independent of each other.
    """
    known: dict[Slots, Slots] = {}
    for layer, own in slots.items():
        if own not in known:
            known[own] = _run_one(config, kind, field, name, layer, own)
    return {layer: known[own] for layer, own in slots.items()}


def _run_one(config: str, kind: Any, field: str, name: str, layer: int, slots: Slots) -> Slots:
    has_two = [slot for slot in slots if slot.order != "one"]
    path = _common([slot.module for slot in slots])
    if not path:
        if has_two:
            raise InputError(
                f"the MLP of {name} is no module of its own, so the order of its channels cannot be found."
            )
        return slots
    whole, thin = (_mlp_of(config, kind, field, name, layer, path, width) for width in (_FEW, len(_STAY)))
    modules = sorted({slot.module for slot in has_two})
    orders: tuple[Order, ...] = ("halves", "pairs")
    for chosen in product(orders, repeat=len(modules)):
        order = dict(zip(modules, chosen, strict=True))
        tried = tuple(slot._replace(order=order[slot.module]) if slot.order != "one" else slot for slot in slots)
        difference = _difference(whole, thin, path, tried)
        if difference is None and not has_two:
            return slots  # its call takes more than states; the comparison after a cut remains
        if difference is not None and difference < _CLOSE:
            return tried
    raise InputError(
        f"the MLP channels of {name} depend on each other, so that none can be removed alone; remove layers."
    )


def _mlp_of(config: str, kind: Any, field: str, name: str, layer: int, path: str, width: int) -> nn.Module:
    """One MLP of the model with a few channels and random weights, in float32."""
    import torch

    model = blueprint(with_width(config, field, width, name), kind, name)
    plain_experts(model)
    stack: Any = model.get_submodule(structure_in(model).layers)
    mlp: nn.Module = stack[layer].get_submodule(path).to_empty(device="cpu").float().eval()
    drawn = torch.Generator().manual_seed(0)
    for parameter in mlp.parameters():
        parameter.data = torch.randn(parameter.shape, generator=drawn) / parameter.shape[-1] ** 0.5
    for buffer in mlp.buffers():
        buffer.zero_()
    return mlp


def _difference(whole: nn.Module, thin: nn.Module, path: str, slots: Slots) -> float | None:
    """Largest difference between the MLP with zeros in the columns of channels and that without the channels, as a
    share of the largest output; None if it does not run on states alone. All that ``thin`` holds is written anew, and
    ``whole`` loses the same columns in every order.
    """
    import torch

    by_name = {_inside(slot, path): slot for slot in slots}
    channels = range(_FEW * max(slot.first + slot.mlps for slot in slots))
    stay = [channel for channel in channels if channel % _FEW in _STAY]
    gone = [channel for channel in channels if channel % _FEW not in _STAY]
    first = next(slot for slot in slots if not slot.reads and not slot.tensor.endswith("bias"))
    shape = whole.get_parameter(_inside(first, path)).shape
    size = shape[len(shape) - 1 - first.dim + first.is_stacked]
    states = torch.randn(1, 5, size, generator=torch.Generator().manual_seed(1))
    try:
        with torch.no_grad():
            for name, parameter in whole.named_parameters():
                slot, target = by_name.get(name), thin.get_parameter(name)
                data = parameter.data
                target.data = data if slot is None else taken(data, slot.dim, slot.entries(stay, _FEW))
                if slot is not None and slot.reads:
                    parameter.data = zeroed(data, slot.dim, slot.entries(gone, _FEW))
            outputs = [mlp(states) for mlp in (whole, thin)]
            # Those of experts may come with the router's numbers.
            masked, cut = (output[0] if isinstance(output, tuple) else output for output in outputs)
    except Exception:  # whatever its code raises on states alone
        return None
    return float((masked - cut).abs().max() / masked.abs().max().clamp(min=1e-9))


def _inside(slot: ChannelSlot, path: str) -> str:
    return slot.name.removeprefix(path).lstrip(".")


def _common(paths: Sequence[str]) -> str:
    """The module that holds all of them."""
    levels = zip(*(path.split(".")[:-1] for path in paths), strict=False)
    return ".".join(names[0] for names in takewhile(lambda names: len(set(names)) == 1, levels))
