"""Flags that several verbs share stand for the fields of the settings, with their defaults."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from layercut.cli import options
from layercut.cli.main import app
from layercut.errors import InputError
from layercut.selection import CRITERIA
from layercut.selection.specs import check_spec
from layercut.settings import DecodingSettings, ModelSettings

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MODEL_FLAGS = {field.name: field.default for field in dataclasses.fields(ModelSettings) if field.name != "model"}
DECODING_FLAGS = {field.name: field.default for field in dataclasses.fields(DecodingSettings)}


@pytest.mark.parametrize("verb", ["select", "eval", "generate", "sweep"])
def test_every_field_of_the_settings_has_its_flag(verb: str) -> None:
    found = {option.name: option for option in COMMANDS[verb].params}
    for name, default in {**MODEL_FLAGS, **DECODING_FLAGS}.items():
        assert found[name].opts == [f"--{name.replace('_', '-')}"]
        assert found[name].default == default
    assert COMMANDS[verb].params[0].name == "model"
    assert COMMANDS[verb].params[0].required


def test_cut_compares_one_batch_and_draws_nothing() -> None:
    found = {option.name for option in COMMANDS["cut"].params}
    running = {"batch_size", "engine", "cache_gib", "engine_pool", "cuda_graphs", "base_url", "tokenizer"}
    assert {*MODEL_FLAGS, *DECODING_FLAGS} - found == {*running, *DECODING_FLAGS}


def test_flags_arrive_as_settings() -> None:
    got: list[object] = []
    small = typer.Typer()

    @small.command()
    @options.model_command()
    def ask(model: ModelSettings, decoding: DecodingSettings, seed: options.Seed = 0, word: str = "none") -> None:
        """Words of the command itself."""
        got.extend((model, decoding, seed, word))

    runner = CliRunner()
    ran = runner.invoke(small, ["m", "--top-k", "5", "--seed", "2", "--dtype", "float32", "--word", "x"])
    assert ran.exit_code == 0, ran.output
    assert got == [ModelSettings(model="m", dtype="float32"), DecodingSettings(top_k=5), 2, "x"]
    assert "Words of the command itself." in runner.invoke(small, ["--help"]).output


@pytest.mark.parametrize("verb", ["eval", "cut", "generate", "diagnose"])
def test_help_names_the_criteria_that_a_plan_may_name(verb: str) -> None:
    said = " ".join(" ".join(getattr(one, "help", "") or "" for one in COMMANDS[verb].params).split())
    assert "criterion:N" not in said
    for name, row in CRITERIA.items():
        assert (f"{name}:N" in said) is not row.needs_model, name


def test_a_criterion_that_runs_the_model_is_no_plan_with_or_without_a_count() -> None:
    for spec in ("block_influence", "block_influence:3"):
        with pytest.raises(InputError, match="block_influence needs to run the model. Choose the layers first"):
            check_spec(spec)
    with pytest.raises(InputError, match="write reverse:3 to remove three"):
        check_spec("reverse")
