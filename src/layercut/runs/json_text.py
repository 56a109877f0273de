"""Parse untrusted JSON: any problem is a ValueError with a message of one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from layercut.errors import InputError

Fields = TypeVar("Fields", bound=BaseModel)

DEEPEST = 100  # nested lists and objects. No file of layercut, and no data set that it reads, comes near.
LARGEST = 2**26  # bytes of a file of settings, a plan or metrics: 64 MiB


def parse_json(text: str | bytes, *, halves: bool = False) -> Any:
    """``json.loads`` that refuses what would fail later; ValueError for it.

    It refuses text that is no JSON in UTF-8, and nesting deeper than 100 levels (Python's own limit depends on the
    caller). Unless ``halves``, it refuses an escape of half a surrogate pair, which no file, tokenizer or terminal can
    take.
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


def load_json(path: Path) -> Any:
    """The JSON of a file of at most 64 MiB; OSError if it cannot be read, ValueError as ``parse_json``."""
    return parse_json(read_small(path))


def check_fields(fields: type[Fields], data: Any, where: str, remedy: str) -> Fields:
    """The fields of parsed JSON that are read; InputError, which begins with ``where``, for the first that is wrong."""
    try:
        return fields.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = ".".join(map(str, first["loc"])) or "the whole"
        message = first["msg"].removeprefix("Value error, ").replace("Input", "it").partition(" or instance")[0]
        problem = "is missing" if first["type"] == "missing" else f"is {first['input']!r:.60}: {message}"
        raise InputError(" ".join(f"{where}: {name} {problem}. {remedy}".split())) from error


def read_small(path: Path, largest: int = LARGEST) -> bytes:
    """A file of at most 64 MiB; OSError if it cannot be read, ValueError if it is larger."""
    with Path(path).open("rb") as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"larger than {largest >> 20} MiB")
    return data


def check_depth(value: Any) -> None:
    """Raise ValueError for more than 100 levels of lists and objects, or a value that contains itself."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(DEEPEST):
        inner = [child for outer in level for child in (outer.values() if isinstance(outer, dict) else outer)]
        level = [child for child in inner if isinstance(child, dict | list)]
        if not level:
            return
    raise _too_deep()


def check_text(value: Any) -> None:
    """Raise ValueError for half of a surrogate pair in any string of a value."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = str(error.object)[error.start]
        raise ValueError(f"it holds \\u{ord(half):04x}, half of a surrogate pair, which is no text") from None


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {DEEPEST} levels")
