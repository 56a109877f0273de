"""What is printed: lines whole where they are piped, and text of files and models that does nothing to the terminal."""

import json
from io import StringIO

import pytest
from rich.table import Table

from layercut.cli import console
from layercut.errors import InputError

TEXT = "gsm8k (chain): the uncut value is not above 0, so there is [nothing] to retain; raise --limit, or leave it out."
FORMS = {
    console.print_line: TEXT,
    console.print_warning: f"note: {TEXT}",
    console.print_error: f"error: {TEXT}",
    console.print_result_line: TEXT,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("terminal", [True, False])
def test_no_word_is_broken(form, terminal, monkeypatch):
    where = console.SafeConsole(file=StringIO(), width=80, force_terminal=terminal, color_system=None)
    monkeypatch.setattr(console, "log", where)
    monkeypatch.setattr(console, "out", where)
    form(TEXT)
    assert isinstance(where.file, StringIO)
    lines = where.file.getvalue().splitlines()
    assert " ".join(line.strip() for line in lines) == FORMS[form]
    assert (len(lines) == 2 and max(map(len, lines)) <= 80) if terminal else len(lines) == 1


NASTY = (
    "\x1b]0;owned\x07", "\x1b[2J", r"\[/x]", "[/x]", "[red]", "[link=http://x]", "\x9b31m", "\ud83d", ":smile:", "\r",
    "txt.\u202eexe", "\u2066a\u2069\u200f",
)  # fmt: skip


def is_quiet(text: str) -> bool:
    """Whether a terminal would only show it."""
    text.encode()
    return all(symbol in "\n\t" or symbol.isprintable() for symbol in text)


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_that_is_printed_reaches_the_terminal_raw(nasty, capsys):
    table = Table(nasty, title=nasty)
    table.add_row(nasty, style="dim")
    for show in (console.print_line, console.print_warning, console.print_result_line, console.log.print):
        show(nasty)
    console.print_error(InputError(nasty))
    console.out.print(table)
    found = capsys.readouterr()
    assert is_quiet(found.out) and is_quiet(found.err)
    if nasty.isprintable():
        assert found.out.count(nasty) == 4 and found.err.count(nasty) == 4
    assert found.err.count("error: ") == 1


@pytest.mark.parametrize("nasty", NASTY)
def test_json_for_machines_holds_the_very_text(nasty, capsys):
    console.show_result({nasty: [nasty]}, json=True)
    found = capsys.readouterr().out
    assert is_quiet(found) and json.loads(found) == {nasty: [nasty]}


def test_a_terminal_is_still_coloured():
    screen = console.SafeConsole(file=StringIO(), force_terminal=True, color_system="standard")
    screen.print("a\x1b[2Jb", style="red")
    assert screen.file.getvalue() == "\x1b[31ma\\x1b[2Jb\x1b[0m\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize("nasty", [r"\[/x]", "[/x]", "[red]"])
def test_an_error_about_a_file_with_such_a_name_is_one_line(layercut, tmp_path, nasty):
    ran = layercut("run", tmp_path / f"{nasty}.yaml")
    assert ran.code == 1 and nasty in ran.err and ran.err.count("\n") == 1


@pytest.mark.parametrize("nasty", ["\x1b[2J", "\x07", "\udcff", "\x9b1m", "\u202e"])
def test_an_argument_with_control_characters_is_refused(layercut, nasty):
    for arguments in (["run", f"a{nasty}.yaml"], [f"--no{nasty}"], [nasty], ["eval", "x", "--tasks", nasty]):
        ran = layercut(*arguments)
        assert ran.code == 2 and ran.err.count("\n") == 1 and is_quiet(ran.err)
        assert "argument" in ran.err
