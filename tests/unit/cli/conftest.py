"""The command line and the tiny model of tests/unit/conftest.py, under the name that other packages know."""

import json
from pathlib import Path

from tests.support.items import problems_are_made_once as problems_are_made_once
from tests.unit.conftest import Ran as Ran
from tests.unit.conftest import Run as Run
from tests.unit.conftest import layercut as layercut
from tests.unit.conftest import tiny as tiny


def write_prompts(file: Path, number: int, *more: dict[str, str]) -> Path:
    """So many prompts with answers, and more."""
    rows = [{"instruction": f"Count to {count}", "output": "one two three"} for count in range(number)]
    file.write_text("\n".join(map(json.dumps, [*rows, *more])))
    return file
