"""Other models that a plan is weighed against: their names, engines, run folders and sizes."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError, MissingExtra
from layercut.pruning.profile import LLAMA_CPP, Profile
from layercut.runs.prune import VERSUS
from layercut.settings import QUANTISED, ModelSettings
from layercut.surgery.gguf import SUFFIX, gguf_file
from layercut.surgery.plan import CutPlan
from layercut.tasks.run import slug

if TYPE_CHECKING:
    from layercut.engine.timing import Timer

_KIND = re.compile(r"[a-z]{2,4}\d+", re.IGNORECASE)  # a kind of quantised weights, as people write it


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
