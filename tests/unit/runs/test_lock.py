"""What killed writes left: the next writer removes it, ``ls`` shows it, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

import pytest

from layercut.errors import InputError
from layercut.runs import lock
from layercut.runs.atomic import new_directory
from layercut.runs.disk import size_text
from layercut.runs.lock import find_leftovers, sole_writer
from tests.unit.cli.conftest import Run, layercut

__all__ = ["layercut"]

WRITE = """
import sys, time
from pathlib import Path
from layercut.runs import lock
from layercut.runs.atomic import new_directory
with new_directory(Path(sys.argv[1])) as folder:
    (folder / "weights").write_bytes(bytes(2_500_000))
    print("half", flush=True)
    time.sleep(600)
"""


def begin(out: Path) -> subprocess.Popen[str]:
    """A process that is in the middle of writing ``out``."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
    command = [sys.executable, "-c", WRITE, str(out)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert writer.stdout.readline() == "half\n"
    return writer


def kill(writer: subprocess.Popen[str]) -> None:
    writer.kill()
    writer.communicate()


def test_the_next_writer_of_the_name_removes_what_a_killed_one_left_and_no_other(tmp_path: Path) -> None:
    kill(begin(tmp_path / "cut"))
    other = begin(tmp_path / "other")
    try:
        (tmp_path / ".cut.somebody").mkdir()
        with new_directory(tmp_path / "cut") as folder:
            (folder / "x").touch()
        names = {path.name for path in tmp_path.iterdir()}
        assert {"cut", ".cut.somebody"} <= names
        assert not any(name.startswith(".cut.layercut-") for name in names)
        assert any(name.startswith(".other.layercut-") for name in names)
        with pytest.raises(InputError, match=rf"another layercut process \(pid {other.pid}\)"):
            new_directory(tmp_path / "other").__enter__()
        assert find_leftovers(tmp_path) == []
    finally:
        kill(other)
    assert len(find_leftovers(tmp_path)) == 2  # the folder and its lock


def test_ls_shows_it_but_nothing_that_is_being_written(layercut: Run, tmp_path: Path) -> None:
    kill(begin(tmp_path / "runs" / "a" / "checkpoint"))
    running = begin(tmp_path / "runs" / "b")
    try:
        listed = layercut("ls", tmp_path / "runs").err
        assert listed.count("killed process: ") == 2  # the folder and its lock
        assert "2.50 MB in all" in listed and ".b." not in listed
    finally:
        kill(running)


def test_a_file_is_left_over_only_when_it_is_old(tmp_path: Path) -> None:
    part = tmp_path / ".metrics.json.layercut-abcd_123"
    part.write_text("half")
    (tmp_path / ".metrics.json.backup01").write_text("mine")
    assert find_leftovers(tmp_path) == []
    os.utime(part, (time.time() - 3600,) * 2)
    (left,) = find_leftovers(tmp_path)
    assert left.path == part


def test_a_name_is_free_again_after_an_error_and_its_lock_is_gone(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), sole_writer(tmp_path / "x"):
        raise KeyboardInterrupt
    with sole_writer(tmp_path / "x") as is_real:
        assert is_real
        with pytest.raises(InputError, match="is being written"), sole_writer(tmp_path / "x"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_its_last_holder_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed, try_lock = [tmp_path / ".x.layercut-lock"], lock._try_lock

    def after_the_last_holder(file: TextIO) -> bool | None:
        if removed:
            removed.pop().unlink()
        return try_lock(file)

    monkeypatch.setattr(lock, "_try_lock", after_the_last_holder)
    with sole_writer(tmp_path / "x") as is_real:
        assert is_real
        with pytest.raises(InputError, match="is being written"), sole_writer(tmp_path / "x"):
            pass


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (163_840, "164 kB"), (45_600_000, "45.6 MB"),
     (1_230_000_000, "1.23 GB"), (5 * 10**12, "5.00 TB")],
)  # fmt: skip
def test_sizes_have_the_right_unit(num_bytes: int, text: str) -> None:
    assert size_text(num_bytes) == text
