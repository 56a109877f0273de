"""Output: results to stdout, everything else to stderr."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from json import dumps
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from layercut.progress.activity import SafeConsole
from layercut.text import UNSEEN

out = SafeConsole()
log = SafeConsole(stderr=True)
_FLAGS: dict[str, str] = {}  # by field: the flags of the verb that runs
_FIELD = r"`(\w+(?:=false)?)`"  # as the library writes a field


def set_flag_names(flags: Mapping[str, str]) -> None:
    """Say flags where the library says fields: `store_top_k` becomes --store-top-k, where the verb has that flag."""
    _FLAGS.clear()
    _FLAGS.update(flags)


def _with_flags(message: str, field: str = _FIELD) -> str:
    return re.sub(field, lambda match: _FLAGS.get(match[1], match[0]), message)


def print_line(message: str) -> None:
    """One line for people, on stderr."""
    _print(log, _with_flags(message))


def print_warning(message: str) -> None:
    """A line that should not be overlooked, on stderr."""
    _print(log, Text.assemble(("note:", "yellow"), f" {_with_flags(message)}"))


def print_error(message: str) -> None:
    """Print the reason why a command stops, on stderr."""
    # Also a field that is said first with its value, and names that are no words otherwise: rank 0 is ..., top_p.
    said, known, names = str(message).partition(" Known: ")
    for field in (_FIELD, r"^(\w+)(?=:? \S+ is )", r"(?<![\w./:=-])([a-z]+_\w+)(?![\w./:=(-])"):
        said = _with_flags(said, field)
    _print(log, Text.assemble(("error:", "red"), f" {said}{known}{names}"))


def print_result_line(text: str) -> None:
    """One line of a result, on stdout, never wrapped or coloured where it is piped."""
    _print(out, text)


def show_result(data: Any, blocks: Iterable[RenderableType] = (), lines: Iterable[str] = (), *, json: bool) -> None:
    """A result: all of it for machines, or tables and then lines for people."""
    if json:
        text = dumps(data, indent=2, ensure_ascii=False, allow_nan=False)
        out.print(re.sub(f"[{UNSEEN}]", lambda match: f"\\u{ord(match[0]):04x}", text), soft_wrap=True)
        return
    for block in blocks:
        out.print(block)
    for line in lines:
        print_result_line(line)


def _print(console: Console, text: str | Text) -> None:
    """A line: broken between words on a terminal, which would break it anywhere; whole where it is piped, and where it
    begins with a space: it is a command to paste.
    """
    console.print(text, soft_wrap=not console.is_terminal or f"{text}".startswith(" "))
