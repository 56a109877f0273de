"""The cache: bounded, oldest first, never what a process uses."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.errors import InputError
from layercut.models import cache
from layercut.models.cache import fill_cache_once, hold_entry, list_cache, trim_cache
from layercut.verbs.base import Io
from layercut.verbs.results import LsVerb

IO = Io(Console(), print)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAYERCUT_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "_held", {})
    return tmp_path / "gguf"


def entry(folder: Path, used: int, kib: int = 4) -> Path:
    """A model that was used at that second."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(kib * 1024))
    os.utime(folder, (used, used))
    return folder


def test_those_that_were_used_longest_ago_go_first(folder: Path) -> None:
    old, new, other = entry(folder / "b", 10), entry(folder / "a", 30), entry(folder.parent / "bundled" / "c", 20)
    (folder / ".b.layercut-lock").touch()
    assert [each.path for each in list_cache()] == [old, other, new]
    assert [each.path for each in trim_cache(8 * 1024)] == [old]
    assert [each.path for each in trim_cache(8 * 1024)] == []
    assert new.is_dir() and other.is_dir() and not old.exists()
    assert sorted(path.name for path in folder.iterdir()) == [".b.layercut-lock", "a"]


def _hold(path: Path, held: Any, go: Any) -> None:
    cache._held.clear()
    held.put(hold_entry(path))
    go.wait(60)


def test_what_another_process_uses_stays_until_it_ends(folder: Path) -> None:
    path, start = entry(folder / "a", 10), multiprocessing.get_context("fork")
    held, go = start.Queue(), start.Event()
    process = start.Process(target=_hold, args=(path, held, go))
    process.start()
    assert held.get(timeout=60) and trim_cache(0) == [] and path.is_dir()
    assert [each.is_in_use for each in list_cache()] == [True]
    process.kill()
    process.join(60)
    assert [each.is_in_use for each in list_cache()] == [False]
    assert [each.path for each in trim_cache(0)] == [path] and not path.exists()
    assert not hold_entry(path)


def test_filling_it_removes_what_is_too_much_and_using_it_makes_it_young(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("LAYERCUT_CACHE_GIB", str(9 / 2**20))  # 9 KiB
    for used, name in enumerate("abc"):
        entry(folder / name, 10 + used)
    with fill_cache_once(folder / "a", lambda: True, "is here") as there:
        assert there is None
    with caplog.at_level("INFO"), fill_cache_once(folder / "d", lambda: False, "writes") as new:
        assert new is not None
        (new / "model.safetensors").write_bytes(bytes(4096))
    assert sorted(path.name for path in folder.iterdir()) == ["a", "d"]  # this process uses both
    assert "removed b from the cache (4.10 kB)" in caplog.text
    monkeypatch.setenv("LAYERCUT_CACHE_GIB", "much")
    with pytest.raises(InputError, match="LAYERCUT_CACHE_GIB is 'much'; give a number of GiB"):
        trim_cache()


def test_a_folder_that_was_removed_while_it_was_awaited_is_filled_again(folder: Path) -> None:
    path = entry(folder / "a", 10)
    assert hold_entry(path)
    path.rename(folder / "gone")
    assert not hold_entry(path)
    assert hold_entry(entry(path, 20))


def test_a_command_lists_and_empties_it(folder: Path) -> None:
    entry(folder / "a", 10)
    held = entry(folder / "b", 20)
    assert hold_entry(held)
    verb = LsVerb.of(cache=True)
    shown = verb.show(verb.run(IO), IO).lines
    assert [line.split()[-1] for line in shown[:1]] == ["gguf/a"] and shown[1].endswith("gguf/b  in use")
    assert shown[-1] == f"8.19 kB in {folder.parent}"
    verb = LsVerb.of(cache=True, empty=True)
    assert [line.endswith("gguf/b  in use") for line in verb.show(verb.run(IO), IO).lines] == [True, False]
    assert not (folder / "a").exists()
    with pytest.raises(InputError, match="say `cache` too"):
        LsVerb.of(empty=True)
