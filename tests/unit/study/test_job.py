"""Cuts of a study that answer a cell in one call, and the items that all arms answer: the test set, or what is left."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.engine.base import Under
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError, RunMismatch
from layercut.runs.settings import read_config
from layercut.study.file import study_from_dict
from layercut.study.job import outline_study, run_study
from layercut.study.work import settings_but_tasks
from layercut.tasks import load_task
from tests.support.answers import write_lines
from tests.support.studies import NUM_ITEMS
from tests.unit.study.conftest import LETTERS
from tests.unit.study.test_run import records, run

PLANS = {"last": "reverse:1", "early": "1", "two": "0,4", "again": "1"}
KEYS: dict[str, Any] = {"plans": PLANS, "tasks": [LETTERS, {"task": "copy", "readouts": ["short", "rank"], "limit": 6}]}


class Stop(BaseException):
    """A kill."""


@pytest.fixture
def calls(monkeypatch) -> list[tuple[int, int]]:
    """Plans and wanted answers of every call of the engine that wants some."""
    found: list[tuple[int, int]] = []
    answers = SharedEngine.ask

    def counted(engine: Any, requests: Any, plans: Any, decoding: Any, wanted: Any) -> Any:
        found.append((len(plans), sum(wanted(plan, one.id) for plan in plans for one in requests)))
        return answers(engine, requests, plans, decoding, wanted)

    monkeypatch.setattr(SharedEngine, "ask", counted)
    return found


def test_cuts_answer_together_as_each_alone(study, tmp_path, calls):
    criteria = ["reverse", "tests.support.studies:middle"]
    outcome, _ = run(study("all/one", **KEYS, depths=[2], criteria=criteria))
    assert outcome.failed == []
    # The original model; last, early, two and reverse-2; again has the layers of early; middle was searched for.
    assert sorted(num for num, _ in calls) == [1] * 9 + [4] * 3
    together = records(tmp_path / "runs" / "all" / "one")
    for name, spec in PLANS.items():
        assert run(study(f"{name}/alone", **KEYS | {"plans": {name: spec}}))[0].failed == []
        alone = records(tmp_path / "runs" / name / "alone")
        alone = {path: lines for path, lines in alone.items() if "uncut/" not in path}
        assert alone == {path: lines for path, lines in together.items() if path.startswith(f"{name}/")}


def test_killed_while_they_answer_it_goes_on_where_it_was(study, tmp_path, calls, monkeypatch):
    settings = study("whole/one", **KEYS)
    run(settings)
    asked, whole = sum(wanted for _, wanted in calls), records(tmp_path / "runs" / "whole" / "one")
    answers = SharedEngine.ask
    calls.clear()

    def killed(engine: Any, requests: Any, plans: Any, decoding: Any, wanted: Any) -> Under[Any]:
        for number, found in enumerate(answers(engine, requests, plans, decoding, wanted)):
            if len(plans) > 1 and number == 1:
                raise Stop
            yield found

    settings = {**settings, "out": str(tmp_path / "runs" / "killed" / "one")}
    with monkeypatch.context() as patched:
        patched.setattr(SharedEngine, "ask", killed)
        with pytest.raises(Stop):
            run_study(study_from_dict(settings), console=Console(), say=print)
    kept = sum(map(len, records(tmp_path / "runs" / "killed" / "one").values()))
    calls.clear()
    run(settings)
    assert records(tmp_path / "runs" / "killed" / "one") == whole
    assert sum(wanted for _, wanted in calls) == asked - kept < asked


def test_a_study_takes_more_tasks_and_items_and_asks_what_is_new(study, tmp_path, calls):
    plans = {"last": "reverse:1", "early": "1"}
    run(study("grown", plans=plans, tasks=[LETTERS]), limit=2)
    calls.clear()
    more = {"plans": plans, "tasks": [{"task": "copy", "readouts": ["rank"], "limit": 3}, LETTERS]}
    after, _ = run(study("grown", **more), limit=5)
    assert after.failed == []
    assert calls == [(1, 3), (1, 3), (2, 6), (2, 6)]
    at_once, _ = run(study("whole", **more), limit=5)
    grown, whole = (tmp_path / "runs" / name for name in ("grown", "whole"))
    assert records(grown) == records(whole)
    assert [row.to_dict() for row in after.rows] == [row.to_dict() for row in at_once.rows]
    with pytest.raises(RunMismatch, match=r"with tasks.copy/rank.limit 3, and now .* is 2\. Go back"):
        run(study("grown", **more), limit=2)
    had, wanted = ({"tasks": [{"task": "a", "readout": "rank", "limit": n, "version": n}]} for n in (1, 2))
    assert settings_but_tasks(had, had | {"tasks": []})[0] == {"tasks": {}}
    before, now = settings_but_tasks(had, wanted)
    assert (before["tasks"]["a/rank"]["version"], now["tasks"]["a/rank"]["version"]) == (1, 2), "which is refused"


def test_a_cut_that_fails_fails_alone(study, tmp_path, calls, monkeypatch):
    answers = SharedEngine.ask

    def fails(engine: Any, requests: Any, plans: Any, decoding: Any, wanted: Any) -> Any:
        if any(plan.removed == (1,) for plan in plans):
            raise RuntimeError("this cut computes nothing")
        return answers(engine, requests, plans, decoding, wanted)

    keys = {"plans": {"early": "1", "last": "reverse:1", "two": "0,4"}, "tasks": [LETTERS]}
    with monkeypatch.context() as patched:
        patched.setattr(SharedEngine, "ask", fails)
        outcome, said = run(study("one/x", **keys))
    assert [line.split(" failed:")[0] for line in outcome.failed] == ["early: letters (rank)"]
    assert {row.cut.name for row in outcome.rows} == {"last", "two"}
    assert any("each is asked alone: this cut computes nothing" in line for line in said)
    calls.clear()
    assert run(study("one/x", **keys))[0].failed == [] and calls == [(1, 6)]
    assert run(study("two/x", **keys))[0].failed == []
    assert records(tmp_path / "runs" / "one" / "x") == records(tmp_path / "runs" / "two" / "x")


SHARED = "tests.support.studies:shared"
SEARCH = [{"criterion": "task_accuracy", "objective": [{"task": SHARED, "limit": 2}]}]


def items_of(study: dict[str, Any]) -> dict[str, int]:
    """Run it; by arm, how many items its number is over."""
    outcome, _ = run(study)
    assert not outcome.failed and outcome.paths["report"].is_file()
    runs = {file.parent.name: json.loads(file.read_text()) for file in Path(study["out"]).glob("*/metrics.json")}
    return {name: found["rows"][0]["n"] for name, found in runs.items()}


def test_a_task_is_whole_without_a_search_on_it_and_else_every_arm_is_asked_the_rest(study, tmp_path):
    plain = study("plain", tasks=[SHARED])
    assert [step.items for step in outline_study(study_from_dict(plain)).steps] == [2 * NUM_ITEMS] * 2
    assert items_of(plain) == {"uncut": 2 * NUM_ITEMS, "last": 2 * NUM_ITEMS}
    assert f"shared: full test set, {2 * NUM_ITEMS}" in (tmp_path / "runs" / "plain" / "report.md").read_text()
    searched = study("searched", tasks=[SHARED], criteria=SEARCH, depths=[1])
    assert items_of(searched) == dict.fromkeys(("uncut", "last", "task_accuracy-1"), NUM_ITEMS)
    assert f"test set, {NUM_ITEMS} of {2 * NUM_ITEMS}" in (tmp_path / "runs" / "searched" / "report.md").read_text()


def test_a_study_of_before_keeps_its_items(study, tmp_path, monkeypatch):
    old = study("old", tasks=[SHARED])
    with monkeypatch.context() as patch:  # as layercut did before it reported whole test sets
        patch.setattr("layercut.study.work.decide_split", lambda used, begun: lambda task: "report")
        assert items_of(old) == dict.fromkeys(("uncut", "last"), NUM_ITEMS)
    assert "items" not in read_config(tmp_path / "runs" / "old")["tasks"][0]
    assert items_of(old) == dict.fromkeys(("uncut", "last"), NUM_ITEMS), "goes on, and is finished"


@pytest.fixture
def prompts(tmp_path) -> dict[str, Path]:
    """The items of a task, and other prompts."""
    files = {"mine": "Say the letter number", "other": "Count aloud from one up to"}
    for name, words in files.items():
        rows = [{"prompt": f"{words} {i}.", "answer": chr(97 + i), "grade": "exact"} for i in range(24)]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    return {name: tmp_path / f"{name}.jsonl" for name in files}


def arm_on(file: Path) -> dict[str, str]:
    return {"name": f"on-{file.stem}", "method": "seam", "responses": "original", "prompts": f"task:{file}"}


@pytest.mark.parametrize("name", ["mine", "other"])
def test_a_healing_on_its_items_counts_for_every_arm(name, prompts, study):
    tasks = [{"task": str(prompts["mine"]), "max_new_tokens": 2}]
    healed = study("healed", tasks=tasks, healing=["none", arm_on(prompts[name])])
    found = items_of(healed)
    assert set(found) == {"uncut", "last", f"last+on-{name}"} and len(set(found.values())) == 1
    assert (found["uncut"] == 24) is (name == "other")
    assert items_of(healed) == found, "the same command again"


def test_an_arm_that_is_added_trains_on_nothing_that_is_reported(prompts, study, tmp_path):
    mine, other = prompts.values()
    grown = study("grown", tasks=[{"task": str(mine), "max_new_tokens": 2}])
    assert items_of(grown) == dict.fromkeys(("uncut", "last"), 24)
    selection = load_task(str(mine)).samples("selection", 1)[0].question
    other.write_text(other.read_text() + json.dumps({"prompt": selection, "answer": "a", "grade": "exact"}) + "\n")
    added = {**arm_on(other), "prompts": str(other)}
    assert items_of({**grown, "healing": ["none", added]}) == dict.fromkeys(("uncut", "last", "last+on-other"), 24)
    entry = json.loads((tmp_path / "runs" / "grown" / "last+on-other" / "metrics.json").read_text())["arm"]["healed"]
    assert entry["contaminated"] == 1 and "other.jsonl" not in entry["selection_items"]
    with pytest.raises(InputError, match="reports the whole test set of mine.jsonl"):
        items_of({**grown, "healing": ["none", arm_on(mine)]})
