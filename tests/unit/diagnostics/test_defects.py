"""A model with a known defect is recognised by the right diagnostic, and by no other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from layercut.diagnostics import LAYER_FORMS, diagnostic, written_programs
from layercut.diagnostics.demoted import LIKELIER, above_guessing
from layercut.diagnostics.traces import TOKEN_KINDS
from layercut.evidence.diagnosis import Diagnosis, damages
from layercut.sandbox import runner as sandbox
from layercut.sandbox.runner import Program, ProgramResult, run_programs
from tests.support.accused import accused
from tests.support.patient import Defect, PatientEngine, session

ASKED = ("arithmetic", "brackets", "degeneration", "propagation", "demoted")


_RAN: dict[Program, ProgramResult] = {}


def run_each_once(programs: Sequence[Program], **limits: Any) -> list[ProgramResult]:
    """Really run, but what several patients write only once."""
    fresh = [program for program in dict.fromkeys(programs) if program not in _RAN]
    _RAN.update(zip(fresh, run_programs(fresh, **limits), strict=True))
    return [_RAN[program] for program in programs]


@cache
def diagnose(defect: Defect) -> dict[str, Diagnosis]:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(written_programs, "run_programs", run_each_once)
        patient = session(PatientEngine(defect), Path(folder))
        return {name: diagnostic(name)(patient) for name in ASKED}


def rows(found: Diagnosis) -> list[dict[str, Any]]:
    return [one.to_dict() for one in found["rows"]]


def row(found: Diagnosis, measure: str, group: str = "") -> dict[str, Any]:
    (one,) = [one for one in rows(found) if (one["measure"], one["group"]) == (measure, group)]
    return one


def test_a_healthy_model_is_accused_of_nothing() -> None:
    found = diagnose("healthy")
    assert accused(found, "cut") == []
    assert all(one["difference"][0] == 0 for name in ASKED for one in rows(found[name]))
    assert all(not one["examples"] for one in found.values())


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
def test_a_defect_is_found_by_one_diagnostic_alone(defect: Defect, culprit: str) -> None:
    found = diagnose(defect)
    assert accused(found, "cut") == [culprit]
    assert {one["diagnostic"] for one in found[culprit]["examples"]} == {culprit}


def test_a_token_whose_logit_is_destroyed() -> None:
    found = diagnose("no_times")["propagation"]
    shown = damages({"propagation": found}, "cut")
    assert [(one.row.metric, one.row.group) for one in shown] == [("first choice (copy, gsm_symbolic)", "operator")]
    # One operator of three in each chain: two thirds of them are still the first choice.
    assert shown[0].row.values.cut.value == pytest.approx(2 / 3)
    operators = row(found, "extra loss", "operator")  # programs have some too, and lose none
    assert operators["cut"][0] == pytest.approx(11.9 / 3 * 24 / operators["n"])
    assert row(found, "KL", "digit")["cut"][0] == 0
    where = found["data"]["first_wrong"]["cut"]
    assert where["kinds"] == {"operator": 24}
    assert where["parted"] == where["wrong_when_forced"] == 24
    assert where["traces"] == 5 * 24
    # What is given up to the broken token does not help, all of what lies behind it does.
    clamped = [row(found, "clamped", f"{share} given")["cut"][0] for share in ("0%", "25%", "50%", "100%")]
    assert clamped == [0.8, 1.0, 1.0, 1.0]  # one task of five
    assert row(found, "teacher-forced")["cut"][0] > row(found, "free-running")["cut"][0]


def test_programs_are_traces_too_and_have_keywords() -> None:
    found = diagnose("never_closes")["propagation"]
    assert row(found, "first choice", "keyword")["cut"][0] == 1
    assert row(found, "first choice", "bracket")["cut"][0] < 1
    assert any("programs 24 of 24" in note for note in found["notes"])
    assert [row(found, "1 / rank", kind)["uncut"][0] for kind in ("keyword", "bracket")] == [1, 1]
    assert 0 < row(found, "1 / rank", "bracket")["cut"][0] < 1


def test_a_loop_is_no_empty_answer_and_an_empty_one_no_loop() -> None:
    for defect, loops, empty in (("loops", 1.0, 0.0), ("silent", 0.0, 1.0)):
        found = diagnose(defect)["degeneration"]  # type: ignore[arg-type]
        assert (row(found, "loops")["cut"][0], row(found, "empty")["cut"][0]) == (loops, empty)
        assert row(found, "Rep-4")["n"] == 24  # none is dropped
    assert any("Shorter than four words" in note and "cut 24" in note for note in found["notes"])


def test_open_brackets_are_named() -> None:
    found = diagnose("never_closes")["brackets"]
    fine = "parses" if sandbox._why_not("bubblewrap") else "passed"
    assert found["data"]["classes"] == {"uncut": {fine: 24}, "cut": {"never_closed": 24}}
    assert row(found, "programs with a bracket error")["cut"][0] == 1
    assert row(found, "closed")["cut"][0] == 0
    assert {one.group for one in found["rows"] if one.group} <= {f"depth {d}" for d in range(1, 9)}


def test_what_is_demoted_and_what_is_erased() -> None:
    verdict = diagnose("cannot_add")["demoted"]["data"]["verdicts"]["cut"]
    assert verdict["lost"] == 24
    # Greedy and drawn answers are all wrong, but every token of the right one is still the likeliest when given.
    assert (verdict["demoted"], verdict["erased"], verdict["drawn"]) == (24, 0, 0)
    assert verdict["times"] > LIKELIER and 0 < verdict["guessed"] < 24


def test_a_number_whose_digits_are_guessed_is_erased() -> None:
    """Each right digit is among the ten likeliest tokens of a model that writes any digit."""
    tokens = [{"text": " ", "nll": 0.01}, {"text": "9", "nll": math.log(10)}, {"text": "0\n", "nll": math.log(10)}]
    assert above_guessing(tokens) == pytest.approx(0)
    assert above_guessing([{"text": "-"}, {"text": "123", "nll": math.log(250)}]) == pytest.approx(math.log(LIKELIER))


def test_the_form_for_layers_says_of_given_tokens_what_the_whole_diagnostic_says(tmp_path: Path) -> None:
    whole = diagnose("no_times")["propagation"]
    short = diagnostic("propagation", LAYER_FORMS)(session(PatientEngine("no_times"), tmp_path))
    assert short["rows"]
    finer = [one for one in short["rows"] if one.group in TOKEN_KINDS]
    assert all(one in whole["rows"] for one in short["rows"] if one not in finer)
    assert {one.metric for one in finer} == {"extra loss"} and "all else" in {one.group for one in finer}
    assert accused({"propagation": short}, "cut") == ["propagation"]
    assert {one.metric for one in short["rows"] if not one.group} >= {"teacher-forced", "KL"}
