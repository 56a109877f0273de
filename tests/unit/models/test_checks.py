"""Configs that transformers itself writes pass the checks of the input; odd ones load, or are refused in one line."""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import signal
import warnings
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from benchmarks.families import tiny_config, tiny_model, types
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.checks import check_counts, refuse_no_window
from layercut.models.sources import ModelSource, describe_source
from layercut.models.structure import config_of
from layercut.selection.specs import plan_of
from layercut.settings import ModelSettings
from tests.support.odd import GONE, mutated
from tests.support.tiny import save_tiny


@pytest.mark.parametrize("make", [lambda name: CONFIG_MAPPING[name](), tiny_config], ids=["default", "tiny"])
def test_a_config_as_transformers_saves_it_passes(make, tmp_path: Path) -> None:
    refused, seen = {}, 0
    for name in types():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                make(name).save_pretrained(tmp_path)
                saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
                config = config_of(saved, name)
            except Exception:  # a type that needs more than its name
                continue
        seen += 1
        try:
            check_counts(saved, name)
            refuse_no_window(config, name)
        except InputError as error:
            refused[name] = str(error)
    assert not refused
    assert seen > 250


@pytest.mark.parametrize("name", ["qwen2_moe", "moshi", "electra", "gemma4_text", "llama4"])
def test_and_so_does_its_embedding(name: str, tmp_path: Path) -> None:
    tiny_model(tiny_config(name)).save_pretrained(tmp_path)
    assert describe_source(ModelSource(name=name, path=tmp_path)).num_layers == 6


@pytest.mark.parametrize("name", ["qwen2", "gemma2", "mistral"])
@pytest.mark.parametrize("window", [0, -1])
def test_a_window_below_one_that_is_used_is_refused(name: str, window: int) -> None:
    config = tiny_config(name).to_dict() | {"sliding_window": window, "use_sliding_window": True, "layer_types": None}
    with pytest.raises(InputError, match=f"sliding_window = {window}.* must be 1 or more"):
        check_counts(config, "this model")
        refuse_no_window(config_of(config | {"max_window_layers": 0}, "this model"), "this model")


VALUES: tuple[object, ...] = ("6", 6.5, None, [6], {}, True, -1, 0, 10, 10**9, 10**18, "x", GONE)
MEMORY = 6 * 2**30
SECONDS = 20


def try_alone(folder: Path) -> None:
    """Load and ask the model of a folder, in a process whose time and memory are bounded; report by a file.

    It is empty where the model answered or was refused in one line.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.alarm(SECONDS)
    wrong = ""
    try:
        handle = ModelHandle(ModelSettings(model=str(folder), device="cpu"))
        handle.num_parameters(plan_of(handle, "2", 0))
        with torch.no_grad():
            handle.loaded.model(torch.arange(12)[None])
        handle.loaded.tokenizer("ab")
    except InputError as error:
        wrong = f"several lines: {error}" if "\n" in str(error) else ""
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    (folder / "outcome").write_text(wrong, encoding="utf-8")


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
        for value in VALUES:
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(good, work, ignore=shutil.ignore_patterns("outcome"))
            (work / "config.json").write_text(json.dumps(mutated(config, (field,), value)), encoding="utf-8")
            if outcome := attempt(work):
                wrong[f"{field} = {'missing' if value is GONE else value!r}"] = outcome[:200]
    assert not wrong


def test_a_window_without_a_size_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = save_tiny("gemma2", tmp_path / "tiny")
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"sliding_window": None}), encoding="utf-8")
    with pytest.raises(InputError, match="sliding_window = null, "):
        ModelHandle(ModelSettings(model=str(folder), device="cpu")).loaded  # noqa: B018
