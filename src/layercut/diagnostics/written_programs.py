"""Outcomes of the programs that models write: by their text, and by running them in the sandbox.

Experiments E4 and E9 of arXiv:2602.01997. A program that does not parse has the class of its first error; one that does
is run against tests, and passes, gives a wrong answer, or fails with a name, type, attribute, value, index or other
error, or by time or memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from layercut.diagnostics.functions import Function, functions
from layercut.diagnostics.measures import rows_of
from layercut.diagnostics.programs import BRACKET, CLASSES, FINE, SYNTAX, ProgramClass, classify
from layercut.errors import InputError
from layercut.sandbox.isolation import Limits
from layercut.sandbox.runner import Program, describe, run_programs
from layercut.text.counting import counted

if TYPE_CHECKING:
    from layercut.diagnostics.session import DiagnosticSession
    from layercut.runs.diagnosis import DiagnosisExample, MeasureRow

LIMITS = Limits(wall_seconds=60.0, cpu_seconds=5, memory_mb=1024)
"""Right programs take milliseconds. The processor's time decides, so that a busy machine fails none."""
Classes = Mapping[str, Sequence[ProgramClass]]
"""By name of the arm, a class for each function."""


class WrittenPrograms(TypedDict):
    """Part of a diagnosis."""

    rows: list[MeasureRow]
    data: dict[str, Any]
    examples: list[DiagnosisExample]
    notes: list[str]


def written_programs(session: DiagnosticSession, diagnostic: str) -> WrittenPrograms:
    """Have every model write small functions, and say how they end.

    Measures, as shares of all programs: ``programs that parse`` and ``programs with a bracket error`` (their first
    error is one), the headlines; any syntax error; no code; and ``programs that pass`` their tests, where a sandbox
    works. Programs that the limit on length ended without an error neither parse nor fail. Where no sandbox works,
    programs are classed by text alone, and a note says why.
    """
    wanted = functions(session.limit, session.seed)
    session.came("functions", wanted)
    answers = session.completions(f"{diagnostic}.programs", [one.request for one in wanted])
    texts = {arm.name: [one.head + answers[arm.name][one.id]["text"] for one in wanted] for arm in session.arms}
    ends = {arm.name: [answers[arm.name][one.id]["finish_reason"] for one in wanted] for arm in session.arms}
    parsed: Classes = {
        name: [
            classify(text, head=one.head, finish_reason=end)
            for one, text, end in zip(wanted, texts[name], ends[name], strict=True)
        ]
        for name in texts
    }
    try:
        isolation = describe()
    except InputError as error:
        isolation, classes = "", parsed
        ran = f"by text alone, so a program that parses may still be wrong: {str(error).rstrip('.')}"
    else:
        classes = _run(session, diagnostic, wanted, texts, ends, parsed)
        ran = f"those that parse were run against tests, isolation: {isolation}"

    def share(classes: Classes, of: Sequence[ProgramClass]) -> dict[str, list[float]]:
        return {name: [float(found in of) for found in of_arm] for name, of_arm in classes.items()}

    rows = [
        *rows_of(session, diagnostic, "programs that parse", share(parsed, ("parses",)), headline=True),
        *rows_of(
            session, diagnostic, "programs with a bracket error", share(parsed, BRACKET), better="lower", headline=True
        ),
        *rows_of(session, diagnostic, "programs with any syntax error", share(parsed, SYNTAX), better="lower"),
        *rows_of(session, diagnostic, "programs without code", share(parsed, ("no_code",)), better="lower"),
        *(rows_of(session, diagnostic, "programs that pass", share(classes, ("passed",))) if isolation else []),
    ]
    examples: list[DiagnosisExample] = [
        {
            "diagnostic": diagnostic,
            "arm": arm.name,
            "id": one.id,
            "question": one.head,
            "gold": "",
            "uncut": answers[session.uncut.name][one.id]["text"],
            "cut": answers[arm.name][one.id]["text"],
            "tokens": [],
        }
        for arm in session.cuts
        for index, one in enumerate(wanted)
        if classes[session.uncut.name][index] in FINE and classes[arm.name][index] not in (*FINE, "cut")
    ]
    counts = {name: {one: Counter(found)[one] for one in CLASSES if one in found} for name, found in classes.items()}
    return {
        "rows": rows,
        "data": {"classes": counts},
        "examples": examples,
        "notes": [f"{counted(len(wanted), 'program')}; {ran}."],
    }


def is_right_program(one: Function, text: str, finish_reason: str) -> bool:
    """Whether a function is right: it passes its tests, or, where no sandbox works, parses."""
    source = one.head + text
    found = classify(source, head=one.head, finish_reason=finish_reason)
    try:
        describe()
    except InputError:
        return found == "parses"
    program = Program(source, tests=one.tests, names=(one.name,))
    return found == "parses" and run_programs([program], limits=LIMITS)[0].passed


def _run(
    session: DiagnosticSession,
    diagnostic: str,
    wanted: Sequence[Function],
    texts: Mapping[str, Sequence[str]],
    ends: Mapping[str, Sequence[str]],
    parsed: Classes,
) -> Classes:
    """The classes, with what came of running the programs that parse. How each ended is kept like an answer."""

    def run(arm: str) -> dict[str, Any]:
        runs = [place for place, found in enumerate(parsed[arm]) if found == "parses"]
        results = run_programs(
            [Program(texts[arm][place], tests=wanted[place].tests, names=(wanted[place].name,)) for place in runs],
            limits=LIMITS,
        )
        return {"failures": {wanted[place].id: one.failure for place, one in zip(runs, results, strict=True)}}

    found = session.computed(f"{diagnostic}.runs", list(texts), run)
    return {
        name: [
            classify(text, head=one.head, finish_reason=end, outcome=found[name]["failures"].get(one.id))
            for one, text, end in zip(wanted, texts[name], ends[name], strict=True)
        ]
        for name in texts
    }
