"""Parse untrusted JSON: any problem is a ValueError with a message of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DEEPEST = 100
"""Lists and objects inside one another. No file of layercut, and no data set that it reads, comes near."""
LARGEST = 2**26
"""Bytes of a file of settings, a plan or metrics: 64 MiB."""


def parse(text: str | bytes, *, halves: bool = False) -> Any:
    """``json.loads``, but what would break later is refused like text that is not JSON.

    Python's own reader raises a RecursionError at a depth that depends on who calls it. And it takes the escape of half
    a surrogate pair, which no file, no tokenizer and no terminal takes.

    Args:
        text: JSON, in UTF-8 if it is bytes.
        halves: let halves of surrogate pairs pass.

    Raises:
        ValueError: not JSON, not UTF-8, nested deeper than 100 levels, or half of a surrogate pair.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    check_depth(value)
    escape = b"\\u" if isinstance(text, bytes) else "\\u"
    if not halves and escape in text:  # type: ignore[operator]
        check_text(value)
    return value


def load(path: Path) -> Any:
    """The JSON of a file that nobody should be able to fill the memory with.

    Raises:
        OSError: it cannot be read.
        ValueError: as in ``parse``, or the file is larger than 64 MiB.
    """
    return parse(read_small(path))


def read_small(path: Path) -> bytes:
    """A file of at most 64 MiB.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger.
    """
    with Path(path).open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"larger than {LARGEST >> 20} MiB")
    return data


def check_depth(value: Any) -> None:
    """Refuse lists and objects inside one another beyond 100 levels.

    Raises:
        ValueError: so deep, or a value that holds itself.
    """
    level = [value]
    for _ in range(DEEPEST):
        inner = [child for outer in level if isinstance(outer, dict | list) for child in _children(outer)]
        level = [child for child in inner if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep()


def check_text(value: Any) -> None:
    """Refuse halves of surrogate pairs in any string of a value.

    Raises:
        ValueError: there is one.
    """
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = str(error.object)[error.start]
        raise ValueError(f"it holds \\u{ord(half):04x}, half of a surrogate pair, which is no text") from None


def _children(value: dict[Any, Any] | list[Any]) -> Any:
    return value.values() if isinstance(value, dict) else value


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {DEEPEST} levels")
