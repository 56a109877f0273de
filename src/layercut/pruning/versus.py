"""Other models that a plan is weighed against: their names, engines, run folders and sizes."""

from __future__ import annotations

from importlib.util import find_spec

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, MissingExtra
from layercut.models.weights import safetensors_files
from layercut.pruning.confirm import VERSUS
from layercut.settings import ModelSettings
from layercut.surgery.gguf import SUFFIX, gguf_file
from layercut.tasks.run import slug

LLAMA_CPP = "llama.cpp"


def other_model(settings: ModelSettings, name: str) -> ModelHandle:
    """A model that is named beside the original one, and run as that one is; a GGUF file in llama.cpp.

    Raises:
        InputError: no such model, or one that cannot be used.
        MissingExtra: xllamacpp is not installed, for a GGUF file.
    """
    more = {}
    if name.lower().endswith(SUFFIX):
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


def weight_bytes(model: ModelHandle) -> int:
    """Bytes of a model's weights on disk: of the GGUF file itself where llama.cpp runs one."""
    file = gguf_file(model.settings.model) if model.settings.engine == LLAMA_CPP else None
    files = {file} if file is not None else set(safetensors_files(model.source.path).values())
    return sum(one.stat().st_size for one in files)
