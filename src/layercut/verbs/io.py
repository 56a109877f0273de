"""Io: what a request needs of its caller beyond its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console

    from layercut.engine.handle import ModelHandle
    from layercut.progress import Say
    from layercut.settings import ModelSettings


class Io(NamedTuple):
    """Console and lines for people, and the models that the caller has in memory."""

    console: Console
    say: Say
    loaded: Mapping[str, ModelHandle] = {}  # by the name of their settings

    def handle(self, settings: ModelSettings) -> ModelHandle:
        """The model: the one in memory, or its files."""
        from layercut.engine.handle import ModelHandle

        return self.loaded.get(settings.model) or ModelHandle(settings)
