"""A model with a known defect is recognised by the right diagnostic, and by no other; and what each of them asks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from layercut.diagnostics import brackets, load_diagnostic
from layercut.diagnostics.arithmetic import KINDS, expression_value, make_expressions
from layercut.diagnostics.degeneration import NUM_OPENINGS, text_openings
from layercut.diagnostics.propagation import kinds_of, token_kinds
from layercut.evidence.diagnosis import Diagnosis, layer_damages
from layercut.sandbox import runner as sandbox
from layercut.sandbox.runner import Program, ProgramResult, run_programs
from tests.support.accused import accused
from tests.support.patient import Defect, PatientEngine, session

ASKED = ("arithmetic", "brackets", "degeneration", "propagation")


_RAN: dict[Program, ProgramResult] = {}


def run_each_once(programs: Sequence[Program], **limits: Any) -> list[ProgramResult]:
    """Really run, but what several patients write only once."""
    fresh = [program for program in dict.fromkeys(programs) if program not in _RAN]
    _RAN.update(zip(fresh, run_programs(fresh, **limits), strict=True))
    return [_RAN[program] for program in programs]


@cache
def diagnose(defect: Defect) -> dict[str, Diagnosis]:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(brackets, "run_programs", run_each_once)
        patient = session(PatientEngine(defect), Path(folder))
        return {name: load_diagnostic(name)(patient) for name in ASKED}


def rows(found: Diagnosis) -> list[dict[str, Any]]:
    return [one.to_dict() for one in found["rows"]]


def row(found: Diagnosis, measure: str, group: str = "") -> dict[str, Any]:
    (one,) = [one for one in rows(found) if (one["measure"], one["group"]) == (measure, group)]
    return one


def test_a_healthy_model_is_accused_of_nothing():
    found = diagnose("healthy")
    assert accused(found, "cut") == []
    assert all(one["difference"][0] == 0 for name in ASKED for one in rows(found[name]))


@pytest.mark.parametrize(
    ("defect", "culprit"),
    [
        ("no_times", "propagation"),
        ("loops", "degeneration"),
        ("silent", "degeneration"),
        ("never_closes", "brackets"),
        ("cannot_add", "arithmetic"),
    ],
)
def test_a_defect_is_found_by_one_diagnostic_alone(defect, culprit):
    found = diagnose(defect)
    assert accused(found, "cut") == [culprit]


def test_a_loop_is_no_empty_answer_and_an_empty_one_no_loop():
    for defect, loops, empty in (("loops", 1.0, 0.0), ("silent", 0.0, 1.0)):
        found = diagnose(defect)["degeneration"]  # type: ignore[arg-type]
        assert (row(found, "loops")["cut"][0], row(found, "empty")["cut"][0]) == (loops, empty)
        assert row(found, "Rep-4")["n"] == 24  # none is dropped
    assert any("count as Rep-n 0" in note for note in found["notes"])


def test_open_brackets_are_named():
    found = diagnose("never_closes")["brackets"]
    fine = "parses" if sandbox._why_not("bubblewrap") else "passed"
    assert found["data"]["classes"] == {"uncut": {fine: 24}, "cut": {"never_closed": 24}}
    assert row(found, "programs with a bracket error")["cut"][0] == 1
    assert row(found, "closed")["cut"][0] == 0
    assert {one.group for one in found["rows"] if one.group} <= {f"depth {d}" for d in range(1, 9)}


def test_a_token_whose_logit_is_destroyed():
    found = diagnose("no_times")["propagation"]
    shown = layer_damages({"propagation": found}, "cut")
    assert [(one.row.metric, one.row.group) for one in shown] == [("first choice (copy, gsm_symbolic)", "operator")]
    # One operator of three in each chain: two thirds of them are still the first choice.
    assert shown[0].row.values.cut.value == pytest.approx(2 / 3)
    operators = row(found, "extra loss", "operator")  # programs have some too, and lose none
    assert operators["cut"][0] == pytest.approx(11.9 / 3 * 24 / operators["n"])
    assert row(found, "KL", "digit")["cut"][0] == 0
    assert row(found, "teacher-forced")["cut"][0] > row(found, "free-running")["cut"][0]


def test_programs_are_traces_too_and_have_keywords():
    found = diagnose("never_closes")["propagation"]
    assert row(found, "first choice", "keyword")["cut"][0] == 1
    assert row(found, "first choice", "bracket")["cut"][0] < 1
    assert any("programs 24 of 24" in note for note in found["notes"])
    # The brackets that close are a kind of their own, whose loss no other kind shares.
    losses = {kind: row(found, f"extra loss ({kind})")["cut"][0] for kind in ("closing bracket", "all else")}
    assert losses == {"closing bracket": pytest.approx(11.9 * 2 / 3), "all else": 0}  # gsm_symbolic has some too


SUM = ["\\", "(", "15", " +", " 2", " =", " \\$", "1", "7", ".", "5", "\\", ")"]


def test_kinds_of_tokens_in_code_and_prose():
    pieces = ["for", " x", " in", " [", "1", "]:", "\n   "]
    assert kinds_of(pieces, code=True) == ["keyword", "other", "keyword", "bracket", "digit", "bracket", "other"]
    assert kinds_of(pieces)[0] == "other"
    assert kinds_of([" is", " 1", "2", "."], answer=(3, 6)) == ["other", "answer", "answer", "other"]


@pytest.mark.parametrize(
    ("pieces", "kinds"),
    [
        (SUM, "other other digit other digit other other result result other result other bracket"),
        (["x", " =", " [", "3", "]", " 4"], "other other other digit bracket digit"),
        (["=", "12", "34", "}\n", "12"], "other result result bracket digit"),
        (["", " ", "no"], "other other other"),
    ],
)
def test_results_stand_behind_an_equals_sign(pieces, kinds):
    names = {"digit": "other digit", "bracket": "closing bracket", "other": "all else"}
    assert token_kinds(pieces) == [names.get(kind, kind) for kind in kinds.split()]


def test_expressions_are_right_and_of_the_size_they_say():
    samples = make_expressions(seed=1).samples("report", 200)
    for sample in samples:
        assert str(eval(sample.question)) == sample.gold == str(expression_value(sample.question))
        digits, operators = (int(part.split()[0]) for part in sample.data["kind"].split(", "))
        numbers = sample.question.split()[::2]
        assert len(numbers) == operators + 1
        assert {len(number) for number in numbers} == {digits}
        assert len(set(sample.options)) == 4
    assert {sample.data["kind"] for sample in samples} == {
        f"{d} digit{'s' * (d > 1)}, {o} operator{'s' * (o > 1)}" for d, o in KINDS
    }
    assert make_expressions(seed=1).samples("report", 50) == samples[:50]


def test_openings_differ_and_grow():
    assert len(set(text_openings(1000, 0).values())) == NUM_OPENINGS
    assert list(text_openings(7, 3)) == list(text_openings(20, 3))[:7]
