"""A pruned model that shares the original model's tensors, so that a draft needs no second copy of the weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layercut.errors import InputError
from layercut.surgery.plan import as_plan
from layercut.surgery.remove import ACTIVE, REORDERED, decoder_layers, refuse_reordered, remove_layers
from layercut.surgery.slots import Entries, taken
from layercut.surgery.width import mlp_width_in

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.surgery.plan import CutPlan


def draft_view(
    model: PreTrainedModel, plan: CutPlan | str | Sequence[int], *, reorder: bool = False
) -> PreTrainedModel:
    """A model without the plan's layers and MLP channels, whose tensors are those of ``model``.

        view = layercut.draft_view(model, "9-12")
        model.generate(**inputs, assistant_model=view)

    The input of its head is copied: it is the last of several tokens in most steps, and for a slice of a batch of one
    torch 2.13 copies the head's whole weight on a CPU (0.8 s of a round on a vocabulary of 151,936).

    An empty plan makes such a model of another one that is to be a draft.

    Its own are the key-value cache and the config, and the part of each MLP that a plan with channels keeps. With
    ``reorder`` that is shared as well: the channels of ``model`` are put into another order in place, so that those of
    the draft come first and are slices of the same tensors. The model computes the same sums in another order then, and
    takes no other plan with channels. A matrix that holds gates and inputs one behind the other is copied anyway.

    Raises:
        InputError: the plan does not fit the model, a bypass is active on it, or its channels were put into another
            order before.
    """
    if getattr(model, ACTIVE, None) is not None:
        raise InputError("a bypass is active on this model; leave it first.")
    plan = as_plan(plan, len(decoder_layers(model)))
    refuse_reordered(model, plan)
    held: dict[int, Any] = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    view = copy.deepcopy(model, held)
    if not reorder or plan.channels is None:
        view = remove_layers(view, plan)
    else:
        view = remove_layers(view, _in_front(model, plan), part=_part)
        setattr(model, REORDERED, True)
    view.train(False)
    owner: Any = view
    head = owner.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
    return view


@torch.no_grad()
def _in_front(model: PreTrainedModel, plan: CutPlan) -> CutPlan:
    """Put the channels that stay first, in every layer of the model; gives the plan by their new places."""
    assert plan.channels is not None
    mlp, layers, channels = mlp_width_in(model), decoder_layers(model), plan.channels
    mlp.check(channels)
    for layer, kept in channels.kept.items():
        stay = set(kept)
        order = sorted(range(mlp.mlps(layer) * mlp.width), key=lambda one: (one // mlp.width, one not in stay))
        for slot in mlp.slots[layer]:
            tensor = getattr(layers[layer].get_submodule(slot.module), slot.tensor)
            tensor.copy_(taken(tensor, slot.dim, slot.entries(order, mlp.width)))
    return replace(plan, channels=mlp.first_channels(channels.num_kept))


def _part(tensor: Tensor, dim: int, entries: Entries) -> Tensor:
    """The first entries as a slice, others as a copy."""
    of_mlps: Any = entries if isinstance(entries[0], Sequence) else [entries]
    size = len(of_mlps[0])
    if all(list(own) == list(range(size)) for own in of_mlps):
        return tensor.narrow(dim, 0, size)
    return taken(tensor, dim, entries)


def _contiguous(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The input of a head, contiguous also by its strides."""
    return (given[0].clone(memory_format=torch.contiguous_format), *given[1:])
