"""Prompts of several sources at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.healing.prompt_sources import PromptSpec, prompt_source, prompt_specs
from layercut.study.file import study_from_dict


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
            PromptSpec(source="task:chain_sum:0", readout="short", skip=3, limit=2),
            PromptSpec(source=str(file), skip=1, limit=2),
        ]
    )
    assert [len(part.prompts) for part in source.parts] == [3, 2, 2]
    items = [prompt.id.split()[0] for part in source.parts[:2] for prompt in part.prompts]
    assert len(set(items)) == 5, "skipped items are the other source's"
    assert [prompt.answer for prompt in source.parts[2].prompts] == ["It is 1", "It is 2"]
    assert [task.readout for task in source.tasks] == ["chain", "short"]
    assert source.max_new_tokens == 256, "files may hold longer answers than the tasks"
    assert [part["n"] for part in source.describe()["parts"]] == [3, 2, 2]


def test_the_command_line_puts_commas_between_sources(file: Path) -> None:
    specs = prompt_specs("task:gsm8k,task:arithmetic,a.txt", readout="short", data={"gsm8k": "g"}, limit=4)
    assert [spec.source for spec in specs] == ["task:gsm8k", "task:arithmetic", "a.txt"]
    assert [spec.data for spec in specs] == ["g", None, None]
    assert [spec.readout for spec in specs] == ["short", "short", None]
    assert prompt_specs(str(file)) == (PromptSpec(source=str(file)),), "a file that is there is one source"


def test_what_cannot_be_mixed_is_refused(file: Path, tmp_path: Path) -> None:
    twice = [PromptSpec(source="task:copy", limit=2), PromptSpec(source="task:copy", limit=3)]
    with pytest.raises(InputError, match="2 prompts come"):
        prompt_source(twice)
    with pytest.raises(InputError, match="cannot be mixed"):
        prompt_source([PromptSpec(source=str(tmp_path)), PromptSpec(source=str(file))])
    with pytest.raises(InputError, match="5 prompts, .*skip 5"):
        prompt_source([PromptSpec(source=str(file), skip=5)])
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
