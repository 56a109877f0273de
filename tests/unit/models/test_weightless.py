from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.engine.stopping import stop_tokens
from layercut.errors import CheckpointError, InputError
from layercut.models.loading import load_model
from layercut.models.sources import resolve
from layercut.models.weightless import load_without_weights
from tests.support.tiny import save_tiny


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_it_knows_of_a_model_what_the_loaded_one_knows(family: str, tmp_path: Path) -> None:
    source = resolve(str(save_tiny(family, tmp_path / "tiny")))
    loaded, found = load_model(source, device="cpu"), load_without_weights(source, device="cpu")
    for name in ("name", "structure", "model_hash", "num_layers", "context_length", "dtype", "has_chat_template"):
        assert getattr(found, name) == getattr(loaded, name)
    stops = stop_tokens(found.tokenizer, found.generation_config)
    assert stops == stop_tokens(loaded.tokenizer, loaded.model.generation_config)


def test_a_checkpoint_without_a_generation_config_has_that_of_its_config(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "tiny")
    (folder / "generation_config.json").unlink()
    assert load_without_weights(resolve(str(folder)), device="cpu").generation_config.eos_token_id == 259


def test_its_own_dtype_is_that_of_the_config_or_of_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layercut.models.weightless.pick_dtype", lambda _, dtype, **__: dtype)  # as on a GPU
    folder = save_tiny("llama", tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    for named, expected in (("bfloat16", "bfloat16"), (None, "float32")):
        (folder / "config.json").write_text(json.dumps(config | {"dtype": named}))
        assert load_without_weights(resolve(str(folder))).dtype == expected
    assert load_without_weights(resolve(str(folder)), dtype="float16").dtype == "float16"


def test_an_unknown_dtype_and_a_missing_tokenizer_are_refused(tmp_path: Path) -> None:
    folder = save_tiny("llama", tmp_path / "tiny")
    with pytest.raises(InputError, match="unknown dtype 'float8'"):
        load_without_weights(resolve(str(folder)), dtype="float8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_without_weights(resolve(str(folder)), device="cpu")
