"""JSON that may come from anywhere: what cannot be read is a ValueError, whatever is wrong with it."""

from __future__ import annotations

import json
from typing import Any

DEEPEST = 100
"""Lists and objects inside one another. No file of layercut, and no data set that it reads, comes near."""


def parse(text: str | bytes) -> Any:
    """``json.loads``, but text that is nested too deep is refused like any other that is not JSON.

    Python's own reader raises a RecursionError at a depth that depends on who calls it, and what it has just read may
    be too deep to be written again.

    Raises:
        ValueError: not JSON, not UTF-8, or nested deeper than 100 levels.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    level = [value]
    for _ in range(DEEPEST):
        level = [
            child
            for outer in level
            if isinstance(outer, dict | list)
            for child in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(child, dict | list)
        ]
        if not level:
            return value
    raise _too_deep()


def is_text(value: Any) -> bool:
    """Whether all strings of a value are Unicode text: JSON can write half of a surrogate pair, which no file, no
    tokenizer and no terminal takes.

    >>> is_text({"a": ["b"]}), is_text({"a": ["\\ud83d"]})
    (True, False)
    """
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {DEEPEST} levels")
