from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Completion
from layercut.errors import InputError
from layercut.healing.prompt_sources import (
    Answering,
    PromptSpec,
    answering_under,
    prompt_source,
    prompt_specs,
    task_prompts,
)
from layercut.healing.settings import SYSTEM, FilterSettings
from layercut.settings import DecodingSettings
from layercut.study.file import study_from_dict
from layercut.study.settings import HealingArm
from layercut.tasks import load_task

GREEDY = DecodingSettings()


def test_the_papers_settings_are_a_preset() -> None:
    how = answering_under("paper", GREEDY)
    assert how.system == SYSTEM == "You are a helpful assistant."
    assert (how.decoding.temperature, how.decoding.top_p, how.decoding.top_k) == (0.9, 0.95, 0)
    assert how.max_new_tokens == 8192


def test_what_is_said_goes_before_the_preset() -> None:
    drawn = DecodingSettings(temperature=0.5)
    given = {"max_new_tokens": 100, "system": "Be brief."}
    assert answering_under("paper", drawn, **given) == Answering(decoding=drawn, **given)
    assert answering_under(None, GREEDY, system=None) == Answering()
    with pytest.raises(InputError, match="unknown preset 'papers'.*paper"):
        answering_under("papers", GREEDY)


def arm(**keys: Any) -> HealingArm:
    study = {"model": "m", "plans": ["reverse:1"], "tasks": ["copy"], "out": "o"}
    return study_from_dict({**study, "healing": [{"name": "a", "prompts": "hub:x/y", **keys}]}).healing[0]


def test_a_study_takes_the_same_settings() -> None:
    filters = {"finished_only": False, "right_only": True}
    made = arm(shuffle_seed=1, limit=9, **filters)
    assert made.prompts == (PromptSpec(source="hub:x/y", limit=9, shuffle_seed=1),)
    assert made.filters == FilterSettings(**filters)


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
    drawn = texts(hub, shuffle_seed=1)
    assert drawn != everything and sorted(drawn) == sorted(everything)
    assert texts(hub, shuffle_seed=1, limit=5) == drawn[:5]
    assert texts(hub, shuffle_seed=2, limit=5) != drawn[:5]


def test_rows_of_the_hub_that_cannot_be_asked_are_counted(hub: str) -> None:
    source = prompt_source(prompt_specs(hub))
    assert len(source.prompts) == 29
    (note,) = source.notes
    assert f": 1, the first is {hub}, row " in note
    assert "tool" in note and "\n" not in note


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [{"instruction": f"Say {number}", "output": f"It is {number}"} for number in range(5)]
    path = tmp_path / "rows,with a comma.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_sources_stand_one_after_the_other_with_their_own_limits(file: Path) -> None:
    source = prompt_source(
        [
            PromptSpec(source="task:chain_sum:0", limit=3),
            PromptSpec(source="task:copy", limit=2),
            PromptSpec(source=str(file), limit=2),
        ]
    )
    assert [len(part.prompts) for part in source.parts] == [3, 2, 2]
    assert [prompt.answer for prompt in source.parts[2].prompts] == ["It is 0", "It is 1"]
    assert [task.readout for task in source.tasks] == ["chain", "short"]
    assert source.max_new_tokens == 256, "files may hold longer answers than the tasks"
    assert [part["n"] for part in source.describe()["parts"]] == [3, 2, 2]


def test_the_command_line_puts_commas_between_sources(file: Path) -> None:
    specs = prompt_specs("task:gsm8k,task:arithmetic,a.txt", data={"gsm8k": "g"}, limit=4)
    assert [spec.source for spec in specs] == ["task:gsm8k", "task:arithmetic", "a.txt"]
    assert [spec.data for spec in specs] == ["g", None, None]
    assert prompt_specs(str(file)) == (PromptSpec(source=str(file)),), "a file that is there is one source"


def test_what_cannot_be_mixed_is_refused(file: Path, tmp_path: Path) -> None:
    twice = [PromptSpec(source="task:copy", limit=2), PromptSpec(source="task:copy", limit=3)]
    with pytest.raises(InputError, match="2 prompts come"):
        prompt_source(twice)
    with pytest.raises(InputError, match="cannot be mixed"):
        prompt_source([PromptSpec(source=str(tmp_path)), PromptSpec(source=str(file))])
    with pytest.raises(InputError, match="data belongs to task:NAME"):
        PromptSpec(source=str(file), data="x")
    with pytest.raises(InputError, match="limit 0 is too small"):
        PromptSpec(source=str(file), limit=0)


def test_a_study_names_one_source_or_several_with_what_holds_for_all() -> None:
    base = {"model": "m", "out": "runs/x", "tasks": ["copy"], "plans": ["reverse:1"]}
    arm = {"name": "sft", "limit": 9, "prompts": ["task:copy", {"source": "p.txt", "limit": 4}]}
    (found,) = study_from_dict({**base, "healing": [arm]}).healing
    assert found.prompts == (PromptSpec(source="task:copy", limit=9), PromptSpec(source="p.txt", limit=4))
    (found,) = study_from_dict({**base, "healing": [{"name": "sft", "prompts": "p.txt"}]}).healing
    assert found.prompts == (PromptSpec(source="p.txt"),)


@pytest.mark.parametrize("name", ["arithmetic", "copy", "gsm_symbolic"])
def test_prompts_are_selection_items_asked_as_the_task_asks(name: str) -> None:
    task = load_task(name)
    found = task_prompts(task, limit=20)
    reported = {sample.id for sample in task.samples("report", None)}
    assert len(found.prompts) == 20
    assert not {one.id for one in found.prompts} & reported
    first = found.samples[found.prompts[0].id]
    assert found.prompts[0].prompt == task.request(first, found.readout).prompt
    assert found.stop


def test_the_tasks_own_answers_are_right_by_its_own_grader() -> None:
    found = task_prompts(load_task("arithmetic"), limit=10)
    for one in found.prompts:
        answers = [
            Completion(id=one.id, text=text, finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)
            for text in (one.answer, " 99999")
        ]
        assert found.are_right(answers) == [True, False]


@pytest.mark.parametrize("name", ["chain_sum", "gsm_symbolic:0"])
def test_worked_solutions_are_right_by_the_tasks_own_grader(name: str) -> None:
    found = task_prompts(load_task(name), limit=20)
    for one in found.prompts:
        answer = Completion(id=one.id, text=one.answer, finish_reason="stop", num_prompt_tokens=1, num_new_tokens=1)
        assert found.are_right([answer]) == [True], one
        assert "=" in one.answer and not one.answer.endswith("\n"), "the stop string is no part of an answer"
