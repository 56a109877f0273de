"""Settings that every verb shares: which model, which tasks, how answers are drawn."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from layercut.errors import InputError, unknown

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_TYPES = ("auto", "cpu", "cuda", "mps", "xpu")
ENGINES = ("shared", "plain", "vllm", "openai")
"""What runs the model; the first is the default."""

GENERATED = "generated"
"""Calibration text that the uncut model writes itself."""

UNCUT = "uncut"
"""Name of the uncut model's folder in a study; no plan may take it."""


_ADDRESS = re.compile(r"^(?:local:(?P<local>\d+)|(?P<cluster>ray://[\w.\-\[\]:]+|auto))(?:\?(?P<options>.*))?$")


class PoolAddress(NamedTuple):
    """Where members live, and how many there are."""

    address: str | None
    """Of a running cluster; None for processes of this machine."""
    members: int | None
    """None for as many as there are GPUs for, or one a machine where there are none."""
    gpus: float | None
    """For each member; None for one, where there are any."""

    @classmethod
    def parse(cls, text: str) -> PoolAddress:
        """``local:N`` or ``ray://HOST:PORT`` (or ``auto``, on a machine of the cluster), with ``?members=M&gpus=K``.

        >>> Where.parse("ray://head:10001?gpus=4")
        Where(address='ray://head:10001', members=None, gpus=4.0)

        Raises:
            InputError: neither of them, or other options.
        """
        match = _ADDRESS.match(text)
        options = dict(parse_qsl(match["options"] or "")) if match else {}
        try:
            members = int(options.pop("members")) if "members" in options else None
            gpus = float(options.pop("gpus")) if "gpus" in options else None
        except ValueError:
            match = None
        if match is None or options or (members is not None and members < 1) or (gpus is not None and gpus < 0):
            raise InputError(
                f"{text!r} is no engine pool; write local:2, ray://HOST:10001, or ray://HOST:10001?members=4&gpus=2."
            )
        if match["local"] is None:
            return cls(match["cluster"], members, gpus)
        if int(match["local"]) < 1 or members is not None:
            raise InputError(
                f"{text!r} does not say how many members; write local:2 for two processes of this machine."
            )
        return cls(None, int(match["local"]), gpus)


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """One task and how it is read out."""

    task: str
    """Name of the task."""
    readouts: tuple[str, ...] | None = None
    """What to read out (rank, gold, token, short, chain, chain@64, filler@64); the task's own choice if left out."""
    limit: int | None = None
    """Only the first so many report items."""
    data: str | None = None
    """A local file or folder in place of the hub data set."""
    max_new_tokens: int | None = None
    """Longest answer, for tasks where it can be chosen; the task's own number if left out."""
    samples: int = 1
    """Answers drawn for each item, where the model writes them and the temperature is above 0; gives pass@k."""

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"task {self.task}: max_new_tokens {self.max_new_tokens} is too small; write 1 or more.")
        if self.samples < 1:
            raise InputError(f"task {self.task}: samples {self.samples} is too small; write 1 or more.")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise InputError(
                f"task {self.task}: limit {self.limit!r} is not a number of items; write 1 or more, or leave it out."
            )
        if self.readouts is not None:
            object.__setattr__(self, "readouts", tuple(self.readouts))


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    model: str
    """Hugging Face id, local folder, .gguf file, or bundled:smollm2-135m."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: str = "auto"
    """auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    device_map: str | None = None
    """Spread a large model over devices, as in transformers: auto, balanced, ..."""
    trust_remote_code: bool = False
    """Run model code that travels with the checkpoint."""
    batch_size: int = 32
    """Sequences run at once; halved when memory runs out."""
    engine: str = ENGINES[0]
    """shared: what plans have in common is computed once; plain; vllm; or openai: a server, evaluated as it is."""
    cache_gib: float = 2.0
    """Memory for keys and values, in GiB: those that plans share (shared), or all (vllm)."""
    engine_pool: str | None = None
    """local:N or ray://HOST:PORT: engines in many processes, each with a model of its own."""
    cuda_graphs: bool = False
    """Let vLLM compile the model and capture CUDA graphs, for evaluating a checkpoint as it is."""
    base_url: str | None = None
    """Address of the server that is asked, such as http://localhost:8000/v1."""
    tokenizer: str | None = None
    """Hub id or folder of the served model's tokenizer; without, the server lays out prompts, and nothing is ranked."""
    plan_from_another_model: bool = False
    """Take a plan that was made for another model of the same depth; everything written records both models."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size {self.batch_size} is too small; write 1 or more.")
        if self.dtype not in DTYPES:
            raise unknown("dtype", self.dtype, DTYPES)
        if self.device.partition(":")[0] not in DEVICE_TYPES:
            raise unknown("device", self.device, DEVICE_TYPES)
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        if self.engine_pool is not None:
            PoolAddress.parse(self.engine_pool)
        if not self.cache_gib > 0:
            raise InputError(f"cache_gib {self.cache_gib} is too small; write a number above 0, such as 2.")
        if self.engine == "openai" and not self.base_url:
            raise InputError("the engine openai asks a server; give its address, such as http://localhost:8000/v1.")
        for name, engine in {"cuda_graphs": "vllm", "base_url": "openai", "tokenizer": "openai"}.items():
            if getattr(self, name) and self.engine != engine:
                raise InputError(f"{name} is for the engine {engine}, and the engine is {self.engine}; leave it out.")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, for a run's settings.

        How much memory may be used decides none, nor by how many processes, nor where a server is. The plain engine and
        what is left out go without saying, so that a run that was begun before there was another goes on.
        """
        settings = asdict(self)
        del settings["cache_gib"], settings["base_url"], settings["engine_pool"], settings["plan_from_another_model"]
        for name in ("cuda_graphs", "tokenizer"):
            if not settings[name]:
                del settings[name]
        if self.engine == "plain":
            del settings["engine"]
        return settings


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How tokens are drawn. Temperature 0 is greedy and leaves the other settings without effect."""

    temperature: float = 0.0
    """Softmax temperature; 0 takes the most likely token."""
    top_p: float = 1.0
    """Nucleus: the smallest set of tokens with at least this probability mass."""
    top_k: int = 0
    """Only this many most likely tokens; 0 for all."""

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(
                f"temperature {self.temperature} is negative; use 0 for greedy decoding or a positive number."
            )
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p} is not in (0, 1]; use 1 to keep all tokens.")
        if self.top_k < 0:
            raise InputError(f"top_k {self.top_k} is negative; use 0 to keep all tokens.")


@dataclass(frozen=True, kw_only=True)
class CalibrationSettings:
    """Text that criteria are measured on."""

    source: str = GENERATED
    """``generated`` (by the uncut model itself), a local file, or ``hub:NAME[:config[:split]]``."""
    num_texts: int = 16
    """How many texts."""
    max_tokens: int = 256
    """Longest text, in the model's tokens."""
