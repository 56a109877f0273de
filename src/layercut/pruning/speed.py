"""How small and how fast models are: the sizes of a path, and speed and memory that are timed on this machine.

At each size of a path the plan before is made smaller in several ways: by thinner MLPs alone, and by one layer more
with MLPs as thin as the size then needs. All of them have the same bytes, so that the divergence on the original
model's right answers compares them; where nothing is written, task scores do. Where layers alone go, sizes are those of
whole layers. A speed that was asked for becomes the size that is forecast to have it. Models are timed in a serving
profile, by turns.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from pydantic import BaseModel

from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError, MissingExtra
from layercut.evidence.intervals import geometric_mean_ratio
from layercut.models.convert import file_sha256
from layercut.models.gguf_file import read_gguf_head
from layercut.models.structure import structure_of
from layercut.models.weights import WEIGHTS, TensorSpan, read_config, stored_tensors
from layercut.progress import Progress
from layercut.pruning.settings import LLAMA_CPP, WIDTH, Profile, PruneSettings
from layercut.runs.prune import VERSUS, Estimated, TimedSpeed, as_estimated
from layercut.runs.study import UNCUT
from layercut.settings import QUANTISED, ModelSettings
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.gguf import SUFFIX, gguf_file
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_of, stored_slots
from layercut.tasks.cells import folder_name

if TYPE_CHECKING:
    from layercut.engine.timing import Timer


NUM_ROUNDS = 5
_MEASURES: tuple[tuple[Any, Any, Any], ...] = (
    ("request", "s", "lower"),
    ("decode", "tokens/s", "higher"),
    ("prefill", "tokens/s", "higher"),
    ("first token", "s", "lower"),
)
_KIND = re.compile(r"[a-z]{2,4}\d+", re.IGNORECASE)  # a kind of quantised weights, as people write it


def timed_rounds(
    timers: Mapping[str, Timer], profile: Profile, seed: int, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Rounds in which all models run, in an order that changes; one before them warms caches up.

    Args:
        timers: the original model as ``uncut``, and others.

    Returns:
        By name ``rounds``, a timing each; ``memory_bytes`` and ``cache_bytes_per_token``, which are counted; JSON-able.
    """
    names = list(timers)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(NUM_ROUNDS + 1):
        progress("rounds timed", number, NUM_ROUNDS + 1)
        turn = number % len(names)
        for name in [*names[turn:], *names[:turn]]:
            timing = timers[name](profile.batch, profile.prompt, profile.middle, seed)
            rounds[name] += [timing._asdict()] if number else []
    tokens = profile.batch * max(profile.prompt, profile.middle)
    return {
        name: {
            "rounds": own,
            "memory_bytes": timers[name].weight_bytes,
            "cache_bytes_per_token": own[0]["cache_bytes"] / tokens,
        }
        for name, own in rounds.items()
    }


def timed_speeds(timed: Mapping[str, Mapping[str, Any]], name: str, profile: Profile) -> tuple[TimedSpeed, ...]:
    """Speeds of the original model and of another one, from rounds in which both ran."""

    def values(model: str, measure: str) -> list[float]:
        rounds = timed[model]["rounds"]
        if measure == "request":
            return [turn["first_token"] + (profile.new - 1) * profile.batch / turn["decode"] for turn in rounds]
        return [turn[measure.replace(" ", "_")] for turn in rounds]

    return tuple(
        TimedSpeed(
            name=measure,
            unit=unit,
            better=better,
            batch_size=profile.batch,
            uncut=_mean(before := values(UNCUT, measure)),
            cut=_mean(after := values(name, measure)),
            ratio=as_estimated(geometric_mean_ratio(before, after)),
        )
        for measure, unit, better in _MEASURES
    )


def _mean(values: Sequence[float]) -> Estimated:
    """Geometric mean with a 95 % interval of Student's t of its logarithm."""
    return as_estimated(geometric_mean_ratio([1.0] * len(values), values))


class TimeParts(BaseModel, frozen=True, extra="forbid"):
    """The parts of a time that goes with the layers and MLP channels that stay."""

    fixed: float  # that no plan takes away
    layer: float  # of a layer without its MLP channels; layers may be counted as a share of all
    channels: float  # of all MLP channels of a layer

    @classmethod
    def fitted(cls, stay: Sequence[tuple[float, float]], seconds: Sequence[float]) -> TimeParts:
        """Least squares without negative parts, over plans by their layers and share of the channels."""
        plans = np.array([[1.0, layers, layers * share] for layers, share in stay])
        fixed, layer, channels = map(float, scipy.optimize.nnls(plans, np.array(seconds))[0])
        return cls(fixed=fixed, layer=layer, channels=channels)

    def seconds(self, layers: float, channels: float = 1.0) -> float:
        """Of a model of ``layers`` layers, each with this share of its channels."""
        return self.fixed + layers * (self.layer + channels * self.channels)


def other_model(settings: ModelSettings, name: str) -> ModelHandle:
    """A model that is named beside the original one, and run as that one is; a GGUF file in llama.cpp, and
    ``MODEL@int8`` with weights that torchao quantises; those of 4 bits are multiplied in bfloat16.

    Raises:
        InputError: no such model, or one that cannot be used.
        MissingExtra: xllamacpp is not installed, for a GGUF file.
    """
    whole, (name, _, kind) = name, name.rpartition("@")
    if kind not in QUANTISED:
        if name and _KIND.fullmatch(kind):
            raise InputError(f"`versus` {whole}: {kind} is not a kind of weights here; write {', '.join(QUANTISED)}.")
        name, kind = whole, ""
    more: dict[str, str] = {"quantize": kind} if kind else {}
    more |= {"dtype": "bfloat16"} if kind == "int4" else {}
    if name.lower().endswith(SUFFIX) and not kind:
        if find_spec("xllamacpp") is None:
            raise MissingExtra("running a GGUF file in llama.cpp", "llama-cpp")
        more = {"engine": LLAMA_CPP, "dtype": "auto"}
    try:
        return ModelHandle(settings.replace(model=name, revision=None, **more))
    except InputError as error:
        raise type(error)(f"`versus` {name}: {error}") from error


class MadeModel(ModelHandle):
    """A GGUF file that was made of a model, in llama.cpp; the model's folder says how texts are read."""

    def __init__(self, original: ModelHandle, file: Path, **settings: Any) -> None:
        """Nothing is loaded yet; ``settings`` are taken in place of the original model's."""
        own = {"model": str(file), "revision": None, "engine": LLAMA_CPP, "dtype": "auto"}
        wanted = original.settings.replace(**own, **settings)
        origin = {WEIGHTS: file_sha256(file)}
        super().__init__(wanted, source=replace(original.source, name=str(file), revision=None, origin=origin))

    def num_parameters(self, plan: CutPlan) -> int:
        return read_gguf_head(Path(self.settings.model)).num_parameters


def run_of(name: str) -> str:
    """The run folder of a named model, inside the folder of prune."""
    return f"{VERSUS}/{folder_name(name)}"


def timer_of(model: ModelHandle, plan: CutPlan | None = None, profile: Profile | None = None) -> Timer:
    """Times a model under a plan in the engine of the profile, or in the one that runs it.

    Raises:
        InputError: the engine is llama.cpp, and the model is no GGUF file.
        MissingExtra: it is not installed.
    """
    from layercut.engine.llamacpp import GgufTimer
    from layercut.engine.timing import CheckpointTimer

    plan, settings = plan or CutPlan(num_layers=model.num_layers), model.settings
    if profile is not None and profile.engine == LLAMA_CPP:
        if gguf_file(settings.model) is None:
            raise InputError(
                f"`serve` engine={LLAMA_CPP} times a GGUF file, and {settings.model} is none; give the model's GGUF "
                "file, or leave the engine out."
            )
        wanted = settings.replace(engine=LLAMA_CPP, dtype="auto", batch_size=profile.batch)
        return GgufTimer(ModelHandle(wanted), plan)
    return GgufTimer(model, plan) if ENGINES[settings.engine].runs_gguf else CheckpointTimer(model.loaded, plan)


STEP = 0.05  # share of the weights' bytes by which each plan of a path of sizes is smaller than the one before
MOST, MOST_FOR_SPEED = 0.3, 0.6
"""Share of the bytes that may go where nothing else was asked for, and where a speed was."""


def unread_bytes(config: Mapping[str, Any], stored: Sequence[TensorSpan]) -> int:
    """Bytes that no token passes through: the table of input embeddings, where the output has one of its own."""
    vocabulary = config.get("text_config", config).get("vocab_size")
    tables = [tensor.num_bytes for tensor in stored if tensor.shape[:1] == (vocabulary,)]
    return tables[0] if len(tables) > 1 else 0


class Sizes:
    """The bytes of a model's weights, by layer and by MLP channel."""

    def __init__(self, model: ModelHandle, *, thins: bool = True, tokens: CutPlan | None = None) -> None:
        """Read the headers of the weight files.

        Args:
            thins: MLPs become thinner, else layers alone go.
            tokens: the plan of those that go before.

        Raises:
            InputError: a model whose MLPs cannot be thinned.
        """
        if thins and ENGINES[model.settings.engine].reads_weights:
            raise InputError("plans with thinner MLPs are run by `engine` shared or plain")
        config = read_config(model.source.path)
        self.mlp = mlp_width_of(config, model.settings.model) if thins else None
        stored = stored_tensors(model.source.path)
        structure = structure_of(config, model.settings.model, [tensor.name for tensor in stored])
        self.total = sum(tensor.num_bytes for tensor in stored)
        self.tokens, self.gone = tokens, 0  # the bytes of the tokens
        if tokens is not None:
            trimmed = plan_cut(model.source.path, tokens)
            self.gone = trimmed.bytes_before - trimmed.bytes_after
        self._read = self.total - unread_bytes(config, stored)
        self._layers = dict.fromkeys(range(model.num_layers), 0)
        self._thin = dict.fromkeys(self._layers, 0)  # of what gets thinner
        names = stored_slots(stored, self.mlp, structure, config, model.settings.model) if self.mlp else {}
        for tensor in stored:
            match = structure.tensor_pattern.match(tensor.name)
            if match and (layer := int(match[2])) in self._layers:
                self._layers[layer] += tensor.num_bytes
                if tensor.name in names:
                    self._thin[layer] += tensor.num_bytes
        self._layer = sum(self._layers.values()) / len(self._layers)  # of one layer, on average

    def share(self, removed: Sequence[int], smaller: float) -> float | None:
        """Share of the MLP channels that goes beside the layers, so that this share of the bytes does; None where the
        layers alone are more, or the channels do not suffice.
        """
        left = smaller * self.total - self.gone - sum(self._layers[layer] for layer in removed)
        share = left / sum(size for layer, size in self._thin.items() if layer not in removed)
        return share if 0 < share < 1 else None

    def count_layers(self, smaller: float) -> int:
        """The number of layers that is nearest to this share of the bytes, at least one."""
        return max(1, round((smaller * self.total - self.gone) / self._layer))

    def most_bytes(self, settings: PruneSettings) -> float:
        """The largest share of the bytes that may go: as asked for, or as forecast to have the speed asked for.

        Time is taken to follow the weights that a token passes through, all but the table of input embeddings;
        attention to earlier tokens is left out. InputError: a speed that no such plan should have.
        """
        most = settings.smaller or (MOST if settings.faster is None else MOST_FOR_SPEED)
        if settings.faster is not None:
            needed = math.ceil(100 * (1 - 1 / settings.faster) * self._read / self.total) / 100
            if needed > most:
                raise InputError(
                    f"`faster` {settings.faster:g} needs about {needed:.0%} fewer bytes, and at most {most:.0%} are "
                    "removed; ask for less."
                )
            most = settings.smaller or needed
        return most

    def wanted(self, settings: PruneSettings) -> tuple[float, ...]:
        """The sizes of the path, as shares of the bytes that are removed: by ``STEP``, and ``most_bytes``; of whole
        layers, as many as come nearest to each.

        Raises:
            InputError: a size or speed that no such plan has.
        """
        most, first = self.most_bytes(settings), self.gone / self.total
        if most <= first:
            raise InputError(
                f"the tokens alone are {first:.1%} of the bytes, and `smaller` is no more; ask for more than that, or "
                "remove them alone: layercut cut MODEL --remove vocab:ascii."
            )
        sizes = (round(STEP * step, 4) for step in range(1, math.ceil(round(most / STEP, 6))))
        steps = [size for size in sizes if size > first]
        # No plan reaches the bytes of all MLPs, and of one layer more at each size; two layers stay at least.
        kind = settings.removed_units.kind
        count = 0 if kind == WIDTH else len(steps) + 1 if self.mlp else len(self._layers) - 2
        largest = set(sorted(self._layers, key=lambda layer: -self._layers[layer])[:count])
        thin = sum(size for layer, size in self._thin.items() if layer not in largest)
        limit = (self.gone + sum(self._layers[layer] for layer in largest) + thin) / self.total
        if most >= limit:
            raise InputError(
                f"no plan of this model is {most:.0%} smaller: embeddings and attention stay, and {limit:.0%} is about "
                "the most; ask for less."
            )
        if self.mlp:
            return (*steps, most)
        whole = math.floor if settings.smaller or settings.faster is None else math.ceil
        if (most_layers := whole(round((most * self.total - self.gone) / self._layer, 6))) == 0:
            least = math.ceil(1000 * (self.gone + self._layer) / self.total) / 10
            raise InputError(f"a layer has {least:g}% of the bytes, and `smaller` is less; ask for that at least.")
        counts = {min(self.count_layers(size), most_layers) for size in (*steps, most)} | {most_layers}
        return tuple(round((self.gone + count * self._layer) / self.total, 4) for count in sorted(counts))
