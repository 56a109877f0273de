"""Disks that are full, or have no room for another file, in one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from layercut.errors import InputError
from layercut.runs.disk import disk_problem, resumable_writing, writing_to_disk


@pytest.mark.parametrize(
    ("free_files", "says"), [(0, "can hold no more files (its 9 inodes are in use)"), (3, "is full")]
)
def test_a_disk_without_inodes_is_not_called_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_files: int, says: str
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=9, f_favail=free_files))
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a"))
    assert says in str(disk_problem(full)) and says in str(disk_problem(OSError(errno.ENOSPC, "No space")))
    for block in (writing_to_disk(tmp_path / "b", "use another `out`"), resumable_writing(tmp_path)):
        with pytest.raises(InputError) as caught, block:
            raise full
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_may_not_grow_is_one_line(tmp_path: Path) -> None:
    said = disk_problem(OSError(errno.EFBIG, "File too large", str(tmp_path / "a")))
    assert said is not None and "ulimit -f" in said
    assert disk_problem(OSError(errno.ENOENT, "no such file")) is None


def test_a_checkpoint_of_torch_that_did_not_fit_is_a_full_disk(tmp_path: Path) -> None:
    text = "[enforce fail at inline_container.cc:672] . unexpected pos 62208 vs 62160"
    with pytest.raises(InputError, match="is full"), resumable_writing(tmp_path):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shape"), resumable_writing(tmp_path):
        raise RuntimeError("shape mismatch")
