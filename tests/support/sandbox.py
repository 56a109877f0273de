"""A machine without bubblewrap."""

import pytest

from layercut.sandbox import runner


def without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs run as if bubblewrap were not installed, and nothing else were allowed."""
    why_not = runner._why_not
    monkeypatch.setattr(runner, "_why_not", lambda mode: "not installed" if mode == "bubblewrap" else why_not(mode))
    monkeypatch.setattr(runner, "_UNSAFE", set())
