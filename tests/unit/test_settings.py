from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.settings import ModelSettings, TaskSettings
from layercut.study.file import read_study_file, study_from_dict
from layercut.study.variants import Healer

GOOD: dict[str, Any] = {"model": "m", "out": "runs/x", "plans": {"last": "reverse:3"}, "tasks": ["arithmetic"]}


def test_keys_of_a_study_are_settings_of_its_model_tasks_and_plans():
    study = study_from_dict(GOOD | {"dtype": "float32", "seed": 4, "decoding": {"temperature": 1}})
    model = study.model
    assert (model.model, model.dtype, study.seed, study.decoding.temperature) == ("m", "float32", 4, 1)
    assert study.tasks == (TaskSettings(task="arithmetic"),)
    of_a_list = study_from_dict(GOOD | {"plans": ["reverse:3", "3,8"]})
    assert of_a_list.plans == {"reverse-3": "reverse:3", "3,8": "3,8"}, "named after themselves"
    study = study_from_dict(GOOD | {"tasks": [{"task": "gsm8k", "limit": 5, "data": "d", "readouts": ["chain"]}]})
    assert study.tasks[0] == TaskSettings(task="gsm8k", limit=5, data="d", readouts=("chain",))


def identity(**given: Any) -> dict[str, Any]:
    return ModelSettings(model="m", **given).identity()


def test_what_decides_the_numbers_of_a_run():
    expected = {"model": "m", "revision": None, "dtype": "auto", "device": "auto", "device_map": None}
    expected |= {"batch_size": 32, "engine": "shared", "quantize": None}
    assert identity(engine="plain") == {**expected, "engine": "plain"}
    assert identity(engine="shared", cache_gib=8.0) == identity() == expected
    servers = [identity(engine="openai", base_url=f"http://{name}/v1") for name in "ab"]
    assert servers[0] == servers[1], "where a server is decides no numbers"


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
            {"healing": [{"name": "a", "prompts": "p", "learning_rate": "fast"}]},
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
def test_bad_settings_are_refused_in_one_clear_line(change, message):
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
def test_settings_of_another_engine_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        ModelSettings(model="m", **settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "not a YAML file"), ("- 1", "holds list"), ("", "holds NoneType"), ("a: b: c", "line 1")],
)
def test_a_file_that_is_no_study_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        study_from_dict(read_study_file(path))
    assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="nowhere.yaml: no study"):
        read_study_file(Path("nowhere.yaml"))


def test_a_learning_rate_as_people_write_it_a_short_rollout_and_the_type_of_weights_reach_healing(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(
        "model: a/b\nrevision: 12e4567\nout: runs/x\nplans: ['3']\ntasks: [copy]\n"
        "healing:\n  - {name: one, prompts: 'task:copy', learning_rate: 1e-3}\n"
        "  - {name: two, prompts: 'task:copy', learning_rate: 5.0e-05, limit: 4}\n"
    )
    study = study_from_dict(read_study_file(path))
    assert [arm.train.learning_rate for arm in study.healing] == [0.001, 0.00005]
    assert study.model.revision == "12e4567", "a commit stays text"
    arm = {"name": "a", "prompts": "task:copy", "objective": "on-policy", "rollout_max": 16, "save_dtype": "bfloat16"}
    study = study_from_dict(GOOD | {"healing": [arm]})
    made = study.healing[0]
    assert (made.train.rollout_max, made.save_dtype) == (16, "bfloat16")
    healer = Healer(made, Path("f"), "cut+arm", study.model, study.tasks, 3)
    assert healer.settings.save_dtype == "bfloat16"
    assert healer.identity["settings"]["save_dtype"] == "bfloat16"
