"""Choose MLP channels: which of them the model needs for its own right answers, or for text.

What a channel adds to the stream is its activation times its column of the last matrix of the MLP. All criteria are
computed from both, in one forward pass; the layers keep as many channels each, so that a plain config says how many.

Every token counts, the first one too: a few channels write its huge activations, which all other tokens attend to, and
without these channels SmolLM2 writes noise (docs/experiments/width.md).
"""

# Shapes: T tokens, C channels of an MLP, D hidden size.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layercut.engine.rows import Tokens, compared_scorings, text_tokens
from layercut.errors import unknown
from layercut.progress import Progress, silent
from layercut.surgery.channels import CHANNEL_CRITERIA, Channels, num_kept
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers
from layercut.surgery.width import MlpWidth, mlp_width_in

if TYPE_CHECKING:
    from layercut.engine.base import LikelihoodRequest
    from layercut.models.loading import LoadedModel

RIDGE = 0.01
"""Of ``obs``: share of the mean second moment that is added to the diagonal."""


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
    progress: Progress = silent,
) -> tuple[Channels, dict[str, Any]]:
    """The channels that stay, and what they were chosen by; JSON-able.

    Args:
        loaded: the original model.
        removed: removed layers; activations are those without them.
        share: of the channels, that goes; rounded to blocks.
        sources: texts by task or source, all of which count the same.
        criterion: one of CHANNEL_CRITERIA.

    Raises:
        InputError: an unknown criterion, or a model whose MLPs cannot be thinned.
    """
    ranked = rank_channels(loaded, removed, sources, criterion=criterion, progress=progress)
    channels = keep_most(mlp_width_in(loaded.model), ranked, share)
    tokens = {name: sum(map(len, texts)) for name, texts in sources.items()}
    return channels, {"criterion": criterion, "share": share, "num_kept": channels.num_kept, "num_tokens": tokens}


def keep_most(mlp: MlpWidth, ranked: Mapping[int, Sequence[int]], share: float) -> Channels:
    """The most needed channels of each layer without about ``share`` of them. InputError: a share that leaves none."""
    number = num_kept(mlp.width, share)
    # A removed layer has no channels to choose, and a plan names those of every layer.
    kept = {layer: ranked[layer][:number] if layer in ranked else range(number) for layer in mlp.slots}
    few = {layer: tuple(sorted(channels)) for layer, channels in kept.items()}
    return Channels(field=mlp.field, width=mlp.width, kept=few)


@torch.no_grad()
def rank_channels(
    loaded: LoadedModel,
    removed: Sequence[int],
    sources: Mapping[str, Sequence[Tokens]],
    *,
    criterion: str = "rms",
    progress: Progress = silent,
) -> dict[int, tuple[int, ...]]:
    """By layer that stays, its channels, the most needed first; of equals the earlier one. See ``choose_channels``."""
    if criterion not in CHANNEL_CRITERIA:
        raise unknown("channel criterion", criterion, CHANNEL_CRITERIA)
    mlp = mlp_width_in(loaded.model)
    layers = [layer for layer in mlp.slots if layer not in set(removed)]
    stack = decoder_layers(loaded.model)
    readers = {layer: mlp.reader(layer) for layer in layers}
    norms = {
        layer: getattr(stack[layer].get_submodule(slot.module), slot.tensor).detach().float().movedim(slot.dim, 0)
        for layer, slot in readers.items()
    }
    ranked: dict[int, tuple[int, ...]] = {}
    # Second moments of all layers at once would fill the memory: C x C each.
    groups = [[layer] for layer in layers] if criterion == "obs" else [layers]
    total, done = len(groups) * sum(len(texts) for texts in sources.values()), 0
    plan = CutPlan(num_layers=len(stack), removed=tuple(removed))
    for group in groups:
        found = {layer: _Moments(mlp.width, full=criterion == "obs") for layer in group}
        modules = {layer: stack[layer].get_submodule(readers[layer].module) for layer in group}
        with bypass(loaded.model, plan):
            for texts in sources.values():
                weight = 1 / max(1, sum(map(len, texts)))
                for text in texts:
                    for layer, states_TC in _activations(loaded, modules, text):
                        found[layer].add(states_TC, weight / len(sources))
                    done += 1
                    progress("texts", done, total)
        for layer, moments in found.items():
            scores = moments.scores(norms[layer], criterion)
            ranked[layer] = tuple(torch.sort(scores, descending=True, stable=True).indices.tolist())
    return ranked


def _activations(loaded: LoadedModel, modules: Mapping[int, Any], text: Tokens) -> Iterator[tuple[int, Tensor]]:
    """By layer, the channels of one text."""
    seen: dict[int, Tensor] = {}

    def keep(layer: int, given: tuple[Tensor, ...]) -> None:
        seen[layer] = given[0].reshape(-1, given[0].shape[-1])

    with ExitStack() as hooks:
        for layer, module in modules.items():
            hook = module.register_forward_pre_hook(lambda _, given, layer=layer: keep(layer, given))
            hooks.callback(hook.remove)
        ids_1T = torch.tensor([text], device=loaded.model.device)
        loaded.model.base_model(input_ids=ids_1T, use_cache=False)
    yield from seen.items()


class _Moments:
    """Weighted moments of the channels of one layer; the weights of all tokens add up to 1."""

    def __init__(self, width: int, *, full: bool) -> None:
        self.mean_C = torch.zeros(width, dtype=torch.float64)
        self.square_C = torch.zeros(width, dtype=torch.float64)
        self.square_CC = torch.zeros(width, width) if full else None

    def add(self, states_TC: Tensor, weight: float) -> None:
        states_TC = states_TC.float()
        self.mean_C += weight * states_TC.sum(dim=0).double().cpu()
        self.square_C += weight * states_TC.square().sum(dim=0).double().cpu()
        if self.square_CC is not None:
            states_TC = states_TC.cpu()
            self.square_CC.addmm_(states_TC.T, states_TC, alpha=weight)

    def scores(self, columns_CD: Tensor, criterion: str) -> Tensor:
        """How much each channel is needed, (C,) float64; ``columns_CD`` is the last matrix, channels first."""
        squared_C = columns_CD.square().sum(dim=1).double().cpu()
        if criterion == "rms":
            return self.square_C.sqrt() * squared_C.sqrt()
        if criterion == "wanda":
            return self.square_C.sqrt() * columns_CD.abs().sum(dim=1).double().cpu()
        if criterion == "flap":
            return (self.square_C - self.mean_C.square()).clamp(min=0) * squared_C
        assert self.square_CC is not None, "obs needs all second moments"
        ridged_CC = self.square_CC.clone()
        ridged_CC.diagonal().add_(RIDGE * float(self.square_C.mean()) + 1e-12)
        inverse_CC = torch.cholesky_inverse(torch.linalg.cholesky(ridged_CC))
        return squared_C / inverse_CC.diagonal().double()
