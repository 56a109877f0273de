"""The wheel that is built from here installs in a bare environment, without a compiler, and does its job there."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.commands import ROOT

pytestmark = pytest.mark.slow


def say(*words: str | Path, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program without this session's PYTHONPATH."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False, env=kept | environment
    )


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The programs of a bare environment that the wheel was installed into, where no compiler works."""
    folder = tmp_path_factory.mktemp("bare")
    venv.EnvBuilder(with_pip=True).create(folder / "env")
    programs = folder / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    built = say(programs / "python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT)
    if built.returncode:
        if "hatchling" in built.stderr:
            pytest.skip(f"the build backend cannot be had here: {built.stderr.strip().splitlines()[-1]}")
        raise AssertionError(built.stderr)
    (wheel,) = folder.glob("layercut-*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    put = say(programs / "python", "-m", "pip", "install", wheel, CC="false", CXX="false")
    if put.returncode:
        unreachable = ("NewConnectionError", "Temporary failure", "No space left", "ConnectTimeout", "ReadTimeout")
        if any(word in put.stderr for word in unreachable):
            pytest.skip(f"packages cannot be had here: {put.stderr.strip().splitlines()[-1]}")
        raise AssertionError(put.stderr)
    return programs


def test_the_wheel_shows_its_help(bare, tmp_path):
    ran = say(bare / "layercut", "--help", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "prune" in ran.stdout and "heal" in ran.stdout


def test_the_wheel_plans_a_prune(bundled, bare, tmp_path):
    goal = ("--use", "copy", "--keep", "0.8", "--units", "layer", "--smaller", "10%")
    ran = say(bare / "layercut", "prune", bundled, *goal, "--out", "shorter", "--dry-run", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "copy (short), report" in ran.stdout and not (tmp_path / "shorter").exists()
