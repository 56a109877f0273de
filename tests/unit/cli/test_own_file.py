"""A user's own file as the only task, end to end on a tiny model: eval, resumed, select, and prompts to heal with."""

import json
from pathlib import Path

import pytest
import yaml

from layercut.runs.records import read_records
from layercut.tasks import load_task
from tests.support.answers import write_lines


@pytest.fixture
def mine(tmp_path) -> Path:
    shared = {"choices": ["o", "e"], "grade": "choice"}
    rows = [{"text": f"{i} red", "answer": "o" if i % 2 else "e"} | shared for i in range(24)]
    return Path(write_lines(tmp_path / "mine.jsonl", rows))


def with_long_wrong_choices(file: Path) -> None:
    """Choices that even a random model ranks right: the wrong one is longer."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    write_lines(file, [{**row, "choices": [row["answer"], "not this one " * 3]} for row in rows])


def test_eval_measures_all_items_and_resumes(layercut, tiny, mine, tmp_path):
    command = ("eval", tiny, "--tasks", mine, "--remove", "5", "--out", tmp_path / "run")
    layercut.done(*command)
    items = read_records(tmp_path / "run" / "samples" / "mine.jsonl.rank.jsonl")
    every = load_task(str(mine)).samples("full", None)
    assert {item["id"] for item in items} == {sample.id for sample in every}
    (row,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    assert (row["task"], row["metric"], row["chance"], row["n"]) == ("mine.jsonl", "accuracy", 0.5, len(every))
    before = (tmp_path / "run" / "metrics.json").read_text()
    moved = mine.rename(tmp_path / "moved.jsonl").rename(tmp_path / "sub.jsonl").rename(mine)
    assert layercut(*command).code == 0 and (tmp_path / "run" / "metrics.json").read_text() == before
    moved.write_text(mine.read_text() + json.dumps({"text": "x", "answer": "o", "choices": "o|e", "grade": "choice"}))
    changed = layercut(*command)
    assert changed.code == 1 and "data" in changed.err and "Traceback" not in changed.err


def test_select_chooses_by_its_selection_items(layercut, tiny, mine, tmp_path):
    with_long_wrong_choices(mine)
    search = ("--criterion", "task_accuracy", "--objective", mine, "--remove", "1layer")
    layercut.done("select", tiny, *search, "--out", tmp_path / "s")
    plan = json.loads((tmp_path / "s" / "plan.json").read_text())
    chosen = set(plan["scores"]["selection_items"]["mine.jsonl"]["ids"])
    assert chosen == {sample.id for sample in load_task(str(mine)).samples("selection", None)}
    layercut.done("eval", tiny, "--tasks", mine, "--remove", tmp_path / "s" / "plan.json", "--out", tmp_path / "e")
    (row, *_) = json.loads((tmp_path / "e" / "metrics.json").read_text())["rows"]
    assert row["n"] == 24 - len(chosen), "the rest of the file"


def test_two_files_of_one_name_and_a_bad_row_are_refused_before_a_model_is_loaded(layercut, tiny, mine, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.jsonl").write_text(mine.read_text())
    ran = layercut("eval", tiny, "--tasks", f"{mine},{tmp_path}/other/mine.jsonl", "--out", tmp_path / "run")
    assert ran.code == 1 and "have one name" in ran.said
    mine.write_text(mine.read_text() + '{"text": "a", "grade": "choice"}\n')
    ran = layercut("eval", "no/such-model", "--tasks", mine, "--out", tmp_path / "run")
    assert ran.code == 1 and "line 25: no field 'answer'" in ran.said


def test_a_study_of_it_is_healed_on_its_selection_items_and_advised(layercut, tiny, mine, tmp_path):
    with_long_wrong_choices(mine)
    say = [{"prompt": f"Say {i}", "answer": f"{i}"} for i in range(60)]
    write_lines(tmp_path / "say.jsonl", say)
    seam = {"name": "seam", "method": "seam", "prompts": f"task:{tmp_path}/say.jsonl:exact", "max_new_tokens": 4}
    study = {
        "model": str(tiny), "device": "cpu", "out": str(tmp_path / "runs" / "x"), "plans": ["reverse:1", "reverse:2"],
        "tasks": [{"task": str(mine)}], "healing": [{**seam, "responses": "original"}],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    layercut.done("run", tmp_path / "study.yaml")
    layercut.done("report", tmp_path / "runs" / "x", "--keep", "0.05")
    report = (tmp_path / "runs" / "x" / "report.md").read_text()
    assert "**For everything that was measured, remove " in report and "2 paths share" in report
