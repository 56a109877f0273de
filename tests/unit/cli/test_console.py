"""Lines for people: whole where they are piped, broken between words on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO

import pytest

from layercut.cli import console

TEXT = "gsm8k (chain): the uncut value is not above 0, so there is [nothing] to retain; raise --limit, or leave it out."
FORMS = {
    console.print_line: TEXT,
    console.print_warning: f"note: {TEXT}",
    console.print_error: f"error: {TEXT}",
    console.print_result_line: TEXT,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("terminal", [True, False])
def test_no_word_is_broken(form: Callable[[str], None], terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    where = console.SafeConsole(file=StringIO(), width=80, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(console, "log", where)
    monkeypatch.setattr(console, "out", where)
    form(TEXT)
    assert isinstance(where.file, StringIO)
    lines = where.file.getvalue().splitlines()
    assert " ".join(line.strip() for line in lines) == FORMS[form]
    assert (len(lines) == 2 and max(map(len, lines)) <= 80) if terminal else len(lines) == 1
