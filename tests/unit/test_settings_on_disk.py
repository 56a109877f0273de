"""What settings come to in a run folder: a folder that an older layercut began goes on.

settings_on_disk.json was written when settings were plain dataclasses. It may only gain rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from layercut.healing.filters import FilterSettings
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.runs.settings import plain, settings_hash
from layercut.settings import CalibrationSettings, DecodingSettings, ModelSettings, TaskSettings
from layercut.study.file import StudyLoader, study_from_dict
from layercut.study.healing_arms import Healer

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_suffix(".json")
STUDY: dict[str, Any] = {
    "model": "m",
    "dtype": "float32",
    "cache_gib": 4,
    "out": "runs/x",
    "seeds": [3, 4],
    "plans": {"last": "reverse:3"},
    "depths": ["25%", 2],
    "decoding": {"temperature": 1, "top_p": 0.9},
    "tasks": ["arithmetic", {"task": "gsm8k", "limit": 5, "data": "d", "readouts": ["chain"], "samples": 2}],
    "criteria": [
        "block_influence",
        {"criterion": "angular_distance", "settings": {"token": "all"}, "protect": "first:2"},
        {"criterion": "task_accuracy", "name": "mine", "objective": ["copy"], "race": "off"},
        {"criterion": "perplexity", "calibration": {"source": "generated", "num_texts": 4}},
    ],
    "healing": [
        {"name": "plain", "prompts": "task:copy", "limit": 3},
        {
            "name": "much",
            "prompts": [{"source": "task:copy", "limit": 2, "skip": 1}, "task:brackets"],
            "preset": "paper",
            "limit": 4,
            "method": "full",
            "objective": "on-policy",
            "learning_rate": 1,
            "rollout_start": 8,
            "rollout_max": 16,
            "held_out": 0,
            "report_to": ["tensorboard"],
            "max_tokens": None,
            "seed": 7,
            "plans": ["last"],
            "decontaminate": ["copy"],
        },
    ],
}


def of_arm(number: int) -> dict[str, Any]:
    study = study_from_dict(STUDY)
    healer = Healer(study.healing[number], study.models[0], study.tasks, 3, folder=Path("f"), answers=Path("a"))
    return {"identity": healer.identity, "settings": healer.settings.as_dict()}


def of_study(data: dict[str, Any]) -> dict[str, Any]:
    """Without what came later, which stands nowhere on the disk where it is the default."""
    whole = study_from_dict(data).as_dict() | {"out": ""}
    for arm in whole["healing"]:
        assert arm.pop("save_dtype") == "auto"
    for step in ("sweep", "diagnose"):
        assert whole.pop(step) is None
    return whole


SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "model": ModelSettings(model="m").identity,
    "model, plain engine": ModelSettings(model="m", engine="plain", revision="v1", trust_remote_code=True).identity,
    "model, vllm": ModelSettings(model="m", engine="vllm", cuda_graphs=True, dtype="bfloat16").identity,
    "model, openai": ModelSettings(model="m", engine="openai", base_url="http://a/v1", tokenizer="t").identity,
    "decoding": DecodingSettings(temperature=0.7, top_p=0.9, top_k=5).as_dict,
    "decoding, whole numbers": DecodingSettings(temperature=1, top_p=1).as_dict,
    "task": TaskSettings(task="gsm8k", readouts=("chain", "short"), limit=3).as_dict,
    "calibration": CalibrationSettings(source="t.txt", max_tokens=64).as_dict,
    "train": TrainSettings().as_dict,
    "filters": FilterSettings(max_tokens=None).as_dict,
    "heal": HealSettings().as_dict,
    "heal, saved otherwise": HealSettings(
        train=TrainSettings(method="full", learning_rate=1, epochs=2), save_dtype="bfloat16", data={"gsm8k": "d"}
    ).as_dict,
    "study": lambda: of_study(STUDY),
    "criteria": lambda: {"criteria": [one.as_dict() for one in study_from_dict(STUDY).criteria]},
    "arm": lambda: of_arm(0),
    "arm of many settings": lambda: of_arm(1),
    **{
        f"examples/{path.name}": lambda path=path: of_study(yaml.load(path.read_text("utf-8"), Loader=StudyLoader))
        for path in sorted((ROOT / "examples").glob("*.yaml"))
    },
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_on_disk_are_those_of_older_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found, golden = SETTINGS[name](), json.loads(GOLDEN.read_text("utf-8"))[name]
    assert plain(found) == golden["settings"]
    assert settings_hash(found) == golden["hash"], "the same but for the kind of a number, such as 1 and 1.0"
