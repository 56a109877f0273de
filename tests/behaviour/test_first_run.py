"""The command of ``make run`` prints what README, the site's first page and the page on prune show."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.behaviour.test_tutorial import shape, stdout_of
from tests.support.commands import ROOT

pytestmark = pytest.mark.slow
PAGES = ("README.md", "docs/index.md", "docs/how_to/prune.md")


def test_the_first_run_prints_what_the_pages_show(bundled, tmp_path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\t\$\(BIN\)/layercut (prune .*)$", makefile, re.MULTILINE)
    printed = {shape(line) for line in stdout_of(shlex.split(command), tmp_path).splitlines()}
    for page in PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        (block,) = re.findall(r"^```text\n(Passed: .*?)^```", text, re.MULTILINE | re.DOTALL)
        # Commands of README are those of a clone without the optional parts, called by their path.
        lines = [line for line in block.splitlines() if not line.startswith("  ")]
        assert [line for line in lines if shape(line) not in printed] == [], page
