"""Outcomes of the programs that models write: by their text, and by running them in the sandbox.

Experiments E4 and E9 of arXiv:2602.01997. A program that does not parse has the class of its first error. One that does
is run against tests: it passes, gives a wrong answer, or fails with a name, type, attribute, value, index or other
error, or by time or memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercut.diagnostics.functions import Function, functions
from layercut.diagnostics.measures import examples_of
from layercut.diagnostics.session import Answers, DiagnosticSession
from layercut.errors import InputError
from layercut.evidence.diagnosis import Diagnosis
from layercut.evidence.program_classes import FINE, ProgramClass, class_counts, classify, program_rows
from layercut.sandbox.isolation import Limits
from layercut.sandbox.runner import Program, describe, run_programs
from layercut.text.counting import counted

LIMITS = Limits(wall_seconds=60.0, cpu_seconds=5, memory_mb=1024)
"""Right programs take milliseconds. The processor's time decides, so that a busy machine fails none."""
Classes = Mapping[str, Sequence[ProgramClass]]  # by name of the arm, a class for each function


def written_programs(session: DiagnosticSession, diagnostic: str) -> Diagnosis:
    """Have every model write small functions, and classify how they end.

    Measures are those of ``program_rows``. Where no sandbox works, programs are classed by text alone, and a note gives
    the reason.
    """
    wanted = functions(session.limit, session.seed)
    session.came("functions", wanted)
    answers = session.completions(f"{diagnostic}.programs", [one.request for one in wanted])
    parsed = _classes(wanted, answers)
    try:
        isolation = describe()
    except InputError as error:
        isolation, classes = "", parsed
        ran = f"by text alone, so a program that parses may still be wrong: {str(error).rstrip('.')}"
    else:
        classes = _run(session, diagnostic, wanted, answers, parsed)
        ran = f"those that parse were run against tests, isolation: {isolation}"

    uncut = session.uncut.name
    examples = examples_of(
        session,
        diagnostic,
        [(one.id, one.head, "") for one in wanted],
        answers,
        lambda arm, place: classes[uncut][place] in FINE and classes[arm][place] not in (*FINE, "cut"),
    )
    return {
        "rows": program_rows(diagnostic, classes, seed=session.seed, were_run=bool(isolation)),
        "data": {"classes": class_counts(classes)},
        "examples": examples,
        "notes": [f"{counted(len(wanted), 'program')}; {ran}."],
    }


def is_right_program(one: Function, text: str, finish_reason: str) -> bool:
    """True if a function is right: it passes its tests, or, where no sandbox works, parses."""
    source = one.head + text
    found = classify(source, head=one.head, finish_reason=finish_reason)
    try:
        describe()
    except InputError:
        return found == "parses"
    program = Program(source, tests=one.tests, names=(one.name,))
    return found == "parses" and run_programs([program], limits=LIMITS)[0].passed


def _classes(
    wanted: Sequence[Function], answers: Answers, failures: Mapping[str, Mapping[str, str]] | None = None
) -> Classes:
    """The class of every program; ``failures`` says by arm and id how those that were run ended."""
    return {
        name: [
            classify(
                one.head + records[one.id]["text"],
                head=one.head,
                finish_reason=records[one.id]["finish_reason"],
                outcome=None if failures is None else failures[name].get(one.id),
            )
            for one in wanted
        ]
        for name, records in answers.items()
    }


def _run(
    session: DiagnosticSession, diagnostic: str, wanted: Sequence[Function], answers: Answers, parsed: Classes
) -> Classes:
    """The classes after the programs that parse were run. Results are stored like answers."""

    def run(arm: str) -> dict[str, Any]:
        runs = [one for one, found in zip(wanted, parsed[arm], strict=True) if found == "parses"]
        results = run_programs(
            [Program(one.head + answers[arm][one.id]["text"], tests=one.tests, names=(one.name,)) for one in runs],
            limits=LIMITS,
        )
        return {"failures": {one.id: result.failure for one, result in zip(runs, results, strict=True)}}

    found = session.computed(f"{diagnostic}.runs", list(answers), run)
    return _classes(wanted, answers, {name: found[name]["failures"] for name in answers})
