"""Settings that every verb shares: which model, which tasks, how answers are drawn."""

from __future__ import annotations

import re
from typing import Annotated, Any, NamedTuple, Self
from urllib.parse import parse_qsl

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from layercut.base_settings import Choices, Names, Number, Settings, Share, one_of
from layercut.engines import ENGINES
from layercut.errors import InputError

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_TYPES = ("auto", "cpu", "cuda", "mps", "xpu")
GENERATED = "generated"  # calibration text that the original model writes itself

QUANTISED = ("int8", "int4", "fp8")
"""Kinds of weights by torchao: 8-bit and 4-bit integers, and 8-bit floating-point numbers."""


_ADDRESS = re.compile(r"^(?:local:(?P<local>\d+)|(?P<cluster>ray://[\w.\-\[\]:]+|auto))(?:\?(?P<options>.*))?$")


class PoolAddress(NamedTuple):
    """Address and number of the members of an engine pool."""

    address: str | None  # of a running cluster; None for processes of this machine
    members: int | None  # None for as many as there are GPUs for, or one a machine where there are none
    gpus: float | None  # for each member; None for one, where there are any

    @classmethod
    def parse(cls, text: str) -> PoolAddress:
        """``local:N`` or ``ray://HOST:PORT`` (or ``auto``, on a machine of the cluster), with ``?members=M&gpus=K``.

        >>> PoolAddress.parse("ray://head:10001?gpus=4")
        PoolAddress(address='ray://head:10001', members=None, gpus=4.0)

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


_DEVICE_TYPES = Choices(DEVICE_TYPES)


def _device(text: str, info: ValidationInfo) -> str:
    return _DEVICE_TYPES(text.partition(":")[0], info) and text


def _engine_pool(text: str) -> str:
    PoolAddress.parse(text)
    return text


def _depth(text: Any) -> Any:
    """Return a share in percent, 25% for 0.25, and a number alone: 3 for ``3 layers``."""
    text = re.sub(r"\s*layers?$", "", text.strip()) if isinstance(text, str) else text
    return f"{float(text) * 100:g}%" if re.fullmatch(r"0?\.\d+", str(text)) else text


class Depth(Settings):
    """A number of decoder layers to remove, or a share of the model's."""

    text: Annotated[str, BeforeValidator(_depth)] = Field(description="3, 3 layers or 25%; 0.25 is 25%.")

    @property
    def is_share(self) -> bool:
        """True if it is a share of the model's layers."""
        return self.text.endswith("%")

    @model_validator(mode="after")
    def _check(self) -> Self:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", self.text)
        number = float(match[1]) if match else 0
        if not match or not (0 < number < 100 if match[2] else number >= 1 and match[1].isdigit()):
            raise InputError(
                f"depth {self.text!r:.60} is no depth; write a number of layers, such as 3, or a share: 25% or 0.25."
            )
        return self

    def layers(self, num_layers: int) -> int:
        """Of a model of ``num_layers``; a share is rounded to the nearest number, at least 1, and a half upwards."""
        if self.is_share:
            return max(1, int(float(self.text[:-1]) / 100 * num_layers + 0.5))
        return int(self.text)


class TaskSettings(Settings):
    """One task and how it is read out."""

    task: str = Field(description="Name of the task.")
    readouts: Names | None = Field(
        None,
        description="What to read out (rank, short, chain); all that the task has if left out.",
    )
    limit: int | None = Field(None, ge=1, description="At most this many report items.")
    data: str | None = Field(None, description="A local file or folder in place of the hub data set.")
    max_new_tokens: int | None = Field(None, ge=1, description="Longest answer, for tasks where it can be chosen.")
    samples: int = Field(1, ge=1, description="Answers drawn for each item; with a temperature above 0, gives pass@k.")


class ModelSettings(Settings):
    """The model, and settings of its loading."""

    model: str = Field(
        description="Hugging Face id, local Hugging Face folder, .gguf file, or bundled:smollm2-135m (the embedded "
        "default)."
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    dtype: Annotated[str, one_of(DTYPES)] = Field(
        "auto", description="auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16."
    )
    device: Annotated[str, AfterValidator(_device)] = Field("auto", description="auto, cpu, cuda, cuda:1, mps, xpu.")
    device_map: str | None = Field(
        None, description="Spread a large model over devices, as in transformers: auto, balanced."
    )
    batch_size: int = Field(32, ge=1, description="Sequences run at once; halved when memory runs out.")
    engine: Annotated[str, one_of(ENGINES)] = Field(
        next(iter(ENGINES)),
        description="; ".join(f"{name}: {row.help}" if row.help else name for name, row in ENGINES.items()) + ".",
    )
    cache_gib: Number = Field(
        2.0, gt=0, description="GiB of memory for keys and values: those that plans share (shared), or all (vllm)."
    )
    engine_pool: Annotated[str, AfterValidator(_engine_pool)] | None = Field(
        None,
        description="Engines in many processes: local:N here, or ray://HOST:PORT, one for each GPU there (?gpus=K for "
        "each).",
    )
    base_url: str | None = Field(None, description="openai: the server, such as http://localhost:8000/v1.")
    quantize: Annotated[str, one_of(QUANTISED)] | None = Field(
        None, description="Quantise the weights once they are loaded, by torchao: int8, int4 or fp8."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ENGINES[self.engine].needs:
            if not getattr(self, name):
                raise InputError(f"the engine {self.engine} needs {name}: {type(self).model_fields[name].description}")
        for engine, row in ENGINES.items():
            for name in row.takes:
                if getattr(self, name) and name not in ENGINES[self.engine].takes:
                    raise InputError(
                        f"{name} is for the engine {engine}, and the engine is {self.engine}; leave it out."
                    )
        if self.quantize and (ENGINES[self.engine].reads_weights or ENGINES[self.engine].is_served):
            raise InputError(f"quantize is for models in transformers, and the engine is {self.engine}; leave it out.")
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that decide the numbers, for a run's settings.

        How much memory may be used decides none, nor by how many processes, nor where a server is.
        """
        settings = self.as_dict()
        del settings["cache_gib"], settings["base_url"], settings["engine_pool"]
        return settings


class DecodingSettings(Settings):
    """Settings of drawing tokens. Temperature 0 is greedy and leaves the other settings without effect."""

    temperature: Number = Field(0.0, ge=0, description="0 is greedy; above, answers are sampled.")
    top_p: Share = Field(1.0, gt=0, le=1, description="Nucleus sampling: the likeliest tokens with this probability.")
    top_k: int = Field(0, ge=0, description="Sample from this many most likely tokens; 0 for all.")


class CalibrationSettings(Settings):
    """Text that criteria are measured on."""

    source: str = Field(
        GENERATED, description="A file, hub:NAME[:config[:split]], or generated (by the original model itself)."
    )
    num_texts: int = Field(16, ge=1, description="How many texts of the calibration.")
    max_tokens: int = Field(256, ge=8, description="Longest text, in tokens.")
