"""lm-eval tasks whose files are in a folder of one's own: ``lm-eval:FOLDER/NAME``, from every door."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut import evaluate
from layercut.errors import InputError
from layercut.tasks import check_task, load_task
from tests.support.tiny import save_tiny
from tests.unit.cli.conftest import Run, layercut  # noqa: F401

pytest.importorskip("lm_eval")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tasks = tmp_path / "my_tasks"
    tasks.mkdir()
    rows = [{"question": f"{one} + 1 =", "choices": [str(one + 1), str(one + 2)], "answer": 0} for one in range(12)]
    (tasks / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tasks / "of_mine.yaml").write_text(
        f"task: next_number\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tasks / 'rows.jsonl'}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: choices\n"
        "doc_to_target: answer\nmetric_list:\n  - metric: acc\n",
        encoding="utf-8",
    )
    return tasks


def test_python_scores_it(folder: Path, tmp_path: Path) -> None:
    name = f"lm-eval:{folder}/next_number"
    check_task(name)
    task = load_task(name)
    assert task.name == "next_number"
    before = task.settings
    (folder / "of_mine.yaml").open("a").write("target_delimiter: ' '\n")
    assert load_task(name).settings != before, "a run with another task file is another run"
    row = evaluate(name, str(save_tiny("llama", tmp_path / "model")), split="full").metrics[0]
    assert row["n"] == 12


def test_the_command_line_scores_it_and_goes_on(folder: Path, tmp_path: Path, layercut: Run) -> None:  # noqa: F811
    words = ["eval", save_tiny("llama", tmp_path / "model"), "--tasks", f"lm-eval:{folder}/next_number"]
    words += ["--out", tmp_path / "run", "--limit", 4]
    ran = layercut(*words)
    assert ran.code == 0, ran.err
    assert "next_number" in ran.out
    assert layercut(*words).code == 0, "the same command goes on"


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="unknown lm-eval task 'next_numbr'. Did you mean next_number"):
        check_task(f"lm-eval:{folder}/next_numbr")
    with pytest.raises(InputError, match="nowhere is no folder; an lm-eval task of your own is lm-eval:FOLDER/NAME"):
        check_task("lm-eval:nowhere/next_number")
