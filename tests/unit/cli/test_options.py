"""Flags that several verbs share stand for the fields of the settings, with their defaults."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from layercut.cli import options
from layercut.cli.main import verb_commands
from layercut.errors import InputError
from layercut.healing.prompt_sources import under_preset
from layercut.healing.settings import FilterSettings, TrainSettings
from layercut.selection import CRITERIA
from layercut.selection.specs import LayerSpec
from layercut.settings import DecodingSettings, ModelSettings
from layercut.verbs import VERBS
from layercut.verbs.base import Fields, Io, Shown, Verb
from tests.unit.cli.conftest import Run

COMMANDS: dict[str, Any] = verb_commands()
MODEL_FLAGS = {name: field.default for name, field in ModelSettings.model_fields.items() if name != "model"}
DECODING_FLAGS = {name: field.default for name, field in DecodingSettings.model_fields.items()}


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
    running = {"batch_size", "engine", "cache_gib", "engine_pool", "base_url", "quantize"}
    assert {*MODEL_FLAGS, *DECODING_FLAGS} - found == {*running, *DECODING_FLAGS}


def test_flags_arrive_as_a_request() -> None:
    got: list[object] = []
    small = typer.Typer()

    class AskVerb(Verb):
        """Words of the request."""

        VERB = "ask"

        model: Annotated[ModelSettings, Fields()]
        decoding: Annotated[DecodingSettings, Fields()] = DecodingSettings()
        word: str = "none"

        def run(self, io: Io) -> str:
            """Note itself."""
            got.append(self)
            return "done"

        def show(self, done: str, io: Io) -> Shown:
            """Plain."""
            return Shown({"said": done})

    small.command(cls=options.VerbCommand)(options.command_of_verb(AskVerb))
    runner = CliRunner()
    ran = runner.invoke(small, ["m", "--top-k", "5", "--dtype", "float32", "--word", "x", "--json"])
    assert ran.exit_code == 0, ran.output
    wanted = ModelSettings(model="m", dtype="float32")
    assert got == [AskVerb(model=wanted, decoding=DecodingSettings(top_k=5), word="x")]
    assert json.loads(ran.output) == {"said": "done"}
    assert "Words of the request." in runner.invoke(small, ["--help"]).output


@pytest.mark.parametrize("verb", ["eval", "cut", "generate", "diagnose"])
def test_help_names_the_criteria_that_a_plan_may_name(verb: str) -> None:
    said = " ".join(" ".join(getattr(one, "help", "") or "" for one in COMMANDS[verb].params).split())
    assert "criterion:N" not in said
    for name, row in CRITERIA.items():
        assert (f"{name}:N" in said) is not row.needs_model, name


def test_a_criterion_that_runs_the_model_is_no_plan_with_or_without_a_count() -> None:
    for spec in ("block_influence", "block_influence:3"):
        with pytest.raises(InputError, match="block_influence needs"):
            LayerSpec.parse(spec)
    with pytest.raises(InputError, match="write reverse:3"):
        LayerSpec.parse("reverse")


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_shows_about_twenty_options_and_help_all_the_others(verb: str, layercut: Run) -> None:
    shown = [one for one in COMMANDS[verb].params if not getattr(one, "hidden", False)]
    assert len(shown) <= 24, [one.name for one in shown]
    hidden = [one.opts[0] for one in COMMANDS[verb].params if getattr(one, "hidden", False)]
    short, long = layercut(verb, "--help").out, layercut(verb, "--help-all").out if hidden else ""
    assert [one for one in hidden if one in short.split()] == []
    assert [one for one in hidden if one not in long] == []


def test_what_the_list_of_verbs_says_is_what_each_says_first() -> None:
    first = {name: command.help.partition("\n\n")[0] for name, command in COMMANDS.items()}
    assert first == {name: says for name, (_, says) in VERBS.items()}


def test_every_setting_of_training_filters_and_search_has_a_flag_with_its_default_and_help() -> None:
    heal = {option.name: option for option in COMMANDS["heal"].params}
    names = {"batch_size": "train_batch"}
    for kind in (TrainSettings, FilterSettings):
        for name, field in kind.model_fields.items():
            if (kind, name) != (TrainSettings, "seed") and not isinstance(field.default, tuple):
                assert heal[names.get(name, name)].default == field.default, name
                assert heal[names.get(name, name)].help.startswith(field.description), name
    assert {"race", "normalise", "calibration_texts"} <= {one.name for one in COMMANDS["select"].params}


def test_a_preset_gives_way_to_what_is_written_even_to_a_default() -> None:
    assert under_preset("paper", TrainSettings()).patience == 0
    assert under_preset("paper", TrainSettings(patience=3)).patience == 3
    assert under_preset(None, TrainSettings()) == TrainSettings()


def test_the_help_of_prune_fits_on_a_screen_and_begins_with_the_goal(
    layercut: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    short = layercut("prune", "--help").out
    flags = re.findall(r"^ +(--[a-z-]+)", short.partition("Options:")[2], re.MULTILINE)
    assert len(short.strip().splitlines()) <= 40, short
    assert flags[:3] == ["--use", "--tasks", "--keep"], flags
    first = "smaller faster serve versus items heal out anyway dry-run help-all"
    assert {f"--{name}" for name in first.split()} <= {*flags}
    others = "device seed json data unsafe-exec units"
    assert {f"--{name}" for name in others.split()} <= {*layercut("prune", "--help-all").out.split()}
