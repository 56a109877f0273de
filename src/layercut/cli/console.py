"""Where output goes: results to stdout, everything said on the way to stderr."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

if TYPE_CHECKING:
    from layercut.study.estimate import Estimate

out = Console(highlight=False, soft_wrap=False)
log = Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """One line for people, on stderr."""
    _print(log, message, markup=False)


def warn(message: str) -> None:
    """A line that should not be overlooked, on stderr."""
    _print(log, f"[yellow]note:[/yellow] {_plain(message)}")


def error(message: str) -> None:
    """Why a command stops, on stderr."""
    _print(log, f"[red]error:[/red] {_plain(message)}")


def result(text: str) -> None:
    """One line of a result, on stdout, never wrapped or coloured where it is piped."""
    _print(out, text, markup=False)


def as_json(data: Any) -> None:
    """The whole result for machines, on stdout."""
    out.print(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False), markup=False, soft_wrap=True)


def show_estimate(estimate: Estimate, *, json: bool) -> None:
    """What a dry run found out."""
    if json:
        as_json(estimate.to_dict())
        return
    for line in estimate.lines():
        result(line)


def _print(console: Console, text: str, *, markup: bool = True) -> None:
    """A line: whole where it is piped, broken between words on a terminal, which would break it anywhere."""
    console.print(text, markup=markup, soft_wrap=not console.is_terminal)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
