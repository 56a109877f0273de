"""Whole or not at all."""

import os
import stat
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.runs.atomic import new_directory, write_json, write_output, write_text


def test_text_and_json(tmp_path):
    write_text(tmp_path / "deep" / "a.txt", "é\n")
    assert (tmp_path / "deep" / "a.txt").read_bytes() == "é\n".encode()
    write_json(tmp_path / "a.json", {"b": [1], "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": [\n    1\n  ],\n  "a": "é"\n}\n'
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "deep"]


def test_files_get_the_usual_rights(tmp_path):
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
