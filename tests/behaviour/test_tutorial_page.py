"""The commands of docs/start/tutorial.md work in order on the embedded model, and print what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from tests.support.commands import MODEL, ROOT, commands

pytestmark = pytest.mark.slow
PAGE = ROOT / "docs" / "start" / "tutorial.md"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shape(line: str) -> str:
    """A line without its widths and digits: another processor may round another way, but no finding may change."""
    return re.sub(r"\d+", "0", " ".join(line.split()))


def test_the_tutorial_prints_what_the_page_shows(tmp_path: Path) -> None:
    try:
        bundled_file(bundled_model(MODEL))
    except InputError as error:
        pytest.skip(str(error))
    printed: list[str] = []
    shown = 0
    for kind, block in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "bash":
            for said in commands(block, PAGE.name):
                ran = subprocess.run(
                    [sys.executable, "-m", "layercut", *said.words],
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    check=False,
                    env={**os.environ, "COLUMNS": "88"},
                )
                assert ran.returncode == 0, (said.words, ran.stderr)
                printed += [shape(line) for line in ran.stdout.splitlines()]
        elif kind == "text":
            shown += 1
            assert [line for line in block.splitlines() if shape(line) not in printed] == []
    assert shown == 7
