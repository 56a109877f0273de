"""ProgressTable: a live table of long work, and lines in its place where there is no terminal."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from layercut.progress.heartbeat import Tokens, clock, live


class ProgressTable:
    """A table, and below it a line of totals. Its subclasses draw it and describe the present step in ``_now``."""

    def __init__(self, console: Console) -> None:
        self._console, self._tokens = console, Tokens()
        self._began = time.monotonic()

    def running(self) -> AbstractContextManager[None]:
        """Show the table inside the block."""
        return live(self, self._console, self._tokens, self._now)

    def _drawn(self, table: Table, *facts: str, left: str) -> RenderResult:
        yield table
        so_far = f"{clock(time.monotonic() - self._began)} so far"
        parts = [*facts, self._tokens.describe(short=True), so_far, left]
        yield Text(" · ".join(part for part in parts if part), style="cyan")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        raise NotImplementedError

    def _now(self) -> str:
        raise NotImplementedError
