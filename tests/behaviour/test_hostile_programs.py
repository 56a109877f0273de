"""All hostile programs are held."""

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
    if reason := sandbox._why_not("bubblewrap"):
        pytest.skip(f"no sandbox works here: {reason}")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    total = re.search(r"^tried (\d+), held (\d+), failed 0$", done.stdout, re.MULTILINE)
    assert done.returncode == 0 and total and int(total[1]) == int(total[2]) >= 120, done.stdout + done.stderr
