"""Estimate the cost of a command before it runs (``--dry-run``): items, tokens, a range of time, disk and memory.

    steps = [Step(name="answers", items=40, prompt_tokens=3_000, new_tokens=(200, 2_560), parameters=134_515_008)]
    estimate = Estimate(steps=tuple(steps), speed=measured_speed(), disk_bytes=0, memory_bytes=0, folder=Path("runs/a"))
    for line in estimate.lines(): ...

No model is loaded. The time is estimated from a short matrix product: its speed gives the lower end of the range, and
the upper end allows for the other work of a model.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.engine.base import Prompt
from layercut.models.weights import read_config, read_header, safetensors_files
from layercut.progress.cost import RELIABLE
from layercut.runs.atomic import nearest_existing
from layercut.runs.disk import size
from layercut.text.counting import counted

if TYPE_CHECKING:
    from layercut.engine.handle import ModelHandle

CHARACTERS_PER_TOKEN = 4
ITEM_COST = 100
"""The cost of an item of any length, in prompt tokens: small batches are bound by overhead, not by arithmetic."""
DECODE_COST = 16
"""Prompt tokens in a batch that take as long as one decoded token; only a first guess."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
TRAINING = 3.0
"""Cost of a training token, in forward passes: one forward, two backward."""
SLOWER = 4.0
"""The upper end of a range: a quarter of the speed of large matrix products, on a machine without other work."""
PASS_SECONDS = 0.1
"""Seconds of one forward pass beyond its arithmetic."""
_SIZE = 1024
_SECONDS = 0.2
_LAYER = re.compile(r"\.(?:layers|h)\.(\d+)\.")


class Speed(NamedTuple):
    """Speed of this machine, timed for a moment."""

    device: str
    products_per_second: float
    """Multiplications and additions of a large matrix product, float operations each."""
    bytes_per_second: float
    """Weights read while one token is decoded."""
    value_bytes: int = 4
    """Bytes of a weight in the dtype of both."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of a command."""

    name: str
    """Such as ``answers`` or ``training``."""
    items: int
    unit: str = "item"
    parameters: int
    """Parameters of the model that works on them."""
    prompt_tokens: int
    """That are read, all items together."""
    new_tokens: tuple[int, int] = (0, 0)
    """That are written, all items together: fewest and most."""
    batch_size: int = 32
    """Items at once."""
    cost: float = 1.0
    """Forward passes that a read token takes; TRAINING where it is trained on."""
    least: float = 1.0
    """Share of the work that is done at the least, where an engine or a race may leave some out."""

    def seconds(self, speed: Speed) -> tuple[float, float]:
        """Least and most time."""
        low, high = (
            (self._at(speed, new), PASS_SECONDS * (self.cost * self.items + new) / self.batch_size)
            for new in self.new_tokens
        )
        return self.least * (low[0] + low[1] / SLOWER), SLOWER * high[0] + high[1]

    def line(self, speed: Speed | None) -> str:
        metadata = [counted(self.items, self.unit), f"about {self.prompt_tokens:,} tokens read"]
        if self.new_tokens[1]:
            low, high = self.new_tokens
            metadata.append(f"{high:,} written" if low == high else f"{low:,} to {high:,} written")
        if speed is not None:
            metadata += _known(*self.seconds(speed))
        return f"{self.name}: {', '.join(metadata)}"

    def _at(self, speed: Speed, new_tokens: int) -> float:
        """Arithmetic, or reading the weights once for every token of a batch, whichever takes longer."""
        read = 2 * self.parameters * self.cost * self.prompt_tokens / speed.products_per_second
        products = 2 * self.parameters * new_tokens / speed.products_per_second
        steps = new_tokens / min(self.batch_size, max(self.items, 1))
        weights = speed.value_bytes * self.parameters * steps / speed.bytes_per_second
        return read + max(products, weights)


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """The cost of a command."""

    steps: tuple[Step, ...]
    speed: Speed | None
    """None gives no time."""
    disk_bytes: int
    """At the fullest moment."""
    stays_bytes: int = 0
    """Bytes that are left at the end."""
    memory_bytes: int
    """At the fullest moment."""
    memory_moment: str = ""
    """Which that is, such as ``in training``."""
    memory_parts: Mapping[str, int] = field(default_factory=dict)
    """Memory by part, in bytes; empty where that is not counted by part."""
    folder: Path | None
    """That is written to."""
    more: tuple[str, ...] = ()
    """Further lines about what would be made."""

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Least and most time of all steps."""
        if self.speed is None:
            return None
        each = [step.seconds(self.speed) for step in self.steps]
        return sum(low for low, _ in each), sum(high for _, high in each)

    @property
    def free_bytes(self) -> int | None:
        """On the disk that is written to."""
        if self.folder is None:
            return None
        return shutil.disk_usage(nearest_existing(self.folder)).free

    def to_dict(self) -> dict[str, Any]:
        return {
            "steps": [
                asdict(step) | {"seconds": step.seconds(self.speed) if self.speed else None} for step in self.steps
            ],
            "seconds": self.seconds,
            "speed": self.speed._asdict() if self.speed else None,
            "disk_bytes": self.disk_bytes,
            "stays_bytes": self.stays_bytes,
            "free_bytes": self.free_bytes,
            "memory_bytes": self.memory_bytes,
            **(
                {"memory_moment": self.memory_moment, "memory_parts": dict(self.memory_parts)}
                if self.memory_parts
                else {}
            ),
            "folder": None if self.folder is None else str(self.folder),
            **({"more": list(self.more)} if self.more else {}),
        }

    def lines(self) -> list[str]:
        lines = [*self.more, *(step.line(self.speed) for step in self.steps)]
        if self.speed is not None and self.seconds is not None:
            rate = f"{self.speed.products_per_second / 1e9:,.0f} GFLOP/s, {size(round(self.speed.bytes_per_second))}/s"
            basis = f"estimated from a short matrix product on this {self.speed.device} ({rate}), not from this model"
            lines += [f"time: {time} if nothing else runs here, {basis}" for time in _known(*self.seconds)]
        if self.folder is not None and self.free_bytes is not None:
            stays = f", of which {size(self.stays_bytes)} stays" if self.stays_bytes < self.disk_bytes else ""
            short = ": too little" if self.disk_bytes > self.free_bytes else ""
            lines.append(f"disk: up to {size(self.disk_bytes)}{stays}; {size(self.free_bytes)} is free{short}")
        moment = f" {self.memory_moment}" if self.memory_moment else ""
        lines.append(f"memory: about {size(self.memory_bytes)}{moment} plus Python and its libraries")
        if self.memory_parts:
            parts = [f"{name} {size(part)}" for name, part in self.memory_parts.items() if part]
            lines.append(f"of that memory: {', '.join(parts)}")
        if self.folder is not None:
            lines.append(f"would write to {self.folder}")
        return [*lines, "dry run: nothing was written"]


def measured_speed(device: str = "auto", dtype: str = "auto") -> Speed:
    """Time a matrix product, and a matrix times one vector, on the device and in the dtype that a model would run in;
    about half a second.

    Args:
        dtype: of the weights; any but those of ``DTYPE_BYTES`` is float32 on a CPU, else bfloat16.
    """
    import torch

    from layercut.models.placement import pick_device

    where = pick_device(device)
    if dtype not in DTYPE_BYTES:
        dtype = "float32" if where.type == "cpu" else "bfloat16"
    kind = {"dtype": getattr(torch, dtype), "device": where}
    matrix = torch.ones(_SIZE, _SIZE, **kind)
    # Larger than the caches of usual processors, as a model's weights are.
    weights = torch.ones(16 * _SIZE, _SIZE, **kind)
    vector = torch.ones(_SIZE, 1, **kind)
    return Speed(
        where.type.upper() if where.type == "cpu" else where.type,
        2 * _SIZE**3 / _seconds_of(matrix, matrix),
        weights.numel() * weights.element_size() / _seconds_of(weights, vector),
        weights.element_size(),
    )


class WeightCounts(NamedTuple):
    """A model's weights, from the headers of its files."""

    parameters: int
    stored_bytes: int
    bytes_in_memory: int
    adapter_parameters: int
    """Parameters of adapters of rank 1: the sum of rows and columns of all matrices in decoder layers."""
    layer_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    cache_bytes: int
    """Keys and values of one token."""
    vocabulary: int


def _text_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    return inner if isinstance(inner := config.get("text_config"), dict) else config


def cached_values(folder: Path) -> int:
    """Numbers that keys and values of one token are, in one layer."""
    config = _text_config(folder)
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    return int(2 * (config.get("num_key_value_heads") or heads) * (config.get("head_dim") or hidden // heads))


def weight_counts(handle: ModelHandle) -> WeightCounts:
    """Counts of a model on disk, and the bytes that it takes in memory in the dtype of its handle."""
    folder = handle.source.path
    files, config = safetensors_files(folder), _text_config(folder)
    entries = [pair for file in sorted(set(files.values())) for pair in read_header(file).tensors.items()]
    in_layers = [entry for name, entry in entries if _LAYER.search(f".{name}")]
    parameters = sum(entry.num_parameters for _, entry in entries)
    stored = sum(entry.num_bytes for _, entry in entries)
    each = DTYPE_BYTES.get(handle.dtype)
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    return WeightCounts(
        parameters=parameters,
        stored_bytes=stored,
        bytes_in_memory=stored if each is None else each * parameters,
        adapter_parameters=sum(sum(entry.shape) for entry in in_layers if len(entry.shape) == 2),
        layer_parameters=sum(entry.num_parameters for entry in in_layers),
        num_layers=handle.num_layers,
        hidden_size=hidden,
        intermediate_size=config.get("intermediate_size") or config.get("n_inner") or 4 * hidden,
        cache_bytes=handle.num_layers * cached_values(folder) * (each or 2),
        vocabulary=config.get("vocab_size", 0),
    )


def prompt_tokens(prompts: Sequence[Prompt]) -> int:
    """Tokens of prompts, estimated from their length."""
    return round(sum(len(str(prompt)) for prompt in prompts) / CHARACTERS_PER_TOKEN)


def between(low: float, high: float) -> str:
    """A range of time, in words.

    >>> between(0.2, 4), between(40, 150), between(4000, 90_000), between(468_000, 7e7)
    ('up to 4 s', '40 s to 2.5 min', '1.1 to 25 h', '5.4 to 810 days')
    """
    units = [_unit(seconds) for seconds in (low, high)]
    numbers = [
        f"{float(f'{seconds / length:.2g}'):,g}" for seconds, (length, _) in zip((low, high), units, strict=True)
    ]
    if high < 1:
        return "under 1 s"
    if low == high:
        return f"{numbers[1]} {units[1][1]}"
    if low < 1:
        return f"up to {numbers[1]} {units[1][1]}"
    first = numbers[0] if units[0] == units[1] else f"{numbers[0]} {units[0][1]}"
    return f"{first} to {numbers[1]} {units[1][1]}"


def _known(low: float, high: float) -> list[str]:
    """The range in words, where it says enough to be shown."""
    return [between(low, high)] if high <= 1.001 * RELIABLE * low or high < 1 else []


def _unit(seconds: float) -> tuple[float, str]:
    """The length of a unit in seconds, and its name; days from two of them."""
    units = ((172_800, 86_400, "days"), (3600, 3600, "h"), (60, 60, "min"))
    return next(((length, unit) for least, length, unit in units if seconds >= least), (1, "s"))


def _seconds_of(left: Any, right: Any) -> float:
    """One product, the fastest of several."""
    import torch

    best, end = float("inf"), time.monotonic() + _SECONDS
    while time.monotonic() < end:
        began = time.perf_counter()
        left @ right
        if left.device.type == "cuda":
            torch.cuda.synchronize(left.device)
        best = min(best, time.perf_counter() - began)
    return best
