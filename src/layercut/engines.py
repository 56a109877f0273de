"""The engines: what runs each, which settings are its own, and what it can do. A new engine is a row here and a file.

No engine is imported before it is used, so ``--help`` and the checks of a command stay quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True, kw_only=True)
class EngineRow:
    """One engine."""

    made_by: str  # ``module:function`` that takes a ModelHandle, or a ServedModel, and returns the Engine
    help: str = ""
    needs: tuple[str, ...] = ()  # model settings that it cannot do without
    takes: tuple[str, ...] = ()  # model settings that belong to it; they are refused for engines that do not list them
    extra: str | None = None  # optional part of layercut that it needs
    is_served: bool = False  # the model is behind a server and taken whole: no layers can be removed
    reads_weights: bool = False  # it loads the weights itself, without a model of transformers in memory
    runs_gguf: bool = False  # it runs a GGUF file unchanged
    has_cache: bool = False  # it keeps keys and values in ``cache_gib`` of memory

    def make(self, handle: Any) -> Any:
        """The engine over a model."""
        module, _, name = self.made_by.partition(":")
        return getattr(import_module(module), name)(handle)


ENGINES = {
    "shared": EngineRow(
        made_by="layercut.engine.shared:engine_of",
        help="what plans have in common is computed once",
        has_cache=True,
    ),
    "plain": EngineRow(made_by="layercut.engine.plain:engine_of"),
    "vllm": EngineRow(
        made_by="layercut.engine.vllm:engine_of",
        extra="vllm",
        reads_weights=True,
        has_cache=True,
    ),
    "llama.cpp": EngineRow(
        made_by="layercut.engine.llamacpp:engine_of",
        help="GGUF files",
        extra="llama-cpp",
        reads_weights=True,
        runs_gguf=True,
        has_cache=True,
    ),
    "openai": EngineRow(
        made_by="layercut.engine.openai:engine_of",
        help="a server, evaluated unchanged",
        needs=("base_url",),
        takes=("base_url",),
        extra="openai",
        is_served=True,
    ),
}
"""By name; the first is the default."""
