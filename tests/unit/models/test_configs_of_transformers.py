"""Every config that transformers itself writes for a type passes the checks of the input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from benchmarks.families import tiny_config, tiny_model, types
from layercut.errors import InputError
from layercut.models.checks import check_counts, refuse_no_window
from layercut.models.sources import ModelSource, describe_source
from layercut.models.structure import config_of


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
