"""Choose MLP channels: which of them the model needs for its own right answers, or for text.

What a channel adds to the stream is its activation times its column of the last matrix of the MLP. All criteria are
computed from both, in one forward pass; the layers keep as many channels each, so that a plain config says how many.

Every token counts, the first one too: a few channels write its huge activations, which all other tokens attend to, and
without these channels SmolLM2 writes noise (docs/experiments/width_choice.md).
"""

# Shapes: T tokens, C channels of an MLP, D hidden size.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from layercut.engine.base import LikelihoodRequest
from layercut.engine.rows import Tokens, compared_scorings, text_tokens
from layercut.errors import InputError, unknown_name
from layercut.models.loading import LoadedModel
from layercut.models.structure import plain_experts
from layercut.progress import Progress, show_nothing
from layercut.surgery.channels import CHANNEL_CRITERIA, Channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers
from layercut.surgery.width import ChannelSlot, MlpWidth, mlp_width_in


def answers_as_texts(loaded: LoadedModel, requests: Sequence[LikelihoodRequest]) -> list[Tokens]:
    """Prompts with their answers, as tokens."""
    return [item.rows[0].tokens for item in compared_scorings(loaded, requests)]


def texts_as_read(loaded: LoadedModel, texts: Sequence[str]) -> list[Tokens]:
    """Texts as tokens."""
    return [tuple(text_tokens(loaded, text, index)) for index, text in enumerate(texts)]


def choose_channels(
    loaded: LoadedModel,
    removed: Sequence[int],
    share: float,
    sources: Mapping[str, Sequence[Tokens]],
    *,
    criterion: str = "rms",
    progress: Progress = show_nothing,
) -> tuple[Channels, dict[str, Any]]:
    """The channels that stay without about ``share`` of them, in blocks, and what they were chosen by, JSON-able."""
    ranked = rank_channels(loaded, removed, sources, criterion=criterion, progress=progress)
    channels = keep_needed_channels(mlp_width_in(loaded.model), ranked, share)
    tokens = {name: sum(map(len, texts)) for name, texts in sources.items()}
    return channels, {"criterion": criterion, "share": share, "num_kept": channels.num_kept, "num_tokens": tokens}


def keep_needed_channels(mlp: MlpWidth, ranked: Mapping[int, Sequence[int]], share: float) -> Channels:
    """The most needed channels of each layer without about ``share`` of them. InputError: a share that leaves none."""
    number = mlp.num_kept(share)
    kept = dict(mlp.first_channels(number).kept)  # a removed layer has none to choose, and a plan names all layers
    for layer, channels in ranked.items():
        by_mlp: list[list[int]] = [[] for _ in range(mlp.mlps(layer))]
        for channel in channels:
            by_mlp[channel // mlp.width].append(channel)
        kept[layer] = tuple(sorted(channel for most in by_mlp for channel in most[:number]))
    return Channels(field=mlp.field, width=mlp.width, kept=kept)


@torch.no_grad()
def rank_channels(
    loaded: LoadedModel,
    removed: Sequence[int],
    sources: Mapping[str, Sequence[Tokens]],
    *,
    criterion: str = "rms",
    progress: Progress = show_nothing,
) -> dict[int, tuple[int, ...]]:
    """By layer, its channels, the most needed first; an expert's on the tokens that reach it, or by their columns."""
    if criterion not in CHANNEL_CRITERIA:
        raise unknown_name("channel criterion", criterion, CHANNEL_CRITERIA)
    model = loaded.model
    mlp, stack = mlp_width_in(model), decoder_layers(model)
    layers = [layer for layer in mlp.slots if layer not in set(removed)]
    ranked: dict[int, tuple[int, ...]] = {}
    total, done = sum(len(texts) for texts in sources.values()), 0
    plan = CutPlan(num_layers=len(stack), removed=tuple(removed))
    readers: dict[int, list[Reader]] = {
        layer: [(slot, getattr(stack[layer].get_submodule(slot.module), slot.tensor)) for slot in mlp.readers(layer)]
        for layer in layers
    }
    columns = {(layer, at): own for layer in layers for at, own in _columns(readers[layer])}
    moments_of = {place: _Moments(own.shape[0]) for place, own in columns.items()}
    with bypass(model, plan), ExitStack() as restoring:
        if (experts := plain_experts(model)) is not None:  # one expert at a time, so that each one's input is seen
            restoring.callback(model.set_experts_implementation, experts)
        for texts in sources.values():
            weight = 1 / max(1, sum(map(len, texts)))
            for text in texts:
                for place, states_TC in _activations(loaded, stack, readers, text):
                    moments_of[place].add(states_TC, weight / len(sources))
                done += 1
                progress("texts", done, total)
    for layer in layers:
        for slot, _ in readers[layer]:
            seen = (moments_of.get((layer, slot.first + at)) for at in range(slot.mlps))
            if not any(moments is not None and moments.weight for moments in seen):
                raise InputError(
                    f"what {slot.module} of layer {layer} of {loaded.name} reads was not seen; remove layers."
                )
        best: list[int] = []
        for (its, at), moments in moments_of.items():
            if its == layer:
                scores = moments.scores(columns[its, at].float(), criterion)
                order = torch.sort(scores, descending=True, stable=True).indices
                best += (at * mlp.width + order).tolist()
        ranked[layer] = tuple(best)
    return ranked


Reader = tuple[ChannelSlot, torch.nn.Parameter]
Place = tuple[int, int]  # a layer, and the first of its MLPs that a matrix reads


def _columns(readers: Sequence[Reader]) -> Iterator[tuple[int, Tensor]]:
    """By the first MLP, the columns (C, D) of a last matrix; of experts each expert's."""
    for slot, weight in readers:
        if slot.is_stacked:
            yield from ((slot.first + at, expert.movedim(slot.dim - 1, 0)) for at, expert in enumerate(weight.detach()))
        else:
            yield slot.first, weight.detach().movedim(slot.dim, 0)


def _activations(
    loaded: LoadedModel, stack: torch.nn.ModuleList, readers: Mapping[int, Sequence[Reader]], text: Tokens
) -> Iterator[tuple[Place, Tensor]]:
    seen: list[tuple[Place, Tensor]] = []
    stacked: dict[int, tuple[Place, torch.nn.Parameter]] = {}

    def keep(place: Place, states: Tensor) -> None:
        seen.append((place, states.reshape(-1, states.shape[-1])))

    with ExitStack() as hooks:
        for layer, own in readers.items():
            for slot, weight in own:
                place = (layer, slot.first)
                if slot.is_stacked:
                    stacked[id(weight)] = (place, weight)
                    continue
                module = stack[layer].get_submodule(slot.module)
                hook = module.register_forward_pre_hook(lambda _, given, place=place: keep(place, given[0]))
                hooks.callback(hook.remove)
        if stacked:
            hooks.enter_context(_ExpertInputs(stacked, keep))
        ids_1T = torch.tensor([text], device=loaded.model.device)
        loaded.model.base_model(input_ids=ids_1T, use_cache=False)
    yield from seen


class _ExpertInputs(TorchFunctionMode):
    """Notes what is multiplied by each expert's part of a stacked matrix: no module has it as its input."""

    def __init__(
        self, stacked: Mapping[int, tuple[Place, torch.nn.Parameter]], keep: Callable[[Place, Tensor], None]
    ) -> None:
        super().__init__()
        self._stacked, self._keep = stacked, keep
        self._parts: dict[int, tuple[Place, Tensor]] = {}
        """By identity, the parts under way, which are held so that no other tensor takes their identity."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is Tensor.__getitem__ and (stack := self._stacked.get(id(args[0]))):
            (layer, first), _ = stack
            self._parts[id(result)] = ((layer, first + int(args[1])), result)
        elif len(args) > 1 and isinstance(args[0], Tensor):
            if part := self._parts.pop(id(args[1]), None):
                self._keep(part[0], args[0])
            elif stack := self._stacked.get(id(args[1])):  # all experts at once: states (E, T, C)
                (layer, first), _ = stack
                for at, states_TC in enumerate(args[0]):
                    self._keep((layer, first + at), states_TC)
        return result


class _Moments:
    """Weighted squares of the channels of one MLP; the weights of all tokens add up to 1, of an expert's to less."""

    def __init__(self, width: int) -> None:
        self.square_C = torch.zeros(width, dtype=torch.float64)
        self.weight = 0.0

    def add(self, states_TC: Tensor, weight: float) -> None:
        states_TC = states_TC.float()
        self.weight += weight * len(states_TC)
        self.square_C += weight * states_TC.square().sum(dim=0).double().cpu()

    def scores(self, columns_CD: Tensor, criterion: str) -> Tensor:
        """How much each channel is needed, (C,) float64; ``columns_CD`` is the last matrix, channels first."""
        squared_C = columns_CD.square().sum(dim=1).double().cpu()
        if not self.weight:
            return squared_C
        norm_C = squared_C.sqrt() if criterion == "rms" else columns_CD.abs().sum(dim=1).double().cpu()
        return self.square_C.sqrt() * norm_C
