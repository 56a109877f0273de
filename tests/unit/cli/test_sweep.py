from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.answers import write_lines
from tests.unit.cli.conftest import Run

TASKS = ("--objective", "brackets", "--readouts", "rank", "--limit", "3")


def test_sweep_end_to_end_and_again_without_the_model(
    layercut: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = layercut("sweep", tiny, *TASKS, "--layers", "0-1", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert "2 decoder layers of" in done.out and "3 items per task (--limit 3)" in done.words
    assert f"report: {tmp_path}" in done.out.replace("\n", "")
    folder = tmp_path / "run"
    # A random model is not above chance, so there is no retention to draw.
    before = {name: (folder / name).read_bytes() for name in ("sweep.json", "sweep.md")}
    lines = (folder / "samples" / "brackets.rank.jsonl").read_text().splitlines()
    assert len(lines) == 3 * 3

    monkeypatch.setattr("layercut.models.loading.load_model", None)  # nothing has to be computed
    again = layercut("sweep", tiny, *TASKS, "--layers", "0-1", "--out", folder, "--json")
    assert again.code == 0, again.err
    data = json.loads(again.out)
    assert [row["layer"] for row in data["rows"]] == [0, 1]
    assert data == json.loads(before["sweep.json"])
    assert before == {name: (folder / name).read_bytes() for name in before}
    other = layercut("sweep", tiny, *TASKS[:-1], "4", "--out", folder)
    assert other.code == 1 and "rank.limit 3, and now" in other.err


def test_shares_the_folder_of_a_search(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    # The tiny model guesses, so the search itself is refused, but only after it has scored the original model.
    search = ("--criterion", "task_accuracy", "--remove", "1 layer", "--out", tmp_path / "run")
    chosen = layercut("select", tiny, *TASKS, *search)
    journal = tmp_path / "run" / "samples" / "brackets.rank.jsonl"
    before = journal.read_text()
    assert before.count("\n") >= 3, chosen.err
    done = layercut("sweep", tiny, *TASKS, "--layers", "1", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    assert journal.read_text().startswith(before)
    keys = [json.dumps([line["key"], line["id"]]) for line in map(json.loads, journal.read_text().splitlines())]
    assert len(set(keys)) == len(keys)
    listed = json.loads(layercut("ls", tmp_path, "--json").out)
    assert [run["status"] for run in listed] == ["finished"]
    assert listed[0]["command"].startswith("layercut select "), "the command that began it"


def test_suites_and_tasks_of_lm_eval_are_objectives(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="asks a task of lm-eval: pip install 'layercut[lm-eval]'")
    row = {"choices": {"text": ["a b", "c", "d"], "label": ["A", "B", "C"]}, "answerKey": "A"}
    data = write_lines(tmp_path / "arc_easy.jsonl", [row | {"question": f"{i} or so?"} for i in range(24)])
    quick = ("--objective", "suite:quick", "--limit", "3", "--data", f"arc_easy={data}", "--layers", "1")
    shown = layercut("sweep", tiny, *quick, "--out", tmp_path / "quick", "--dry-run")
    assert shown.code == 0, shown.err
    for task in ("arithmetic (short)", "copy (short)", "arc_easy (rank)"):
        assert f"{task}, 2 plans: 6 items" in shown.out
    options = ("--objective", "lm-eval:arc_easy", "--data", f"arc_easy={data}", "--limit", "3")
    done = layercut("sweep", tiny, *options, "--layers", "1", "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    (row,) = json.loads(done.out)["rows"]
    assert (row["task"], row["readout"], row["n"]) == ("arc_easy", "rank", 3)
    # The tiny model guesses, so the search is refused, but only after the task was asked.
    search = ("--criterion", "task_accuracy", "--remove", "1 layer", "--out", tmp_path / "run")
    chosen = layercut("select", tiny, *options, *search)
    assert "arc_easy (rank), not above" in " ".join(chosen.err.split())
