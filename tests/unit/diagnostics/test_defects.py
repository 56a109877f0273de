"""A model with a known defect is recognised by the right diagnostic, and by no other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from layercut.diagnostics import brackets, load_diagnostic
from layercut.evidence.diagnosis import Diagnosis
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


def test_a_healthy_model_is_accused_of_nothing() -> None:
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
def test_a_defect_is_found_by_one_diagnostic_alone(defect: Defect, culprit: str) -> None:
    found = diagnose(defect)
    assert accused(found, "cut") == [culprit]


def test_a_loop_is_no_empty_answer_and_an_empty_one_no_loop() -> None:
    for defect, loops, empty in (("loops", 1.0, 0.0), ("silent", 0.0, 1.0)):
        found = diagnose(defect)["degeneration"]  # type: ignore[arg-type]
        assert (row(found, "loops")["cut"][0], row(found, "empty")["cut"][0]) == (loops, empty)
        assert row(found, "Rep-4")["n"] == 24  # none is dropped
    assert any("count as Rep-n 0" in note for note in found["notes"])


def test_open_brackets_are_named() -> None:
    found = diagnose("never_closes")["brackets"]
    fine = "parses" if sandbox._why_not("bubblewrap") else "passed"
    assert found["data"]["classes"] == {"uncut": {fine: 24}, "cut": {"never_closed": 24}}
    assert row(found, "programs with a bracket error")["cut"][0] == 1
    assert row(found, "closed")["cut"][0] == 0
    assert {one.group for one in found["rows"] if one.group} <= {f"depth {d}" for d in range(1, 9)}
