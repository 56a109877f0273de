"""A random seed is refused where it comes in: on every verb, in study files and in Python."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layercut
from layercut.cli.main import verb_commands
from layercut.engine.base import Decoding
from layercut.errors import InputError
from layercut.evidence.bounds import retention_bounds
from layercut.evidence.intervals import mean_interval
from layercut.evidence.paired import compare_paired
from layercut.healing.prompt_sources import PromptSpec
from layercut.healing.settings import TrainSettings
from layercut.seed import LARGEST, check_seed
from layercut.study.file import study_from_dict
from layercut.tasks import load_task
from tests.unit.cli.conftest import Run

COMMANDS: dict[str, Any] = verb_commands()
SEEDED = sorted(verb for verb, command in COMMANDS.items() if any(one.name == "seed" for one in command.params))
assert {"compare", "eval", "generate", "heal", "run", "select", "sweep"} <= set(SEEDED)


@pytest.mark.parametrize("seed", [-1, LARGEST + 1, 1.0, "0", None, True])
def test_what_is_no_seed_is_refused_with_what_would_be_one(seed: object) -> None:
    with pytest.raises(InputError, match="0 to 4294967295"):
        check_seed(seed)
    assert check_seed(np.int64(7)) == 7 and check_seed(0) == 0 and check_seed(LARGEST) == LARGEST


@pytest.mark.parametrize("verb", SEEDED)
@pytest.mark.parametrize("seed", [-1, LARGEST + 1])
def test_every_verb_refuses_it_as_it_reads_its_flags(layercut: Run, verb: str, seed: int) -> None:
    needed = [one for one in COMMANDS[verb].params if one.required]
    words = [word for one in needed for word in ((one.opts[0],) if one.param_type_name == "option" else ()) + ("1",)]
    ran = layercut(verb, *words, *(("--use", "math") if verb in ("prune", "draft") else ()), "--seed", seed)
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
def test_a_study_refuses_it(given: dict[str, Any]) -> None:
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
def test_python_refuses_it(call: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="seed -1"):
        call()


@pytest.mark.parametrize("step", ["select_layers", "cut", "diagnose", "heal"])
def test_the_steps_refuse_it_before_a_model_is_looked_for(step: str, tmp_path: Path) -> None:
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
