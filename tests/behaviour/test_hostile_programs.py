"""All hostile programs are held, in every isolation mode that works here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from layercut.sandbox import runner as sandbox

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hostile_programs.py"


@pytest.mark.slow
def test_no_hostile_program_gets_through() -> None:
    if not sandbox._working()[0]:
        pytest.skip(f"no sandbox works here: {sandbox._working()[1]}")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    total = re.search(r"^tried (\d+), held (\d+), failed 0$", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and total and int(total[1]) == int(total[2]) >= 120, done.stdout + done.stderr
