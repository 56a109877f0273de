"""A disk of a few kilobytes: a tmpfs that root mounts for one test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, kib: int, *, read_only: bool = False) -> Iterator[Path]:
    """Mount a tmpfs of so many KiB at a new folder; the test skips where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here ({mounted.stderr.decode().strip()})")
    try:
        if read_only:
            subprocess.run(["mount", "-o", "remount,ro", str(path)], check=True)
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def room_again(path: Path, kib: int) -> None:
    """Give a small disk more room, or let it be written again."""
    subprocess.run(["mount", "-o", f"remount,rw,size={kib}k", str(path)], check=True)
