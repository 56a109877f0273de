"""Speed and memory of models in a serving profile, timed by turns on this machine; and the other models to weigh."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy
from pydantic import BaseModel

from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError, MissingExtra
from layercut.evidence.intervals import mean_ratio
from layercut.pruning.profile import LLAMA_CPP, Profile
from layercut.runs.prune import VERSUS, Estimated, TimedSpeed, measured
from layercut.settings import QUANTISED, UNCUT, ModelSettings
from layercut.surgery.gguf import SUFFIX, gguf_file
from layercut.surgery.plan import CutPlan
from layercut.surgery.slots import MlpWidth
from layercut.tasks.cells import slug

if TYPE_CHECKING:
    from layercut.engine.timing import Timer
    from layercut.progress import Progress


NUM_ROUNDS = 5
_MEASURES: tuple[tuple[Any, Any, Any], ...] = (
    ("request", "s", "lower"),
    ("decode", "tokens/s", "higher"),
    ("prefill", "tokens/s", "higher"),
    ("first token", "s", "lower"),
)
_KIND = re.compile(r"[a-z]{2,4}\d+", re.IGNORECASE)  # a kind of quantised weights, as people write it


class RequestTime(NamedTuple):
    """Seconds that one request takes, by its tokens."""

    read: float  # seconds a token read, while the batch is read
    written: float  # seconds a token written, while the batch is written

    def __call__(self, prompt: float, new: float) -> float:
        """Seconds of a request that reads ``prompt`` tokens and writes ``new``."""
        return self.read * prompt + self.written * max(new - 1, 0)


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
            found = timers[name](profile.batch, profile.prompt, profile.middle, seed)
            rounds[name] += [found._asdict()] if number else []
    tokens = profile.batch * max(profile.prompt, profile.middle)
    return {
        name: {
            "rounds": own,
            "memory_bytes": timers[name].weight_bytes,
            "cache_bytes_per_token": own[0]["cache_bytes"] / tokens,
        }
        for name, own in rounds.items()
    }


def speeds(timed: Mapping[str, Mapping[str, Any]], name: str, profile: Profile) -> tuple[TimedSpeed, ...]:
    """Speeds of the original model and of another one, from rounds in which both ran."""
    found = []
    for measure, unit, better in _MEASURES:
        before, after = ([_value(one, measure, profile) for one in timed[who]["rounds"]] for who in (UNCUT, name))
        found.append(
            TimedSpeed(
                name=measure,
                unit=unit,
                better=better,
                batch_size=profile.batch,
                uncut=_mean(before),
                cut=_mean(after),
                ratio=measured(mean_ratio(before, after)),
            )
        )
    return tuple(found)


def request_time(timed: Mapping[str, Any], profile: Profile) -> RequestTime:
    """Seconds a token of one model, by the geometric mean of its rounds."""
    rounds = timed["rounds"]
    read = _mean([one["first_token"] for one in rounds]).value / profile.prompt
    return RequestTime(read, profile.batch / _mean([one["decode"] for one in rounds]).value)


def _value(one: Mapping[str, Any], measure: str, profile: Profile) -> float:
    if measure == "request":
        return float(one["first_token"] + (profile.new - 1) * profile.batch / one["decode"])
    return float(one[measure.replace(" ", "_")])


def _mean(values: Sequence[float]) -> Estimated:
    """Geometric mean with a 95 % interval of Student's t of its logarithm."""
    found = mean_ratio([1.0] * len(values), values)
    assert math.isclose(found.value, float(np.exp(np.mean(np.log(values)))))
    return measured(found)


class TimeParts(BaseModel, frozen=True, extra="forbid"):
    """The parts of a time that goes with the layers and MLP channels that stay."""

    fixed: float  # that no plan takes away
    layer: float  # of a layer without its MLP channels; layers may be counted as a share of all
    channels: float  # of all MLP channels of a layer

    @classmethod
    def fitted(cls, stay: Sequence[tuple[float, float]], seconds: Sequence[float]) -> TimeParts:
        """Least squares without negative parts, over plans with so many layers and this share of their channels."""
        parts, _ = scipy.optimize.nnls(
            np.array([[1.0, layers, layers * share] for layers, share in stay]), np.array(seconds)
        )
        return cls(**dict(zip(("fixed", "layer", "channels"), map(float, parts), strict=True)))

    def seconds(self, layers: float, channels: float = 1.0) -> float:
        """Of a model of ``layers`` layers, each with this share of its channels."""
        return self.fixed + layers * (self.layer + channels * self.channels)


class RequestTimes(TimeParts, frozen=True, extra="forbid"):
    """The parts of a request's seconds."""

    num_layers: int

    def share(self, removed: Sequence[int], less: float) -> float | None:
        """Share of the MLP channels that goes beside the layers, so that this share of the seconds does; None where
        the layers alone are more, or the channels do not suffice.
        """
        left = self.num_layers - len(removed)
        over = self.seconds(left) - (1 - less) * self.seconds(self.num_layers)
        share = over / max(left * self.channels, 1e-12)
        return share if 0 < share < 1 else None


def measure_request_times(
    timer: Callable[[CutPlan], Timer], count: int, mlp: MlpWidth, profile: Profile, seed: int, progress: Progress
) -> RequestTimes:
    """Time the model of ``count`` layers whole, without every other one, with half of its channels, and with both, by
    turns.
    """
    gone = tuple(range(1, count - 1, 2))
    thin = mlp.first_channels(mlp.num_kept(0.5))
    plans = [CutPlan(num_layers=count, removed=out, channels=kept) for out in ((), gone) for kept in (None, thin)]
    timed = timed_rounds({one.key: timer(one) for one in plans}, profile, seed, progress)
    seconds = [request_time(timed[one.key], profile)(profile.prompt, profile.new) for one in plans]
    stay = [(len(one.kept), one.channels.num_kept / mlp.width if one.channels else 1.0) for one in plans]
    return RequestTimes(num_layers=count, **TimeParts.fitted(stay, seconds).model_dump())


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


def run_of(name: str) -> str:
    """The run folder of a named model, inside the folder of prune."""
    return f"{VERSUS}/{slug(name)}"


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
