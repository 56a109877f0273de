"""Stored answers are measured by the functions of the diagnostics, from run folders alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.diagnostics.brackets import brackets
from layercut.diagnostics.degeneration import degeneration
from layercut.diagnostics.programs import make_functions
from layercut.evidence import completions as module
from layercut.evidence.completions import (
    FILE,
    PROGRAMS,
    as_plain_cells,
    diagnose_answers,
    diagnose_runs,
    diagnose_sweep,
)
from layercut.evidence.degeneration import NAME
from layercut.evidence.program_classes import CLASS, classify_program
from layercut.runs.records import read_records
from layercut.sandbox import runner as sandbox
from tests.support.answers import build_answers, record
from tests.support.patient import PatientEngine, prose, session
from tests.support.sweeps import curve, sweep_of
from tests.unit.diagnostics.test_programs import ENDINGS, Programmer

needs_sandbox = pytest.mark.skipif(bool(sandbox._why_not("bubblewrap")), reason="no sandbox works here")


def test_texts_have_the_numbers_of_the_probe(tmp_path: Path) -> None:
    patient = session(PatientEngine("loops"), tmp_path)
    probe = degeneration(patient)
    runs = [
        build_answers(
            tmp_path / name,
            {"own": [record(one["id"], one["text"], one["finish_reason"]) for one in read_records(file)]},
        )
        for name in ("uncut", "cut")
        for file in [tmp_path / f"degeneration.written.{name}.jsonl"]
    ]
    (cell,) = diagnose_runs(runs, seed=0)
    stored = cell["diagnostics"][NAME]
    assert (cell["task"], cell["readout"], list(cell["diagnostics"])) == ("own", "chain", [NAME])
    assert [row.to_dict() for row in stored["rows"]] == [row.to_dict() for row in probe["rows"]]
    assert stored["data"] == probe["data"]
    assert probe["notes"][0].endswith(stored["notes"][1])
    looping = {row.metric: (row.values.uncut.value, row.values.cut.value) for row in stored["rows"]}
    assert looping["loops"] == looping["no end within the limit"] == (0, 1)


@needs_sandbox
def test_programs_have_the_numbers_of_the_probe(tmp_path: Path) -> None:
    probe = brackets(session(Programmer("healthy"), tmp_path, limit=len(ENDINGS)))
    wanted = {one.id: one for one in make_functions(len(ENDINGS), 0)}
    ends = {one["id"]: one["failures"] for one in read_records(tmp_path / "brackets.runs.all.jsonl")}

    def stored(name: str) -> list[dict[str, Any]]:
        found = []
        for one in read_records(tmp_path / f"brackets.programs.{name}.jsonl"):
            failure, head = ends[name].get(one["id"]), wanted[one["id"]].head
            kind = classify_program(head + one["text"], head=head, outcome=failure)
            found.append(record(one["id"], one["text"], metrics={"pass": float(failure == "")}, **{CLASS: kind}))
        return found

    runs = [build_answers(tmp_path / name, {"humaneval": stored(name)}) for name in ("uncut", "cut")]
    (cell,) = diagnose_runs(runs, seed=0)
    found = cell["diagnostics"][PROGRAMS]
    own = [row.to_dict() for row in probe["rows"] if row.metric.startswith("programs")]
    assert [row.to_dict() for row in found["rows"]] == [{**row, "diagnostic": PROGRAMS} for row in own]
    assert found["data"] == probe["data"]


def test_short_answers_are_no_texts_and_a_program_without_a_class_does_not_count() -> None:
    assert (
        diagnose_answers({"uncut": [record("a", " 19"), record("b", " 3.")], "cut": [record("a", "")] * 2}, seed=0)
        == {}
    )
    texts = [record("a", "one two three four"), record("b", " 3.")]
    assert list(diagnose_answers({"uncut": [record("a", "")] * 2, "cut": texts}, seed=0)) == [NAME]
    newer = [record("a", "x", program="passed"), record("b", "x")]
    notes = diagnose_answers({"uncut": newer, "cut": newer}, seed=0)[PROGRAMS]["notes"]
    assert notes == ["1 program of each model."]


def test_items_are_paired_and_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [record(str(n), prose(str(n))) for n in range(6)]
    runs = [
        build_answers(tmp_path / "q" / "uncut", {"own": texts}),
        build_answers(tmp_path / "q" / "cut", {"own": texts[4:0:-1]}),
    ]
    (cell,) = diagnose_runs(runs, seed=1, cache=tmp_path)
    rows = cell["diagnostics"][NAME]["rows"]
    assert {row.n for row in rows} == {4}
    assert all(row.values.difference.value == 0 for row in rows)
    with monkeypatch.context() as patched:
        patched.setattr(module, "measure_texts", lambda *_: pytest.fail("measured again"))
        assert diagnose_runs(runs, seed=1, cache=tmp_path) == [cell]
    assert diagnose_runs(runs, seed=2, cache=tmp_path)[0]["key"] != cell["key"]
    (tmp_path / FILE).write_text("{")
    assert diagnose_runs(runs, seed=1, cache=tmp_path) == [cell]
    assert json.loads((tmp_path / FILE).read_text())["cells"] == as_plain_cells([cell])


def test_answers_that_did_not_change_stay_in_the_file(tmp_path: Path) -> None:
    """Only the first of two tasks is measured anew; the second was known and must not fall out of the file."""
    texts = [record(str(n), prose(str(n))) for n in range(6)]
    before = build_answers(tmp_path / "before", {"first": texts, "second": texts})
    diagnose_runs([before], seed=1, cache=tmp_path)
    after = build_answers(tmp_path / "after" / "before", {"first": texts[1:], "second": texts})
    cells = diagnose_runs([after], seed=1, cache=tmp_path)
    assert [cell["task"] for cell in cells] == ["first", "second"]
    assert json.loads((tmp_path / FILE).read_text())["cells"] == as_plain_cells(cells)


def test_one_run_has_its_own_values(tmp_path: Path) -> None:
    run = build_answers(tmp_path / "one", {"own": [record(str(n), prose(str(n))) for n in range(6)]})
    (cell,) = diagnose_runs([run], seed=0)
    rows = {row.metric: row for row in cell["diagnostics"][NAME]["rows"]}
    assert rows["loops"].values.uncut.value == rows["loops"].values.cut.value == 0
    assert {row.arm for row in rows.values()} == {"one"}


def test_two_runs_of_one_name_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    runs = [build_answers(tmp_path / name / "uncut", {"own": [record("a", prose(name))]}) for name in ("a", "b")]
    (cell,) = diagnose_runs(runs, seed=0)
    assert {row.arm for row in cell["diagnostics"][NAME]["rows"]} == {str(tmp_path / "b" / "uncut")}


def test_a_sweep_is_measured_layer_by_layer(tmp_path: Path) -> None:
    sweep = sweep_of(curve("own", "chain", {3: 100, 7: 50}, n=4))

    def answers(removed: list[int], text: str, finish_reason: str = "stop") -> list[dict[str, Any]]:
        return [record(str(n), f"{text} {prose(str(n))}", finish_reason, key={"removed": removed}) for n in range(4)]

    records = [
        *answers([], ""),
        *answers([3], "", "settled"),
        *answers([3], ""),
        *answers([7], "and on" * 200, "length"),
        *answers([3, 7], "x" * 900),
    ]
    run = build_answers(tmp_path / "sweep", {"own": records})
    (cell,) = diagnose_sweep(run, sweep)
    rows = {(row.metric, row.arm): row.values.cut.value for row in cell["diagnostics"][NAME]["rows"]}
    assert {arm for _, arm in rows} == {"layer-3", "layer-7"}
    for measure in ("loops", "no end within the limit"):
        assert (rows[measure, "layer-3"], rows[measure, "layer-7"]) == (0, 1)
    assert (run.path / FILE).is_file()
    (run.path / "samples" / "own.chain.jsonl").unlink()
    assert diagnose_sweep(run, sweep) == [], "a sweep without its answers still has a report"
