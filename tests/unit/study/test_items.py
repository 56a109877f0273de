"""All arms of a study answer the same items of a task: its test set, or the rest where any arm used some of it."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.errors import InputError
from layercut.report.reports import write_reports
from layercut.runs.settings import read_config
from layercut.study.file import study_from_dict
from layercut.study.job import outline_study, run_study
from layercut.tasks import load_task
from tests.support.studies import NUM_ITEMS

SHARED = "tests.support.studies:shared"
SEARCH = {
    "criteria": [{"criterion": "task_accuracy", "objective": [{"task": SHARED, "limit": 2}]}],
    "depths": [1],
}


def settings(tiny: Path, out: Path, **keys: Any) -> dict[str, Any]:
    given = {"model": str(tiny), "dtype": "float32", "device": "cpu", "out": str(out), "checkpoints": False}
    return {**given, "tasks": [SHARED], "plans": {"last": "reverse:1"}, **keys}


def items_of(study: dict[str, Any]) -> dict[str, int]:
    """Run it; by arm, how many items its number is over."""
    outcome = run_study(study_from_dict(study), console=Console(file=StringIO()), say=lambda text: None)
    assert not outcome.failed and write_reports(outcome.folder, study=outcome.study)
    runs = {file.parent.name: json.loads(file.read_text()) for file in Path(study["out"]).glob("*/metrics.json")}
    return {name: found["rows"][0]["n"] for name, found in runs.items()}


def test_without_a_search_on_it_a_task_is_whole(tiny: Path, tmp_path: Path) -> None:
    study = settings(tiny, tmp_path / "runs" / "plain")
    outline = outline_study(study_from_dict(study))
    assert [step.items for step in outline.steps] == [2 * NUM_ITEMS] * 2
    assert items_of(study) == {"uncut": 2 * NUM_ITEMS, "last": 2 * NUM_ITEMS}
    assert f"shared: full test set, {2 * NUM_ITEMS}" in (tmp_path / "runs" / "plain" / "report.md").read_text()


def test_with_a_search_on_it_every_arm_is_asked_the_rest(tiny: Path, tmp_path: Path) -> None:
    study = settings(tiny, tmp_path / "runs" / "searched", **SEARCH)
    assert items_of(study) == dict.fromkeys(("uncut", "last", "task_accuracy-1"), NUM_ITEMS)
    assert f"test set, {NUM_ITEMS} of {2 * NUM_ITEMS}" in (tmp_path / "runs" / "searched" / "report.md").read_text()


def test_a_study_of_before_keeps_its_items(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = settings(tiny, tmp_path / "runs" / "old")
    with monkeypatch.context() as patch:  # as layercut did before it reported whole test sets
        patch.setattr("layercut.study.work.decide_split", lambda used, begun: lambda task: "report")
        assert items_of(old) == dict.fromkeys(("uncut", "last"), NUM_ITEMS)
    assert "items" not in read_config(tmp_path / "runs" / "old")["tasks"][0]
    assert items_of(old) == dict.fromkeys(("uncut", "last"), NUM_ITEMS), "goes on, and is finished"


@pytest.fixture
def prompts(tmp_path: Path) -> dict[str, Path]:
    """The items of a task, and other prompts."""
    files = {"mine": "Say the letter number", "other": "Count aloud from one up to"}
    for name, words in files.items():
        rows = [{"prompt": f"{words} {i}.", "answer": chr(97 + i), "grade": "exact"} for i in range(24)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: tmp_path / f"{name}.jsonl" for name in files}


def arm_on(file: Path) -> dict[str, str]:
    return {"name": f"on-{file.stem}", "method": "seam", "responses": "original", "prompts": f"task:{file}"}


@pytest.mark.parametrize("name", ["mine", "other"])
def test_a_healing_on_its_items_counts_for_every_arm(
    name: str, prompts: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    study = settings(tiny, tmp_path / "runs" / "healed", tasks=[{"task": str(prompts["mine"]), "max_new_tokens": 2}])
    study["healing"] = ["none", arm_on(prompts[name])]
    found = items_of(study)
    assert set(found) == {"uncut", "last", f"last+on-{name}"} and len(set(found.values())) == 1
    assert (found["uncut"] == 24) is (name == "other")
    assert items_of(study) == found, "the same command again"


def test_an_arm_that_is_added_trains_on_nothing_that_is_reported(
    prompts: dict[str, Path], tiny: Path, tmp_path: Path
) -> None:
    mine, other = prompts.values()
    study = settings(tiny, tmp_path / "runs" / "grown", tasks=[{"task": str(mine), "max_new_tokens": 2}])
    assert items_of(study) == dict.fromkeys(("uncut", "last"), 24)
    selection = load_task(str(mine)).samples("selection", 1)[0].question
    other.write_text(other.read_text() + json.dumps({"prompt": selection, "answer": "a", "grade": "exact"}) + "\n")
    added = {**arm_on(other), "prompts": str(other)}
    assert items_of({**study, "healing": ["none", added]}) == dict.fromkeys(("uncut", "last", "last+on-other"), 24)
    entry = json.loads((tmp_path / "runs" / "grown" / "last+on-other" / "metrics.json").read_text())["arm"]["healed"]
    assert entry["contaminated"] == 1 and "other.jsonl" not in entry["selection_items"]
    with pytest.raises(InputError, match="reports the whole test set of mine.jsonl"):
        items_of({**study, "healing": ["none", arm_on(mine)]})
