"""The path of sizes: plans that make the weights smaller by equal steps, with fewer layers, thinner MLPs, or both.

At each size the plan before is made smaller in several ways: by thinner MLPs alone, and by one layer more with MLPs as
thin as the size then needs. All of them have the same bytes, or the same speed where a speed was asked for, so that the
divergence on the original model's right answers compares them; where nothing is written, task scores do. Channels are
chosen on the same answers. All of it is measured on selection items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.models.structure import structure_of
from layercut.models.weights import TensorSpan, read_config, stored_tensors
from layercut.pruning.settings import WIDTH, PruneSettings
from layercut.runs.prune import BYTES
from layercut.surgery.slots import stored_slots
from layercut.surgery.width import mlp_width_of

STEP = 0.05  # share of the weights' bytes by which each plan of a path of sizes is smaller than the one before
MOST, MOST_FOR_SPEED = 0.3, 0.6
"""Share of the bytes that may go where nothing else was asked for, and where a speed was."""
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def on_experts(config: Mapping[str, Any]) -> str:
    """A line for owners of a mixture of experts: what keeps more at equal bytes, and which tools do it; else empty."""
    inner = config.get("text_config", config)
    most = max((number for name in _EXPERTS if isinstance(number := inner.get(name), int)), default=0)
    if most < 2:
        return ""
    return (
        f"this model has {most} experts a layer: in published comparisons removing experts keeps more at equal bytes "
        "(Qwen3-30B-A3B, MMLU: .740 with 96 of 128 experts, .652 with 40 of 48 layers; NVIDIA Model-Optimizer #467). "
        "Model-Optimizer and llm-compressor remove experts; layercut does not."
    )


def unread_bytes(config: Mapping[str, Any], stored: Sequence[TensorSpan]) -> int:
    """Bytes that no token passes through: the table of input embeddings, where the output has one of its own."""
    vocabulary = config.get("text_config", config).get("vocab_size")
    tables = [one.entry.num_bytes for one in stored if one.entry.shape[:1] == (vocabulary,)]
    return tables[0] if len(tables) > 1 else 0


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
        structure = structure_of(config, model.settings.model, [one.name for one in stored])
        self.total = sum(one.entry.num_bytes for one in stored)
        self._read = self.total - unread_bytes(config, stored)
        self._layers = dict.fromkeys(range(model.num_layers), 0)
        self._channels = dict.fromkeys(self.mlp.slots, 0.0)
        names = stored_slots(stored, self.mlp, structure, config, model.settings.model)
        for one in stored:
            match = structure.tensor_pattern.match(one.name)
            if match is None or (layer := int(match[2])) not in self._layers:
                continue
            self._layers[layer] += one.entry.num_bytes
            if one.name in names:
                self._channels[layer] += one.entry.num_bytes / self.mlp.width

    def share(self, removed: Sequence[int], smaller: float) -> float | None:
        """Share of the MLP channels that goes beside the layers, so that this share of the bytes does; None where the
        layers alone are more, or the channels do not suffice.
        """
        left = smaller * self.total - sum(self._layers[layer] for layer in removed)
        each = sum(size for layer, size in self._channels.items() if layer not in removed)
        share = left / (each * self.mlp.width)
        return share if 0 < share < 1 else None

    def forecast(self, smaller: float) -> float:
        """Times as fast a request should be without this share of the bytes: time goes with the weights that a token
        passes through, which are all but the table of input embeddings. Attention to earlier tokens is left out.
        """
        return self._read / max(self._read - smaller * self.total, 1)

    def bytes_for(self, less: float) -> float:
        """The share of the bytes that goes where a request takes ``less`` of its time, by the same forecast."""
        return less * self._read / self.total

    def wanted(self, settings: PruneSettings, unit: str = BYTES) -> tuple[float, ...]:
        """The sizes of the path, as shares of the bytes or seconds that go: by ``STEP``, and the most that was asked
        for.

        Raises:
            InputError: a speed that no such plan should have.
        """
        most = settings.smaller or (MOST if settings.faster is None else MOST_FOR_SPEED)
        if settings.faster is not None:
            less = 1 - 1 / settings.faster
            needed = math.ceil(100 * self.bytes_for(less)) / 100
            if needed > most:
                raise InputError(
                    f"`faster` {settings.faster:g} needs about {needed:.0%} fewer bytes, and a plan that is {most:.0%} "
                    f"smaller is forecast to be {self.forecast(most):.2f} times as fast; ask for less."
                )
            most = settings.smaller or (needed if unit == BYTES else math.ceil(100 * less) / 100)
        steps = [round(STEP * step, 4) for step in range(1, math.ceil(round(most / STEP, 6)))]
        limit = self._most(0 if settings.wanted_units == WIDTH else len(steps) + 1)
        if unit == BYTES and most >= limit:
            raise InputError(
                f"no plan of this model is {most:.0%} smaller: embeddings and attention stay, and {limit:.0%} is about "
                "the most; ask for less."
            )
        return (*steps, most)

    def _most(self, num_layers: int) -> float:
        """Share of the bytes of so many layers and of all other MLPs, which no plan reaches; each size takes one layer
        more than the one before at most."""
        gone = set(sorted(self._layers, key=lambda layer: -self._layers[layer])[:num_layers])
        thin = sum(self._channels[layer] * self.mlp.width for layer in self._channels if layer not in gone)
        return (sum(self._layers[layer] for layer in gone) + thin) / self.total
