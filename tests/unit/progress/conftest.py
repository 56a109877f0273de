"""One clock for every test here, and consoles whose text can be read."""

from io import StringIO

import pytest
from rich.console import Console

from layercut.progress.bars import RunProgress


class Clock:
    """The time that progress sees: it stands still until a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("time.monotonic", clock)
    return clock


@pytest.fixture
def console():
    """Where stderr is no terminal."""
    return Console(file=StringIO(), width=200)


@pytest.fixture
def lines(console):
    """What was printed so far."""
    return lambda: console.file.getvalue().splitlines()  # type: ignore[attr-defined]


@pytest.fixture
def live_text():
    """The live line of a terminal, on one line."""

    def text(progress: RunProgress, width: int = 200) -> str:
        terminal = Console(file=StringIO(), force_terminal=True, width=width, color_system=None)
        terminal.print(progress)
        return terminal.file.getvalue()

    return text
