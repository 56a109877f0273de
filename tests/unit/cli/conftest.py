"""Prompts for tests of the command line."""

import json
from pathlib import Path

from tests.support.items import problems_are_made_once  # noqa: F401 - used by every test here


def write_prompts(file: Path, number: int, *more: dict[str, str]) -> Path:
    """So many prompts with answers, and more."""
    rows = [{"instruction": f"Count to {count}", "output": "one two three"} for count in range(number)]
    file.write_text("\n".join(map(json.dumps, [*rows, *more])))
    return file
