"""Whole studies of a tiny model: what is run, reused, noted as failed and tried again."""

import errno
import json
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.errors import RunMismatch
from layercut.evidence.paired import compare_paired
from layercut.evidence.study import find_study_runs
from layercut.progress.bars import RunProgress
from layercut.report.reports import write_reports
from layercut.runs.directory import RunFolder
from layercut.runs.records import Journal, Notes
from layercut.runs.study import ARMS, variants_in_study
from layercut.settings import ModelSettings
from layercut.study.file import study_from_dict
from layercut.study.job import StudyOutcome, run_study
from tests.support.studies import BREAK
from tests.unit.study.conftest import STEADY
from tests.unit.surgery.test_width import thin_plan

BI = {"criterion": "block_influence", "calibration": {"num_texts": 2, "max_tokens": 12}}
SEAM = {"name": "seam", "method": "seam", "prompts": "task:copy", "limit": 20, "responses": "original"}


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Every model that is loaded, by name."""
    found: list[str] = []
    load = ModelHandle.loaded.func

    def loaded(handle: ModelHandle) -> Any:
        found.append(handle.settings.model)
        return load(handle)

    counted = cached_property(loaded)
    counted.__set_name__(ModelHandle, "loaded")
    monkeypatch.setattr(ModelHandle, "loaded", counted)
    return found


def run(settings: dict[str, Any], **more: Any) -> tuple[StudyOutcome, list[str]]:
    said: list[str] = []
    outcome = run_study(study_from_dict(settings), console=Console(file=StringIO()), say=said.append, **more)
    reports = write_reports(outcome.folder, study=outcome.study) if outcome.study else {}
    return outcome._replace(paths=reports | outcome.paths), said


def records(folder: Path) -> dict[str, list[Any]]:
    return {
        f"{file.parts[-3]}/{file.name}": sorted(file.read_text().splitlines())
        for file in sorted(folder.glob("*/samples/*.jsonl"))
    }


KEYS = {"criteria": [BI, "random"], "depths": [1, "33%"], "healing": ["none", {**SEAM, "plans": ["last"]}]}
CUTS = ["last", "last+seam", "block_influence-1", "block_influence-2", "random-1", "random-2"]


def test_a_study_of_criteria_depths_and_healing(study, loads, tmp_path):
    outcome, _ = run(study("a", **KEYS))
    folder = tmp_path / "runs" / "a"
    assert outcome.failed == [] and len(loads) == 2, "the original model once, and the healed one"
    cuts = find_study_runs(folder)[1]
    assert [one.name for one in cuts] == CUTS == list(dict.fromkeys(row.cut.name for row in outcome.rows))
    shallow, deep = (one.metrics()["plan"] for one in cuts[2:4])
    assert deep["removed"][:1] == shallow["removed"] and shallow["settings"]["first_of"] == 2
    assert [file.name for file in folder.glob("searches/*/plans/*.json")] == ["block_influence-2.json"]
    healed = next(row for row in outcome.rows if row.cut.name == "last+seam")
    assert (healed.cut.plan, healed.cut.healing, healed.cut.removed) == ("last", "seam", (5,))
    assert cuts[1].metrics()["arm"]["healed"]["method"] == "seam", "what the deleted checkpoint recorded"
    assert healed.to_dict()["healing"] == "seam" and healed.to_dict()["criterion"] == "reverse"
    assert "| last+seam | 5 |" in outcome.paths["report"].read_text()
    assert not list(folder.glob("**/checkpoint")), "checkpoints: false leaves none"

    loads.clear()
    again, _ = run(study("a", **KEYS))
    assert not loads and [row.to_dict() for row in again.rows] == [row.to_dict() for row in outcome.rows]

    report = outcome.paths["report"].read_bytes()
    assert write_reports(folder)["report"].read_bytes() == report, "the folder alone rebuilds the report"


def test_a_study_takes_further_arms_and_tasks_and_asks_nothing_again(study, loads, tmp_path, monkeypatch):
    healed = {"healing": [{**SEAM, "plans": ["last"]}]}
    assert run(study("one/grown", **healed))[0].failed == []
    folder = tmp_path / "runs" / "one" / "grown"
    before = {file: file.stat().st_mtime_ns for file in folder.glob("*/samples/*.jsonl")}
    config = (folder / "config.yaml").read_text()

    other = {**SEAM, "name": "other", "seam": "projection", "seed": 3, "plans": ["early"]}
    more = {"plans": {"early": "1", "last": "reverse:1"}, "criteria": ["random"], "depths": [1], "seeds": [0, 1]}
    more |= {"healing": [other, *healed["healing"]]}
    left: list[set[str]] = []
    piece = RunProgress.piece

    def begun(progress: RunProgress, index: int) -> Any:
        own = progress._time
        unfinished = [name for at, name in enumerate(progress._names) if own.done[at] < own.pieces[at].num_items]
        left.append({name.partition(": ")[0].removeprefix("healing ") for name in unfinished})
        return piece(progress, index)

    with monkeypatch.context() as patched:
        patched.setattr(RunProgress, "piece", begun)
        outcome, _ = run(study("one/grown", **more))
    assert "early" in left[0] and not left[0] & {"uncut", "last", "last+seam"}, "no time is left for what is there"
    names = {row.cut.name for row in outcome.rows}
    assert outcome.failed == [] and {"last", "last+seam", "early", "early+other", "random-1", "random-1-seed1"} <= names
    assert {file: file.stat().st_mtime_ns for file in before} == before, "answers of the first arms are as they were"
    assert run(study("two/whole", **more))[0].failed == []
    whole = tmp_path / "runs" / "two" / "whole"
    assert records(folder) == records(whole), "as if all arms had been asked for at once"
    assert (folder / "config.yaml").read_text() == (whole / "config.yaml").read_text() != config

    loads.clear()
    run(study("one/grown", **more))
    assert not loads, "the grown study is the folder's"
    for fewer in ({**more, "plans": {"early": "1"}, "healing": more["healing"][:1]}, {**more, "seeds": [0]}):
        with pytest.raises(RunMismatch, match="one/grown was begun with"):
            run(study("one/grown", **fewer))


def test_an_arm_may_change_until_it_is_begun(study, loads, tmp_path, monkeypatch):
    def stopped(*given: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("layercut.study.job.StudyJob._score", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(study("changed", healing=[SEAM]))
    changed = {"healing": [{**SEAM, "limit": 12, "seam": "projection"}]}
    assert run(study("changed", **changed))[0].failed == []
    with pytest.raises(RunMismatch, match=r"healing\.seam\.\S+ projection, .*\S+ linear"):
        run(study("changed", healing=[SEAM]))


def test_a_healing_that_failed_may_have_other_settings(study, tmp_path, monkeypatch):
    other = {**SEAM, "name": "other"}

    def too_large(*given: Any, **more: Any) -> Any:
        raise MemoryError("the healing needs more memory")

    with monkeypatch.context() as patched:
        patched.setattr("layercut.healing.seam.repair_seams", too_large)
        failed = run(study("failed", healing=[SEAM], checkpoints=True))[0].failed
    assert len(failed) == 1 and "last+seam: healing failed" in failed[0]
    folder = tmp_path / "runs" / "failed"
    assert (folder / "last" / "heal-seam" / "config.yaml").is_file()
    smaller = {**SEAM, "limit": 12, "seam": "projection"}
    assert run(study("failed", healing=[smaller, other], checkpoints=True))[0].failed == []
    assert "projection" in (folder / "last" / "heal-seam" / "config.yaml").read_text()
    assert run(study("whole", healing=[smaller, other], checkpoints=True))[0].failed == []
    assert records(folder) == records(tmp_path / "runs" / "whole"), "as if the first settings had never been"
    with pytest.raises(RunMismatch, match="failed was begun"):
        run(study("failed", healing=[SEAM, other], checkpoints=True))


def test_every_row_is_compared_once(study, monkeypatch):
    compared: list[int] = []

    def counted(uncut: list[float], cut: list[float], **more: Any) -> Any:
        compared.append(len(cut))
        return compare_paired(uncut, cut, **more)

    monkeypatch.setattr("layercut.evidence.comparison.compare_paired", counted)
    outcome, _ = run(study("once", plans={"last": "reverse:1", "first": "0"}))
    assert len(compared) == len(outcome.rows) == 4 and outcome.paths["page"].is_file()


@pytest.mark.parametrize("arms", [3, [[]], [{"name": 3}], {"name": "a"}, [None]])
def test_edited_arms_count_as_none(tmp_path, arms):
    notes = Notes(tmp_path)
    notes.put(ARMS, arms)
    assert variants_in_study(tmp_path) == []
    notes.put(ARMS, [{"name": "a"}])
    assert variants_in_study(tmp_path) == [{"name": "a"}]


@pytest.mark.parametrize("lost", ["half", "all"])
def test_answers_that_were_lost_are_asked_again(study, tmp_path, lost):
    settings = study("lost")
    run(settings)
    folder = tmp_path / "runs" / "lost"
    before, report = records(folder), (folder / "report.md").read_text()
    for file in folder.glob("last/samples/*.jsonl"):
        lines = file.read_text().splitlines(keepends=True)
        file.unlink() if lost == "all" else file.write_text("".join(lines[: len(lines) // 2]))
    run(settings)
    assert records(folder) == before
    assert (folder / "report.md").read_text() == report


def test_what_fails_is_noted_and_tried_again(study, tmp_path, monkeypatch, loads):
    broken = tmp_path / "broken"
    broken.touch()
    monkeypatch.setenv(BREAK, str(broken))
    keys: dict[str, Any] = {"criteria": ["tests.support.studies:middle"], "depths": [1]}
    keys["plans"] = {"last": "reverse:1", "early": "1"}  # which answer together
    outcome, said = run(study("x", **keys))
    folder = tmp_path / "runs" / "x"
    cells = [f"{arm}: letters (rank)" for arm in ("uncut", "last", "early")]
    failed = [line.split(" failed:")[0] for line in outcome.failed]
    assert failed == [*cells, "choosing layers by tests.support.studies-middle"]
    assert "failures/uncut-letters-rank.txt" in outcome.failed[0]
    assert "in grade" in (folder / "failures" / "uncut-letters-rank.txt").read_text()
    assert {(row.cut.name, row.task) for row in outcome.rows} == {("last", "steady"), ("early", "steady")}
    assert "the grader fell over" in outcome.paths["report"].read_text()
    assert all(line in said for line in outcome.failed)

    broken.unlink()
    outcome, said = run(study("x", **keys))
    assert outcome.failed == [] and not list((folder / "failures").iterdir())
    cuts = ("last", "early", "tests.support.studies-middle-1")
    names = {(row.cut.name, row.task) for row in outcome.rows}
    assert names == {(cut, task) for cut in cuts for task in ("letters", "steady")}
    assert "fell over" not in outcome.paths["report"].read_text()


def test_a_full_disk_stops_the_study(study, monkeypatch):
    def full(*args: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("layercut.study.job.StudyJob._score", full)
    with pytest.raises(OSError, match="No space left"):
        run(study("full"))


def test_a_study_stopped_again_and_again_is_one_that_ran_through(study, tmp_path, monkeypatch):
    keys = {"tasks": [STEADY], "plans": {"last": "reverse:1", "two": "0,4"}}
    assert run(study("whole", **keys))[0].failed == []
    append, left = Journal.append, 0

    def stopping(journal: Journal, fresh: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        append(journal, fresh)

    monkeypatch.setattr(Journal, "append", stopping)
    stops = 0
    for attempt in range(1, 100):
        left = 2  # every run stops after its first new records
        try:
            stopped, _ = run(study("stopped", **keys))
            break
        except KeyboardInterrupt:
            stops = attempt
    assert stops > 3 and stopped.failed == []
    assert records(tmp_path / "runs" / "stopped") == records(tmp_path / "runs" / "whole")


def test_a_plan_with_mlp_channels_is_an_arm_with_answers_of_its_own(study, tiny, tmp_path):
    """It removes no layer, and must not be taken for the original model or for another width."""
    model = ModelHandle(ModelSettings(model=str(tiny), dtype="float32", device="cpu")).loaded.model
    for name, number in (("thin", 24), ("thinner", 12)):
        thin_plan(model, num_kept=number).save(tmp_path / f"{name}.json")
    plans = {name: str(tmp_path / f"{name}.json") for name in ("thin", "thinner")}
    keys = {"plans": {**plans, "last": "reverse:1"}, "checkpoints": True, "healing": ["none"]}
    outcome, _ = run(study("wide", **keys))
    assert outcome.failed == []
    folder = tmp_path / "runs" / "wide"
    answers = {name: (folder / name / "samples/letters.rank.jsonl").read_text() for name in ("uncut", *plans, "last")}
    assert len(set(answers.values())) == 4
    rows = {row.cut.name: row.cut for row in outcome.rows}
    assert rows["thin"].mlp == pytest.approx(0.5) and rows["thinner"].mlp == pytest.approx(0.75)
    assert rows["thin"].amount == "50 % of the MLP channels" and rows["last"].label == "5"
    assert json.loads((folder / "thin/checkpoint/config.json").read_text())["intermediate_size"] == 24
    again, _ = run(study("wide", **keys))
    assert [row.to_dict() for row in again.rows] == [row.to_dict() for row in outcome.rows]
    assert "| thin | mlp:0.5 |" in (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    assert "What can be removed?" in page and "mlp:0.75" in page


@pytest.mark.parametrize("tasks", [None, ["copy"], [{"task": "copy", "limit": 2}]], ids=["none", "names", "settings"])
def test_the_folder_of_another_verb_is_refused_in_one_line(study, tmp_path, tasks):
    settings = {"model": "tiny"} | ({} if tasks is None else {"tasks": tasks})
    RunFolder.begin(tmp_path / "runs" / "other", settings).close()
    with pytest.raises(RunMismatch, match=r"other was begun with model tiny, and now .* `out`\.$") as raised:
        run(study("other"))
    assert "\n" not in str(raised.value)
