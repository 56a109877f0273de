"""Flags stand for the fields of the settings; shares and seeds are refused where they come in."""

import json
import re
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

import layercut
from layercut.base_settings import field_limits
from layercut.cli import options
from layercut.cli.main import verb_commands
from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.evidence.bounds import retention_bounds
from layercut.evidence.intervals import mean_interval
from layercut.evidence.paired import compare_paired
from layercut.healing.prompt_sources import PromptSpec, under_preset
from layercut.healing.settings import FilterSettings, TrainSettings
from layercut.pruning.settings import PruneSettings
from layercut.seed import LARGEST, check_seed
from layercut.selection import CRITERIA
from layercut.selection.base import SearchSettings
from layercut.selection.specs import LayerSpec
from layercut.settings import DecodingSettings, Depth, ModelSettings
from layercut.study.file import study_from_dict
from layercut.surgery.plan import as_cut_plan
from layercut.tasks import load_task
from layercut.verbs import VERBS
from layercut.verbs.base import Fields, Io, Shown, Verb

COMMANDS: dict[str, Any] = verb_commands()
MODEL_FLAGS = {name: field.default for name, field in ModelSettings.model_fields.items() if name != "model"}
DECODING_FLAGS = {name: field.default for name, field in DecodingSettings.model_fields.items()}


@pytest.mark.parametrize("verb", ["select", "eval", "generate", "sweep"])
def test_every_field_of_the_settings_has_its_flag(verb):
    found = {option.name: option for option in COMMANDS[verb].params}
    for name, default in {**MODEL_FLAGS, **DECODING_FLAGS}.items():
        assert found[name].opts == [f"--{name.replace('_', '-')}"]
        assert found[name].default == default
    assert COMMANDS[verb].params[0].name == "model"
    assert COMMANDS[verb].params[0].required


def test_flags_arrive_as_a_request():
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
def test_help_names_the_criteria_that_a_plan_may_name(verb):
    said = " ".join(" ".join(getattr(one, "help", "") or "" for one in COMMANDS[verb].params).split())
    assert "criterion:N" not in said
    for name, row in CRITERIA.items():
        assert (f"{name}:N" in said) is not row.needs_model, name


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_shows_about_twenty_options_and_help_all_the_others(verb, layercut):
    shown = [one for one in COMMANDS[verb].params if not getattr(one, "hidden", False)]
    assert len(shown) <= 24, [one.name for one in shown]
    hidden = [one.opts[0] for one in COMMANDS[verb].params if getattr(one, "hidden", False)]
    short, long = layercut(verb, "--help").out, layercut(verb, "--help-all").out if hidden else ""
    assert [one for one in hidden if one in short.split()] == []
    assert [one for one in hidden if one not in long] == []


def test_the_list_of_verbs_says_what_each_says_first_and_cut_draws_nothing():
    first = {name: command.help.partition("\n\n")[0] for name, command in COMMANDS.items()}
    assert first == {name: says for name, (_, says) in VERBS.items()}
    found = {option.name for option in COMMANDS["cut"].params}
    running = {"batch_size", "engine", "cache_gib", "engine_pool", "base_url", "quantize"}
    assert {*MODEL_FLAGS, *DECODING_FLAGS} - found == {*running, *DECODING_FLAGS}


def test_settings_of_training_filters_and_search_have_flags_and_a_preset_gives_way_to_them():
    heal = {option.name: option for option in COMMANDS["heal"].params}
    names = {"batch_size": "train_batch"}
    for kind in (TrainSettings, FilterSettings):
        for name, field in kind.model_fields.items():
            if (kind, name) != (TrainSettings, "seed") and not isinstance(field.default, tuple):
                assert heal[names.get(name, name)].default == field.default, name
                assert heal[names.get(name, name)].help.startswith(field.description), name
    assert {"race", "normalise", "calibration_texts"} <= {one.name for one in COMMANDS["select"].params}
    assert under_preset("paper", TrainSettings()).patience == 0
    assert under_preset("paper", TrainSettings(patience=3)).patience == 3
    assert under_preset(None, TrainSettings()) == TrainSettings()


def test_the_help_of_prune_fits_on_a_screen_and_begins_with_the_goal(layercut, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    short = layercut("prune", "--help").out
    flags = re.findall(r"^ +(--[a-z-]+)", short.partition("Options:")[2], re.MULTILINE)
    assert len(short.strip().splitlines()) <= 40, short
    assert flags[:3] == ["--use", "--tasks", "--keep"], flags
    first = "smaller faster serve versus items heal out anyway dry-run help-all"
    assert {f"--{name}" for name in first.split()} <= {*flags}
    others = "device seed json data unsafe-exec units"
    assert {f"--{name}" for name in others.split()} <= {*layercut("prune", "--help-all").out.split()}


CLASSES: tuple[Any, ...] = (PruneSettings, FilterSettings, TrainSettings, SearchSettings, DecodingSettings)


def is_share(field: FieldInfo) -> bool:
    return "float" in str(field.annotation) and 1 in (field_limits(field).get(end) for end in ("le", "lt"))


SHARES = [(kind, name) for kind in CLASSES for name, field in kind.model_fields.items() if is_share(field)]


@pytest.mark.parametrize(("kind", "name"), SHARES)
def test_every_share_may_be_written_in_percent(kind, name):
    more = {"use": "math"} if kind is PruneSettings else {}
    for text, share in {"12.5%": 0.125, "0.9": 0.9, "90 %": 0.9}.items():
        assert getattr(kind(**{name: text}, **more), name) == share
    for wrong in (90, "most"):
        with pytest.raises(InputError, match=f"^{name} {wrong!r} is no share; .*90% or 0.9"):
            kind(**{name: wrong}, **more)
    if field_limits(kind.model_fields[name]).get("le") == 1:
        assert type(getattr(kind(**{name: 1}, **more), name)) is int  # settings' hashes of earlier runs


def test_every_flag_with_a_fraction_is_a_share_or_named_here():
    """Percent is refused only where a number is no share."""
    options = [option for command in COMMANDS.values() for option in command.params]
    floats = [option for option in options if "float" in str(option.type_descriptor.annotation)]
    training = {"learning_rate", "weight_decay", "max_grad_norm", "epochs"}
    numbers = {"cache_gib", "temperature", "faster"}
    assert {option.name for option in floats if option.metavar != "SHARE"} == {*numbers, *training}


@pytest.mark.parametrize("text", ["25%", "0.25", "0.250", " 25 %"])
def test_a_depth_is_a_number_or_a_share(text):
    assert Depth(text=text).is_share and Depth(text=text).layers(32) == 8
    assert LayerSpec.parse(f"reverse:{text.replace(' ', '')}").bind(num_layers=32).removed == tuple(range(31, 23, -1))


@pytest.mark.parametrize("text", ["1.5", "0", "0.0", "1.0", "100%", "-3", "three"])
def test_no_depth(text):
    with pytest.raises(InputError, match="3, or a share: 25%"):
        Depth(text=text)


def test_a_plan_is_text_or_a_list_of_numbers():
    assert as_cut_plan("3,1-2", 6).removed == (3, 1, 2) == as_cut_plan([3, 1, 2], 6).removed
    with pytest.raises(InputError, match="is no plan"):
        as_cut_plan(["3"], 6)


def test_a_share_of_a_model_is_cut(layercut, tiny, tmp_path):
    done = layercut.done("cut", tiny, "--remove", "34%", "--out", tmp_path / "cut", "--device", "cpu")
    plan = json.loads((tmp_path / "cut" / "plan.json").read_text())
    assert plan["criterion"] == "block_influence" and len(plan["removed"]) == 2
    assert "34% is 2 of 6" in done.err


SEEDED = sorted(verb for verb, command in COMMANDS.items() if any(one.name == "seed" for one in command.params))
assert {"compare", "eval", "generate", "heal", "run", "select", "sweep"} <= set(SEEDED)


@pytest.mark.parametrize("seed", [-1, LARGEST + 1, 1.0, "0", None, True])
def test_what_is_no_seed_is_refused_with_what_would_be_one(seed):
    with pytest.raises(InputError, match="0 to 4294967295"):
        check_seed(seed)
    assert check_seed(np.int64(7)) == 7 and check_seed(0) == 0 and check_seed(LARGEST) == LARGEST


@pytest.mark.parametrize("verb", SEEDED)
@pytest.mark.parametrize("seed", [-1, LARGEST + 1])
def test_every_verb_refuses_it_as_it_reads_its_flags(layercut, verb, seed):
    needed = [one for one in COMMANDS[verb].params if one.required]
    words = [word for one in needed for word in ((one.opts[0],) if one.param_type_name == "option" else ()) + ("1",)]
    ran = layercut(verb, *words, *(("--use", "math") if verb in ("prune", "draft", "quantise") else ()), "--seed", seed)
    assert ran.code == 1 and f"--seed {seed}" in ran.err


STUDY = {"model": "m", "plans": ["reverse:1"], "tasks": ["copy"], "out": "runs/x"}
ARM = {"name": "a", "prompts": "task:copy"}


@pytest.mark.parametrize(
    "given",
    [
        {"seed": -1},
        {"seeds": [0, -1]},
        {"healing": [{**ARM, "seed": -1}]},
        {"healing": [{**ARM, "shuffle_seed": -1}]},
        {"healing": [{"name": "a", "prompts": [{"source": "task:copy", "shuffle_seed": -1}]}]},
    ],
)
def test_a_study_refuses_it(given):
    for make in (lambda: study_from_dict({**STUDY, **given}), lambda: study_from_dict(STUDY).replace(seeds=(-1,))):
        with pytest.raises(InputError, match="seed -1"):
            make()


@pytest.mark.parametrize(
    "call",
    [
        lambda: load_task("copy", seed=-1),
        lambda: Decoding(seed=-1),
        lambda: TrainSettings(seed=-1),
        lambda: PromptSpec(source="task:copy", shuffle_seed=-1),
        lambda: compare_paired([0.0, 1.0], [0.0, 0.0], chance=0.0, seed=-1),
        lambda: retention_bounds([1.0, 0.0], [0.0, 1.0], chance=0.0, low_error=0.05, high_error=0.05, seed=-1),
        lambda: mean_interval([0.25, 0.5, 0.75], seed=-1),
    ],
)
def test_python_refuses_it(call):
    with pytest.raises(InputError, match="seed -1"):
        call()


@pytest.mark.parametrize("step", ["select_layers", "cut", "diagnose", "heal"])
def test_the_steps_refuse_it_before_a_model_is_looked_for(step, tmp_path):
    arguments: dict[str, tuple[Any, ...]] = {
        "select_layers": ("no-such/model", "reverse", "1 layer"),
        "cut": ("no-such/model", "reverse:1", tmp_path / "cut"),
        "diagnose": ("no-such/model", ["reverse:1"]),
        "heal": ("no-such/model", "no-such/model", "task:copy"),
    }
    out = {} if step == "cut" else {"out": tmp_path / "run"}
    with pytest.raises(InputError, match="seed -1"):
        getattr(layercut, step)(*arguments[step], seed=-1, **out)
    assert list(tmp_path.iterdir()) == []
