from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.healing.prompt_sources import Answering, PromptSpec, answering, prompt_source, prompt_specs
from layercut.healing.settings import SYSTEM, FilterSettings
from layercut.settings import DecodingSettings
from layercut.study.file import study_from_dict
from layercut.study.settings import HealingArm

GREEDY = DecodingSettings()


def test_the_papers_settings_are_a_preset() -> None:
    how = answering("paper", GREEDY)
    assert how.system == SYSTEM == "You are a helpful assistant."
    assert (how.decoding.temperature, how.decoding.top_p, how.decoding.top_k) == (0.9, 0.95, 0)
    assert (how.max_new_tokens, how.max_prompt_tokens) == (8192, 8000)
    assert FilterSettings().max_tokens == 8000


def test_what_is_said_goes_before_the_preset() -> None:
    drawn = DecodingSettings(temperature=0.5)
    given = {"max_new_tokens": 100, "system": "Be brief.", "max_prompt_tokens": 50}
    assert answering("paper", drawn, **given) == Answering(decoding=drawn, **given)
    assert answering(None, GREEDY, system=None) == Answering()
    with pytest.raises(InputError, match="unknown preset 'papers'.*paper"):
        answering("papers", GREEDY)


def arm(**keys: Any) -> HealingArm:
    study = {"model": "m", "plans": ["reverse:1"], "tasks": ["copy"], "out": "o"}
    return study_from_dict({**study, "healing": [{"name": "a", "prompts": "hub:x/y", **keys}]}).healing[0]


def test_a_study_takes_the_same_settings() -> None:
    filters = {"max_tokens": 500, "min_tokens": 2}
    made = arm(max_prompt_tokens=40, shuffle_buffer=7, shuffle_seed=1, limit=9, **filters)
    assert made.max_prompt_tokens == 40
    assert made.prompts == (PromptSpec(source="hub:x/y", limit=9, shuffle_buffer=7, shuffle_seed=1),)
    assert made.filters == FilterSettings(**filters)
    assert arm().prompts[0].shuffle_buffer == 10_000
    assert arm(preset="paper").prompts[0].shuffle_buffer == 500_000
    assert arm(preset="paper", shuffle_buffer=0).prompts[0].shuffle_buffer == 0


@pytest.fixture
def hub(tmp_path: Path) -> str:
    """The library ``datasets`` reads a folder under the same name as a data set of the hub."""
    pytest.importorskip("datasets", reason="hub data sets need layercut[heal]")
    folder = tmp_path / "set"
    folder.mkdir()
    rows: list[Any] = [{"messages": [{"role": "user", "content": f"say {number}"}]} for number in range(30)]
    rows[3] = {"messages": [{"role": "tool", "content": "x"}]}
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"hub:{folder}"


def texts(source: str, **how: Any) -> list[str]:
    found = prompt_source(prompt_specs(source, **how))
    return [prompt.prompt[-1].content for prompt in found.prompts]  # type: ignore[union-attr]


def test_a_hub_data_set_is_shuffled_by_the_seed_and_read_as_far_as_needed(hub: str) -> None:
    everything = [f"say {number}" for number in range(30) if number != 3]
    assert texts(hub, shuffle_buffer=0) == everything
    drawn = texts(hub, shuffle_seed=1)
    assert drawn != everything and sorted(drawn) == sorted(everything)
    assert texts(hub, shuffle_seed=1, limit=5) == drawn[:5]
    assert texts(hub, shuffle_seed=2, limit=5) != drawn[:5]


def test_rows_of_the_hub_that_cannot_be_asked_are_counted(hub: str) -> None:
    source = prompt_source(prompt_specs(hub, shuffle_buffer=0))
    assert len(source.prompts) == 29
    (note,) = source.notes
    assert f": 1, the first is {hub}, row 4: " in note
    assert "tool" in note and "\n" not in note
    with pytest.raises(InputError, match="shuffle_buffer -1"):
        PromptSpec(source=hub, shuffle_buffer=-1)
