"""The path of sizes: plans that make the weights smaller by equal steps, with fewer layers, thinner MLPs, or both.

At each size the plan before is made smaller in several ways: by thinner MLPs alone, and by one layer more with MLPs as
thin as the size then needs. All of them have the same bytes, so that the divergence on the original model's right
answers compares them; where nothing is written, task scores do. Channels are chosen on the same answers. All of it is
measured on selection items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.models.structure import structure_of
from layercut.models.weights import read_config, stored_tensors
from layercut.pruning.path import PlanPath
from layercut.selection.channels import answers_as_texts, keep_most, rank_channels, texts_as_read
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_of

LAYERS = 2
"""Layers that are tried at each size beside thinner MLPs alone."""


class SizedPlan(NamedTuple):
    """The plan of one size."""

    plan: CutPlan
    num_candidates: int


class Sizes:
    """The bytes of a model's weights, by layer and by MLP channel."""

    def __init__(self, model: ModelHandle) -> None:
        """Read the headers of the weight files.

        Raises:
            InputError: a model whose MLPs cannot be thinned.
        """
        if ENGINES[model.settings.engine].reads_weights:
            raise InputError("plans with thinner MLPs are run by `engine` shared or plain")
        config = read_config(model.source.path)
        self.mlp = mlp_width_of(config, model.settings.model)
        stored = stored_tensors(model.source.path)
        pattern = structure_of(config, model.settings.model, [one.name for one in stored]).tensor_pattern
        self.total = sum(one.entry.num_bytes for one in stored)
        self._layers = dict.fromkeys(range(model.num_layers), 0)
        self._channels = dict.fromkeys(self.mlp.slots, 0.0)
        names = {(layer, slot.name) for layer, slots in self.mlp.slots.items() for slot in slots}
        for one in stored:
            match = pattern.match(one.name)
            if match is None or (layer := int(match[2])) not in self._layers:
                continue
            self._layers[layer] += one.entry.num_bytes
            if (layer, match[3].removeprefix(".")) in names:
                self._channels[layer] += one.entry.num_bytes / self.mlp.width

    def share(self, removed: Sequence[int], smaller: float) -> float | None:
        """Share of the MLP channels that goes beside the layers, so that this share of the bytes does; None where the
        layers alone are more, or the channels do not suffice.
        """
        left = smaller * self.total - sum(self._layers[layer] for layer in removed)
        each = sum(size for layer, size in self._channels.items() if layer not in removed)
        share = left / (each * self.mlp.width)
        return share if 0 < share < 1 else None


class SizePath:
    """Finds the plan of each size, from that of the size before."""

    def __init__(self, model: ModelHandle, *, layers: bool) -> None:
        """Nothing is measured yet; without ``layers`` MLPs alone become thinner."""
        self._model, self._layers = model, layers
        self.sizes = Sizes(model)
        self._ranked: dict[tuple[int, ...], dict[int, tuple[int, ...]]] = {}

    def next_plan(self, path: PlanPath, removed: tuple[int, ...], smaller: float) -> SizedPlan:
        """The plan that is smaller by this share of the bytes, and removes these layers at least.

        Args:
            path: the measurements, over the model in memory.

        Raises:
            InputError: no plan is as small.
        """
        tried = [removed]
        if self._layers:
            tried += [(*removed, layer) for layer in path.proposed(removed, LAYERS)]
        shares = {layers: self.sizes.share(layers, smaller) for layers in tried}
        plans = [self._plan(path, layers, share) for layers, share in shares.items() if share is not None]
        if not plans:
            raise InputError(f"no plan of this model is {smaller:.0%} smaller; ask for less with `smaller`.")
        return SizedPlan(plans[0] if len(plans) == 1 else plans[path.best(plans)], len(plans))

    def _plan(self, path: PlanPath, removed: tuple[int, ...], share: float) -> CutPlan:
        if removed not in self._ranked:
            loaded, traces = self._model.loaded, path.traces
            texts = {name: answers_as_texts(loaded, requests) for name, requests in traces.items() if requests}
            read = texts or {"selection items": texts_as_read(loaded, path.read_texts())}
            self._ranked[removed] = rank_channels(loaded, removed, read)
        mlp = self.sizes.mlp
        return CutPlan(
            num_layers=self._model.num_layers,
            removed=removed,
            channels=keep_most(mlp, self._ranked[removed], share),
        )
