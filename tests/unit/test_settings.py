from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.settings import ModelSettings, TaskSettings
from layercut.study.file import read_study_file, study_from_dict
from layercut.study.healer import Healer

GOOD: dict[str, Any] = {"model": "m", "out": "runs/x", "plans": {"last": "reverse:3"}, "tasks": ["arithmetic"]}


def test_model_settings_stand_beside_the_studys() -> None:
    study = study_from_dict(GOOD | {"dtype": "float32", "seed": 4, "decoding": {"temperature": 1}})
    model = study.model
    assert (model.model, model.dtype, study.seed, study.decoding.temperature) == ("m", "float32", 4, 1)
    assert study.tasks == (TaskSettings(task="arithmetic"),)


def test_plans_given_as_a_list_are_named_after_themselves() -> None:
    assert study_from_dict(GOOD | {"plans": ["reverse:3", "3,8"]}).plans == {"reverse-3": "reverse:3", "3,8": "3,8"}


def test_a_task_may_have_settings_of_its_own() -> None:
    study = study_from_dict(GOOD | {"tasks": [{"task": "gsm8k", "limit": 5, "data": "d", "readouts": ["chain"]}]})
    assert study.tasks[0] == TaskSettings(task="gsm8k", limit=5, data="d", readouts=("chain",))


def test_what_decides_the_numbers_of_a_run() -> None:
    expected = {
        "model": "m",
        "revision": None,
        "dtype": "auto",
        "device": "auto",
        "device_map": None,
        "batch_size": 32,
        "engine": "shared",
        "quantize": None,
    }
    assert ModelSettings(model="m", engine="plain").identity() == {**expected, "engine": "plain"}
    shared = ModelSettings(model="m", engine="shared", cache_gib=8.0)
    assert shared.identity() == ModelSettings(model="m").identity()
    assert shared.identity() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": "x"}, r"unknown key 'modle'. Did you mean model\?"),
        ({"batchsize": 4}, r"Did you mean batch_size\?"),
        ({"tasks": [{"task": "a", "limits": 4}]}, r"Did you mean limit\?"),
        ({"decoding": {"temprature": 1}}, r"Did you mean temperature\?"),
        ({"model": None}, "the key model is missing"),
        ({"tasks": []}, "the key tasks is missing"),
        ({"tasks": "arithmetic"}, "is not a list"),
        ({"tasks": ["a", "a"]}, "listed twice"),
        ({"seed": "one"}, "seed 'one' is not a random seed"),
        ({"batch_size": "4"}, "batch_size: '4' is not of the kind int"),
        ({"tasks": [{"task": "copy", 5: 1}]}, "unknown setting '5'"),
        ({"checkpoints": 1}, "not of the kind bool"),
        (
            {"healing": [{"name": "a", "prompts": "task:copy", "learning_rate": "fast"}]},
            "healing arm a: learning_rate: 'fast' is not of the kind float",
        ),
        ({"batch_size": 0}, "batch_size 0 is too small"),
        (
            {"engine": "plane"},
            r"unknown engine 'plane'. Did you mean plain\? Known: llama.cpp, openai, plain, shared, vllm",
        ),
        ({"cache_gib": 0}, "cache_gib 0 is too small"),
        ({"cache_gib": float("nan")}, "cache_gib nan is no number; write a number above 0"),
        ({"plans": {"uncut": "3"}}, "call it otherwise"),
        ({"plans": {"a/b": "3"}}, "cannot be a folder name"),
        ({"tasks": [{"task": "a", "limit": 0}]}, "task a: limit 0 is too small"),
        ({"tasks": [5]}, "is no task"),
    ],
)
def test_bad_settings_are_refused_in_one_clear_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        study_from_dict(GOOD | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "openai"}, "the engine openai needs base_url"),
        ({"engine": "vllm", "base_url": "http://x"}, "base_url is for the engine openai, and the engine is vllm"),
    ],
)
def test_settings_of_another_engine_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelSettings(model="m", **settings)


def test_where_a_server_is_decides_no_numbers() -> None:
    def served(**more: Any) -> dict[str, Any]:
        return ModelSettings(model="m", engine="openai", **more).identity()

    assert served(base_url="http://a/v1") == served(base_url="http://b/v1")


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not a YAML file"), ("- 1", "holds list"), ("", "holds NoneType"), ("a: b: c", "line 1")],
)
def test_a_file_that_is_no_study_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        study_from_dict(read_study_file(path))
    assert str(path) in str(caught.value)


def test_a_learning_rate_is_a_number_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(
        "model: a/b\nrevision: 12e4567\nout: runs/x\nplans: ['3']\ntasks: [copy]\n"
        "healing:\n  - {name: one, prompts: 'task:copy', learning_rate: 1e-3}\n"
        "  - {name: two, prompts: 'task:copy', learning_rate: 5.0e-05, limit: 4}\n"
    )
    study = study_from_dict(read_study_file(path))
    assert [arm.train.learning_rate for arm in study.healing] == [0.001, 0.00005]
    assert study.model.revision == "12e4567", "a commit stays text"


def test_a_missing_file_is_named() -> None:
    with pytest.raises(InputError, match="nowhere.yaml: no study"):
        read_study_file(Path("nowhere.yaml"))


def test_a_short_longest_rollout_can_be_said_in_a_study() -> None:
    arm = {"name": "a", "prompts": "task:copy", "objective": "on-policy", "rollout_max": 16, "save_dtype": "bfloat16"}
    made = study_from_dict(GOOD | {"healing": [arm]}).healing[0]
    assert (made.train.rollout_max, made.save_dtype) == (16, "bfloat16")


def test_what_a_study_saves_healed_weights_as_reaches_healing() -> None:
    study = study_from_dict(GOOD | {"healing": [{"name": "a", "prompts": "task:copy", "save_dtype": "bfloat16"}]})
    healer = Healer(study.healing[0], Path("f"), "cut+arm", study.model, study.tasks, 3)
    assert healer.settings.save_dtype == "bfloat16"
    assert healer.identity["settings"]["save_dtype"] == "bfloat16"
