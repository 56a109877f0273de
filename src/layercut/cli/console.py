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
    """One line for people, on stderr, as it stands."""
    log.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """A line that should not be overlooked, on stderr."""
    log.print(f"[yellow]note:[/yellow] {_plain(message)}", soft_wrap=True)


def result(text: str) -> None:
    """One line of a result, on stdout, never wrapped or coloured: it may be piped."""
    out.print(text, markup=False, soft_wrap=True)


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


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
