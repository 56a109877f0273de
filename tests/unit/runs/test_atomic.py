"""Files and folders are whole or not there: writes that fail, are killed, meet another writer or a full disk."""

import errno
import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

import pytest

from layercut.errors import InputError
from layercut.runs import lock
from layercut.runs.atomic import new_directory, write_json, write_output, write_text
from layercut.runs.disk import disk_problem, resumable_writing, size_text, writing_to_disk
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.runs.lock import find_leftovers, sole_writer


def test_text_json_and_folders_have_the_usual_rights(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "é\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "é\n".encode()
    write_json(tmp_path / "a.json", {"b": [1], "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1\n  ],\n  "a": "é"\n}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "deep"]
    write_text(tmp_path / "a", "")
    (tmp_path / "b").touch()
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "b").stat().st_mode)
    with new_directory(tmp_path / "c"):
        pass
    (tmp_path / "d").mkdir()
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == stat.S_IMODE((tmp_path / "d").stat().st_mode)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    write_text(tmp_path / "a", "old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "b", float("nan"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_directory_takes_its_name_only_when_it_is_whole(tmp_path):
    with new_directory(tmp_path / "a") as folder:
        (folder / "x").touch()
        assert not (tmp_path / "a").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x"]
    with pytest.raises(RuntimeError), new_directory(tmp_path / "b"):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_directory_replaces_an_empty_one_and_nothing_else(tmp_path):
    (tmp_path / "empty").mkdir()
    with new_directory(tmp_path / "empty") as folder:
        (folder / "x").touch()
    assert (tmp_path / "empty" / "x").exists()
    for name in ("empty", "empty/x"):
        with pytest.raises(InputError, match="exists already"), new_directory(tmp_path / name):
            pass


def test_only_files_of_layercut_are_replaced(tmp_path):
    file = tmp_path / "page.html"
    for text in ("<!-- mine --> 1", "<!-- mine --> 2"):
        write_output(file, text, "<!-- mine -->")
        assert file.read_text() == text
    (tmp_path / "empty").touch()
    write_output(tmp_path / "empty", "<!-- mine -->", "<!-- mine -->")
    (tmp_path / "theirs").write_bytes(b"\xff weights <!-- mi")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path / "theirs", "theirs exists and was not written by layercut; name another file"),
        (tmp_path / "link", "link exists and was not written by layercut"),
        (tmp_path / "pipe", "pipe exists and was not written by layercut"),
        (tmp_path, "is a folder; name a file in it"),
        (file / "x", r"x cannot be written \(File exists\); name another file"),
        (Path("/proc/x.html"), "x.html cannot be written"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            write_output(path, "new", "<!-- mine -->")
        assert "\n" not in str(refused.value)
    assert (tmp_path / "theirs").read_bytes() == b"\xff weights <!-- mi"


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


def test_the_next_writer_of_the_name_removes_what_a_killed_one_left_and_no_other(tmp_path):
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


def test_ls_shows_it_but_nothing_that_is_being_written(layercut, tmp_path):
    kill(begin(tmp_path / "runs" / "a" / "checkpoint"))
    running = begin(tmp_path / "runs" / "b")
    try:
        listed = layercut("ls", tmp_path / "runs").err
        assert listed.count("killed process: ") == 2  # the folder and its lock
        assert "2.50 MB in all" in listed and ".b." not in listed
    finally:
        kill(running)


def test_a_file_is_left_over_only_when_it_is_old(tmp_path):
    part = tmp_path / ".metrics.json.layercut-abcd_123"
    part.write_text("half")
    (tmp_path / ".metrics.json.backup01").write_text("mine")
    assert find_leftovers(tmp_path) == []
    os.utime(part, (time.time() - 3600,) * 2)
    (left,) = find_leftovers(tmp_path)
    assert left.path == part


def test_a_name_is_free_again_after_an_error_and_its_lock_is_gone(tmp_path):
    with pytest.raises(KeyboardInterrupt), sole_writer(tmp_path / "x"):
        raise KeyboardInterrupt
    with sole_writer(tmp_path / "x") as is_real:
        assert is_real
        with pytest.raises(InputError, match="is being written"), sole_writer(tmp_path / "x"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_file_its_last_holder_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
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
def test_sizes_have_the_right_unit(num_bytes, text):
    assert size_text(num_bytes) == text


@pytest.mark.parametrize(
    ("free_files", "says"), [(0, "can hold no more files (its 9 inodes are in use)"), (3, "is full")]
)
def test_a_disk_without_inodes_is_not_called_full(tmp_path, monkeypatch, free_files, says):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_files=9, f_favail=free_files))
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "a"))
    assert says in str(disk_problem(full)) and says in str(disk_problem(OSError(errno.ENOSPC, "No space")))
    for block in (writing_to_disk(tmp_path / "b", "use another `out`"), resumable_writing(tmp_path)):
        with pytest.raises(InputError) as caught, block:
            raise full
        assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_that_may_not_grow_and_a_checkpoint_that_did_not_fit_are_one_line(tmp_path):
    said = disk_problem(OSError(errno.EFBIG, "File too large", str(tmp_path / "a")))
    assert said is not None and "ulimit -f" in said
    assert disk_problem(OSError(errno.ENOENT, "no such file")) is None
    text = "[enforce fail at inline_container.cc:672] . unexpected pos 62208 vs 62160"
    with pytest.raises(InputError, match="is full"), resumable_writing(tmp_path):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shape"), resumable_writing(tmp_path):
        raise RuntimeError("shape mismatch")


STEPS = (PlannedStep("answers", 64), PlannedStep("training", 1, "step"))


def test_items_checkpoints_bytes_and_a_disk_that_is_too_small_are_said(tmp_path):
    sizes = {"disk_bytes": 4_000_000, "stays_bytes": 1_000_000, "memory_bytes": 800_000_000, "checkpoints": 2}
    parts = {"weights": 700_000_000, "teacher": 0}
    outline = Outline(steps=STEPS, **sizes, memory_parts=parts, folder=tmp_path / "not" / "yet", more=("first of all",))
    text = "\n".join(outline.lines())
    assert text.startswith("first of all\nanswers: 64 items\ntraining: 1 step\n")
    assert "up to 4.00 MB with 2 checkpoints, of which 1.00 MB stays" in text and "too little" not in text
    assert "memory: about 800 MB" in text and "of that memory: weights 700 MB\n" in text
    assert "would write to " in text and text.endswith("nothing was written") and not (tmp_path / "not").exists()
    data = json.loads(json.dumps(outline.to_dict(), allow_nan=False))
    assert data["steps"][1] == {"name": "training", "items": 1, "unit": "step"} and data["checkpoints"] == 2
    assert data["free_bytes"] > 0 and data["stays_bytes"] == 1_000_000
    outline = Outline(steps=STEPS, disk_bytes=10**18, memory_bytes=0, folder=tmp_path)
    assert any("too little" in line for line in outline.lines()) and outline.to_dict()["stays_bytes"] == 10**18
    text = "\n".join(Outline(steps=(), disk_bytes=0, memory_bytes=0, folder=None).lines())
    assert "disk" not in text and "would write" not in text
