"""The steps of the installation's page work in order on the embedded model itself, on fewer items."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from tests.support.commands import MODEL, lay_out, smaller, use_block

pytestmark = pytest.mark.slow


def test_the_steps_work_in_order(tmp_path: Path) -> None:
    try:
        bundled_file(bundled_model(MODEL))
    except InputError as error:
        pytest.skip(str(error))
    lay_out(tmp_path)
    for said in use_block():
        ran = subprocess.run(
            [sys.executable, "-m", "layercut", *smaller(said.words, 4)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, (said.words, ran.stderr)
