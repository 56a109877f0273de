"""Every field of config.json with every odd value: the model loads and answers, or is refused in one line."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.selection.specs import plan_of
from layercut.settings import ModelSettings
from tests.support.tiny import save_tiny

VALUES: tuple[object, ...] = ("6", 6.5, None, [6], {}, True, -1, 0, 10, 10**9, 10**18, "x")
MISSING = object()
MEMORY = 6 * 2**30
SECONDS = 20


def outcome(folder: Path) -> str | None:
    """What went wrong when the model of a folder was loaded and asked; None if it answered or was refused."""
    try:
        handle = ModelHandle(ModelSettings(model=str(folder), device="cpu"))
        handle.num_parameters(plan_of(handle, "2", 0))
        with torch.no_grad():
            handle.loaded.model(torch.arange(12)[None])
        handle.loaded.tokenizer("ab")
    except InputError as error:
        return None if "\n" not in str(error) else f"several lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def try_alone(folder: Path) -> None:
    """In a process of its own, whose time and memory are bounded; a message is its only way to report."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.alarm(SECONDS)
    wrong = outcome(folder)
    (folder / "outcome").write_text(wrong or "", encoding="utf-8")


def attempt(folder: Path) -> str:
    process = multiprocessing.get_context("fork").Process(target=try_alone, args=(folder,))
    process.start()
    process.join()
    file = folder / "outcome"
    return file.read_text(encoding="utf-8") if file.exists() else f"its process ended with {process.exitcode}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral"])
def test_no_value_of_a_config_field_breaks_loading(family: str, tmp_path: Path) -> None:
    good = save_tiny(family, tmp_path / "good")
    config = json.loads((good / "config.json").read_text(encoding="utf-8"))
    assert attempt(good) == ""
    work, wrong = tmp_path / "work", {}
    for field in config:
        for value in (*VALUES, MISSING):
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(good, work, ignore=shutil.ignore_patterns("outcome"))
            changed = {**config, field: value}
            if value is MISSING:
                del changed[field]
            (work / "config.json").write_text(json.dumps(changed), encoding="utf-8")
            if found := attempt(work):
                wrong[f"{field} = {'missing' if value is MISSING else value!r}"] = found[:200]
    assert not wrong


def test_a_window_without_a_size_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_tiny("gemma2", tmp_path / "tiny")
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"sliding_window": None}), encoding="utf-8")
    with pytest.raises(InputError, match="sliding_window = null, "):
        ModelHandle(ModelSettings(model=str(folder), device="cpu")).loaded  # noqa: B018
