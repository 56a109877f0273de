"""Stored answers are measured by the functions of the diagnostics, from run folders alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.diagnostics.degeneration import degeneration
from layercut.diagnostics.functions import functions
from layercut.diagnostics.written_programs import written_programs
from layercut.evidence import completions as module
from layercut.evidence.completions import FILE, PROGRAMS, as_plain, diagnose_answers, diagnose_runs, diagnose_sweep
from layercut.evidence.degeneration import NAME
from layercut.evidence.program_classes import CLASS, CLASSES, class_of, classify
from layercut.runs.records import read_records
from layercut.sandbox import runner as sandbox
from tests.support.answers import build_answers, record
from tests.support.patient import PatientEngine, prose, session
from tests.support.sweeps import curve, sweep_of
from tests.unit.diagnostics.test_written_programs import ENDINGS, Programmer

needs_sandbox = pytest.mark.skipif(bool(sandbox._why_not("bubblewrap")), reason="no sandbox works here")
HEAD = 'def f(x):\n    """Doc."""'


GOLDEN = {
    "passed": ("\n    return x", "passed", "stop"),
    "wrong_answer": ("\n    return x", "AssertionError: 1 is not 2", "stop"),
    "never_closed": ("\n    return (x\n", "SyntaxError: '(' was never closed", "stop"),
    "unmatched": ("\n    return x)\n", "SyntaxError: unmatched ')'", "stop"),
    "mismatched": ("\n    return (x]\n", "SyntaxError: closing parenthesis", "stop"),
    "indentation": ("\n    y = 1\n  return y", "IndentationError: unindent", "stop"),
    "unterminated_string": ("\n    return 'x", "SyntaxError: unterminated string literal", "stop"),
    "other_syntax": ("\n    return return", "SyntaxError: invalid syntax", "stop"),
    "name": ("\n    return y", "NameError: name 'y' is not defined", "stop"),
    "type": ("\n    return 1 + ''", "TypeError: unsupported operand", "stop"),
    "attribute": ("\n    return x.y", "AttributeError: no attribute 'y'", "stop"),
    "value": ("\n    return int('x')", "ValueError: invalid literal", "stop"),
    "index": ("\n    return [][0]", "IndexError: list index out of range", "stop"),
    "timeout": ("\n    while True: pass", "timeout: still running at the end of its time", "stop"),
    "memory": ("\n    return [0] * 10**12", "memory: its processes used more memory than allowed", "stop"),
    "recursion": ("\n    return f(x)", "RecursionError: maximum recursion depth exceeded", "stop"),
    "other_error": ("\n    return 1 / 0", "ZeroDivisionError: division by zero", "stop"),
    "no_code": ("I would rather not.", "", "stop"),
    "cut": ("Let me think about this", "", "length"),
}


def test_every_class_of_a_program_that_was_run_has_a_golden_answer() -> None:
    assert set(GOLDEN) == set(CLASSES) - {"parses"}


@pytest.mark.parametrize("kind", GOLDEN)
def test_stored_answers_of_older_runs_have_the_class_of_their_program(kind: str) -> None:
    text, answer, finish_reason = GOLDEN[kind]
    old = record("a", text, finish_reason, answer, metrics={"pass": float(kind == "passed")})
    assert class_of(old) == kind
    assert class_of({**old, CLASS: "timeout"}) == "timeout", "a class that was stored counts"
    assert class_of({**old, "metrics": {"accuracy": 0.0}}) is None, "an older run of another task holds none"
    if kind not in ("no_code", "cut"):
        exact = classify(HEAD + text, head=HEAD, finish_reason=finish_reason, outcome=answer.partition(":")[0])
        assert exact == kind, "the text alone tells what the whole program tells"


@pytest.mark.parametrize(
    ("text", "failure", "kind"),
    [
        ("Sure!\n```python\ndef f(x:\n    return x\n```\nIt works.", "SyntaxError", "other_syntax"),
        ("def f(x):\n    return (x\n```\nIt works (mostly.", "SyntaxError", "never_closed"),
        ("    return 1", "IndentationError", "indentation"),
        ("\n    x = 1\n    yield return", "SyntaxError", "other_syntax"),
        ("def f(x):\n    return x", "SyntaxError", "other_syntax"),
    ],
)
def test_older_answers_are_classed_by_their_first_block(text: str, failure: str, kind: str) -> None:
    assert class_of(record("a", text, answer=f"{failure}: ...", metrics={"pass": 0.0})) == kind


def test_an_older_answer_that_the_limit_ended_may_be_cut() -> None:
    open_ended = record("a", "\n    return (x, [", "length", "SyntaxError: ...", metrics={"pass": 0.0})
    assert class_of(open_ended) == "cut"
    assert class_of({**open_ended, "finish_reason": "stop"}) == "never_closed"


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
    assert probe["notes"][0].endswith(stored["notes"][1]) and probe["notes"][1] == stored["notes"][2]
    looping = {row.metric: (row.values.uncut.value, row.values.cut.value) for row in stored["rows"]}
    assert looping["loops"] == looping["no end within the limit"] == (0, 1)


@needs_sandbox
def test_programs_have_the_numbers_of_the_probe(tmp_path: Path) -> None:
    probe = written_programs(session(Programmer("healthy"), tmp_path, limit=len(ENDINGS)), PROGRAMS)
    wanted = {one.id: one for one in functions(len(ENDINGS), 0)}
    ends = {one["id"]: one["failures"] for one in read_records(tmp_path / f"{PROGRAMS}.runs.all.jsonl")}

    def stored(name: str) -> list[dict[str, Any]]:
        found = []
        for one in read_records(tmp_path / f"{PROGRAMS}.programs.{name}.jsonl"):
            failure = ends[name].get(one["id"])
            if failure is None and one["text"].strip():  # it was not run, as it does not compile
                with pytest.raises(SyntaxError) as error:
                    compile(wanted[one["id"]].head + one["text"], "program", "exec")
                failure = type(error.value).__name__
            said = {"": "passed", None: ""}.get(failure, f"{failure}: ...")
            found.append(record(one["id"], one["text"], answer=said, metrics={"pass": float(failure == "")}))
        return found

    runs = [build_answers(tmp_path / name, {"humaneval": stored(name)}) for name in ("uncut", "cut")]
    (cell,) = diagnose_runs(runs, seed=0)
    found = cell["diagnostics"][PROGRAMS]
    assert [row.to_dict() for row in found["rows"]] == [row.to_dict() for row in probe["rows"]]
    assert found["data"] == probe["data"]
    assert f": uncut {len(ENDINGS)}, cut {len(ENDINGS)}." in found["notes"][1]


def test_short_answers_are_no_texts_and_programs_of_older_runs_may_have_no_class() -> None:
    assert (
        diagnose_answers({"uncut": [record("a", " 19"), record("b", " 3.")], "cut": [record("a", "")] * 2}, seed=0)
        == {}
    )
    texts = [record("a", "one two three four"), record("b", " 3.")]
    assert list(diagnose_answers({"uncut": [record("a", "")] * 2, "cut": texts}, seed=0)) == [NAME]
    newer = [record("a", "x", program="passed"), record("b", "x")]
    notes = diagnose_answers({"uncut": newer, "cut": newer}, seed=0)[PROGRAMS]["notes"]
    assert notes[0] == "1 program of each model." and "1 further item" in notes[1]


def test_items_are_paired_and_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [record(str(n), prose(str(n))) for n in range(6)]
    runs = [
        build_answers(tmp_path / "q" / "uncut", {"own": texts}),
        build_answers(tmp_path / "q" / "cut", {"own": texts[4:0:-1]}),
    ]
    (cell,) = diagnose_runs(runs, seed=1, cache=tmp_path)
    rows = cell["diagnostics"][NAME]["rows"]
    assert {row.n for row in rows if row.metric != "Self-BLEU-4 (paper)"} == {4}
    assert all(row.values.difference.value == 0 for row in rows)
    with monkeypatch.context() as patched:
        patched.setattr(module, "look", lambda *_: pytest.fail("measured again"))
        assert diagnose_runs(runs, seed=1, cache=tmp_path) == [cell]
    assert diagnose_runs(runs, seed=2, cache=tmp_path)[0]["key"] != cell["key"]
    (tmp_path / FILE).write_text("{")
    assert diagnose_runs(runs, seed=1, cache=tmp_path) == [cell]
    assert json.loads((tmp_path / FILE).read_text())["cells"] == as_plain([cell])


def test_answers_that_did_not_change_stay_in_the_file(tmp_path: Path) -> None:
    """Only the first of two tasks is measured anew; the second was known and must not fall out of the file."""
    texts = [record(str(n), prose(str(n))) for n in range(6)]
    before = build_answers(tmp_path / "before", {"first": texts, "second": texts})
    diagnose_runs([before], seed=1, cache=tmp_path)
    after = build_answers(tmp_path / "after" / "before", {"first": texts[1:], "second": texts})
    cells = diagnose_runs([after], seed=1, cache=tmp_path)
    assert [cell["task"] for cell in cells] == ["first", "second"]
    assert json.loads((tmp_path / FILE).read_text())["cells"] == as_plain(cells)


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
