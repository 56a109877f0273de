"""Read untrusted YAML: any problem is a ValueError with a message of one line.

Everything is checked on YAML's nodes, before a value is made: aliases and merge keys can stand for more than any memory
holds, and numbers of a million digits take minutes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from layercut.errors import one_line
from layercut.runs.json_text import DEEPEST, check_text, read_small

LARGEST = 2**21  # bytes of a file, 2 MiB: PyYAML reads about 1 MiB in three seconds
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
    text = read_small(path, LARGEST).decode("utf-8")
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
    check_text(value)
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
