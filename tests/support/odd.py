"""Changes of one field of a small valid file, and the line that refuses one."""

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

from layercut.errors import InputError

GONE = object()


def nested(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


VALUES: dict[str, Any] = {
    "gone": GONE, "null": None, "number": 5, "negative": -1, "part": 0.5, "true": True, "text": "odd", "list": [1],
    "empty list": [], "object": {"a": 1}, "NaN": float("nan"), "infinite": float("inf"), "10^400": 10**400,
    "long": "x" * 100_000, "deep": nested(90), "too deep": nested(150), "half": "\ud83d", "lines": "a\nb\u2028c",
}  # fmt: skip


def fields_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else list(enumerate(value))[:1] if isinstance(value, list) else ()
    for key, child in inner:
        yield (*path, key)
        yield from fields_of(child, (*path, key))


def mutated(base: Any, path: tuple[Any, ...], value: Any) -> Any:
    base = place = deepcopy(base)
    for key in path[:-1]:
        place = place[key]
    if value is GONE:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return base


def check_line(error: InputError, place: str) -> None:
    assert len(str(error).splitlines()) == 1 and len(str(error)) < 1500, error
    assert place in str(error) or "holds no metric that is a number" in str(error), error
