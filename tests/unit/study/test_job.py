"""Cuts of a study that answer a cell in one call: the answers of each alone, none asked twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.engine.base import Under
from layercut.engine.shared import SharedEngine
from layercut.errors import RunMismatch
from layercut.study.file import study_from_dict
from layercut.study.job import run_study
from layercut.study.work import settings_but_tasks
from tests.unit.study.conftest import LETTERS
from tests.unit.study.test_run import records, run

PLANS = {"last": "reverse:1", "early": "1", "two": "0,4", "again": "1"}
KEYS: dict[str, Any] = {"plans": PLANS, "tasks": [LETTERS, {"task": "copy", "readouts": ["short", "rank"], "limit": 6}]}


class Stop(BaseException):
    """A kill."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Plans and wanted answers of every call of the engine that wants some."""
    found: list[tuple[int, int]] = []
    answers = SharedEngine.ask

    def counted(engine: Any, requests: Any, plans: Any, decoding: Any, wanted: Any) -> Any:
        found.append((len(plans), sum(wanted(plan, one.id) for plan in plans for one in requests)))
        return answers(engine, requests, plans, decoding, wanted)

    monkeypatch.setattr(SharedEngine, "ask", counted)
    return found


def test_cuts_answer_together_as_each_alone(study: Any, tmp_path: Path, calls: list[tuple[int, int]]) -> None:
    criteria = ["reverse", "tests.support.studies:middle"]
    outcome, _ = run(study("all/one", **KEYS, depths=[2], criteria=criteria))
    assert outcome.failed == []
    # The original model; last, early, two and reverse-2; again has the layers of early; middle was searched for.
    assert sorted(num for num, _ in calls) == [1] * 9 + [4] * 3
    together = records(tmp_path / "runs" / "all" / "one")
    for name, spec in PLANS.items():
        alone = records_of_one(study, tmp_path, name, {**KEYS, "plans": {name: spec}})
        assert alone == {path: lines for path, lines in together.items() if path.startswith(f"{name}/")}


def records_of_one(study: Any, tmp_path: Path, name: str, keys: dict[str, Any]) -> dict[str, list[Any]]:
    assert run(study(f"{name}/alone", **keys))[0].failed == []
    return {path: lines for path, lines in records(tmp_path / "runs" / name / "alone").items() if "uncut/" not in path}


def test_killed_while_they_answer_it_goes_on_where_it_was(
    study: Any, tmp_path: Path, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_study_takes_more_tasks_and_items_and_asks_what_is_new(
    study: Any, tmp_path: Path, calls: list[tuple[int, int]]
) -> None:
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


def test_a_cut_that_fails_fails_alone(
    study: Any, tmp_path: Path, calls: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
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
