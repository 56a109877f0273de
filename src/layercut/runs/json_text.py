"""Read untrusted JSON and YAML: any problem is a ValueError with a message of one line.

YAML is checked on its nodes, before a value is made: aliases and merge keys can stand for more than any memory holds,
and numbers of a million digits take minutes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from layercut.errors import InputError, one_line

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
        check_plain_text(value)
    return value


def load_json(path: Path) -> Any:
    """The JSON of a file of at most 64 MiB; OSError if it cannot be read, ValueError as ``parse_json``."""
    return parse_json(read_small_file(path))


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


def read_small_file(path: Path, largest: int = LARGEST) -> bytes:
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


def check_plain_text(value: Any) -> None:
    """Raise ValueError for half of a surrogate pair in any string of a value."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        half = str(error.object)[error.start]
        raise ValueError(f"it holds \\u{ord(half):04x}, half of a surrogate pair, which is no text") from None


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {DEEPEST} levels")


LARGEST_YAML = 2**21  # bytes of a file, 2 MiB: PyYAML reads about 1 MiB in three seconds
MOST_NODES = 100_000  # keys and values, with aliases (``*name``) written out
_LONGEST_NUMBER = 1000
_TEXT = "tag:yaml.org,2002:str"


def load_yaml(path: Path, kind: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """The value in a YAML file of one document.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is larger than 2 MiB, no YAML in UTF-8, holds more than 100,000 keys and values or 100 levels
            with aliases written out, or a value that cannot be made.
    """
    text = read_small_file(path, LARGEST_YAML).decode("utf-8")
    try:
        loader = kind(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check(node, {}, 0)
            value = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST} levels") from None
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise ValueError(f"{where}{one_line(ValueError(error.problem or error))}") from error
    except Exception as error:  # a tag of YAML's on a value that it does not fit raises what it likes
        raise ValueError(one_line(error)) from error
    check_plain_text(value)
    return value


def _check(node: yaml.Node, counted: dict[int, int], depth: int) -> int:
    """Number of nodes with aliases written out; ValueError for too many, too deep, or too long a number."""
    if depth > DEEPEST:  # also where a value contains itself
        raise ValueError(f"nested deeper than {DEEPEST} levels")
    if isinstance(node, yaml.ScalarNode):
        if node.tag != _TEXT and len(node.value) > _LONGEST_NUMBER:
            raise ValueError(f"a value of {len(node.value)} characters that is no text")
        return 1
    if id(node) not in counted:
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_check(part, counted, depth + 1) for part in parts)
    if counted[id(node)] > MOST_NODES:
        raise ValueError(f"more than {MOST_NODES:,} keys and values, its aliases (*name) written out")
    return counted[id(node)]
