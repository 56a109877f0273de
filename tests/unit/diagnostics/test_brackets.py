"""Nested brackets, and programs, which are classed by what comes of really running them."""

from __future__ import annotations

import pytest

from layercut.diagnostics import brackets as module
from layercut.diagnostics.brackets import DEEPEST, FORMS, LIMITS, brackets, make_functions, nested_brackets
from layercut.engine.base import Completion, GenerationRequest
from layercut.errors import InputError
from layercut.evidence.program_classes import classify_program
from layercut.runs.records import read_records
from layercut.sandbox import runner as sandbox
from layercut.surgery.plan import CutPlan
from tests.support.answers import completion
from tests.support.patient import PatientEngine, item, session

needs_sandbox = pytest.mark.skipif(bool(sandbox._why_not("bubblewrap")), reason="no sandbox works here")
ENDINGS = {
    "wrong_answer": "\n    return None if False else []\n",
    "name": "\n    return undefined_name",
    "type": "\n    return 1 + 'a'",
    "attribute": "\n    return (1).nothing",
    "value": "\n    return int('x')",
    "index": "\n    return [][1]",
    "recursion": "\n    def again(): return again()\n    return again()",
    "timeout": "\n    while True: pass",
    "other_error": "\n    return 1 / 0",
    "never_closed": "\n    return (1",
    "indentation": "\n    one = 1\n  return one",
    "no_code": "",
}


@needs_sandbox
def test_right_bodies_pass_and_empty_ones_fail():
    wanted = make_functions(20, 3)  # each of the ten kinds, with two numbers
    assert {one.name.rpartition("_")[0] for one in wanted} == {form.name for form in FORMS}
    for body, passed in ((None, 20), ("\n    pass", 0)):
        programs = [
            sandbox.Program(one.head + (one.body if body is None else body), tests=one.tests, names=(one.name,))
            for one in wanted
        ]
        results = sandbox.run_programs(programs, limits=LIMITS)
        assert sum(one.passed for one in results) == passed, [one for one in results if not one.passed][:3]


class Programmer(PatientEngine):
    """Uncut it writes every function right; cut, each one with another ending."""

    def _text(self, request: GenerationRequest, plan: CutPlan) -> str | Completion:
        ids = [one.id for one in make_functions(24, 0)]
        if plan.removed and item(request.id) in ids:
            text = list(ENDINGS.values())[ids.index(item(request.id)) % len(ENDINGS)]
            return completion(text, id=request.id)
        return super()._text(request, plan)


@needs_sandbox
def test_each_ending_has_its_class(tmp_path, monkeypatch):
    patient = session(Programmer("healthy"), tmp_path, limit=len(ENDINGS))
    found = brackets(patient)
    assert found["data"]["classes"]["uncut"] == {"passed": len(ENDINGS)}
    assert found["data"]["classes"]["cut"] == dict.fromkeys(ENDINGS, 1)
    rows = {row.metric: row.values.cut.value for row in found["rows"] if not row.group}
    assert rows["programs that parse"] == pytest.approx(9 / 12)
    assert rows["programs that pass"] == 0
    assert rows["programs with a bracket error"] == pytest.approx(1 / 12)
    assert sandbox.describe_isolation() in found["notes"][0]
    # How programs ended is kept: nothing is run again.
    assert len(read_records(tmp_path / "brackets.runs.all.jsonl")) == 2
    monkeypatch.setattr(module, "run_programs", lambda *_, **__: pytest.fail("run again"))
    again = brackets(session(Programmer("healthy"), tmp_path, limit=len(ENDINGS)))
    assert again == found


def test_without_a_sandbox_the_text_alone_is_judged(tmp_path, monkeypatch):
    def none() -> str:
        raise InputError("generated programs cannot be run safely here (bubblewrap: not installed).")

    monkeypatch.setattr(module, "describe_isolation", none)
    found = brackets(session(Programmer("healthy"), tmp_path, limit=len(ENDINGS)))
    assert found["data"]["classes"]["uncut"] == {"parses": len(ENDINGS)}
    assert found["data"]["classes"]["cut"]["parses"] == 9
    assert "programs that pass" not in {row.metric for row in found["rows"]}
    assert "may still be wrong" in found["notes"][0]
    assert "bubblewrap: not installed" in found["notes"][0]


def test_functions_differ_and_grow():
    wanted = make_functions(60, 0)
    assert len({one.id for one in wanted}) == 60
    assert wanted[:10] == make_functions(10, 0)
    assert {classify_program(one.head, head=one.head) for one in wanted} == {"no_code"}
    assert {classify_program(one.head + "\n    return 1", head=one.head) for one in wanted} == {"parses"}


def test_nested_brackets_have_the_depth_they_say():
    samples = nested_brackets(seed=2).samples("report", 100)
    assert all(len(sample.gold.split()) == sample.data["depth"] for sample in samples)
    assert {sample.data["depth"] for sample in samples} == set(range(1, DEEPEST + 1))
