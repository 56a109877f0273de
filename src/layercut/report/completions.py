"""What stored answers show beside their scores, in reports: repetition of texts, and how programs fail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from layercut.evidence.completions import PROGRAMS, DiagnosedAnswers, diagnose_runs
from layercut.evidence.degeneration import NAME
from layercut.evidence.diagnosis import Diagnosis, MeasureRow, over_models
from layercut.evidence.intervals import Estimate
from layercut.evidence.multiplicity import ALPHA
from layercut.report.diagnosis.page import measure_table, raw_measures
from layercut.report.diagnosis.sections import PROGRAM_SHARES, program_cells
from layercut.report.elements import Part, Table
from layercut.text.markup import escape
from layercut.text.numbers import with_interval

if TYPE_CHECKING:
    from layercut.evidence.study import StudyResults

TITLES = {NAME: "Do written answers repeat themselves?", PROGRAMS: "How do programs fail?"}
"""Diagnostics of stored answers, and what they are called in a report."""
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    NAME: {
        "loops": "loops",
        "empty": "empty",
        "no end within the limit": "no end",
        "Rep-4": "Rep-4",
        "Self-BLEU-4": "Self-BLEU-4",
        "distinct-2": "distinct-2",
        "length": "words",
    },
    PROGRAMS: {
        "programs that pass": "pass",
        "programs that parse": "parse",
        "programs with a bracket error": "bracket error",
        "programs with any syntax error": "any syntax error",
        "programs with a wrong result": "wrong result",
        "programs that raise an exception": "exception",
        "programs that run out of time": "time out",
        "programs without code": "no code",
    },
}
"""Measures with a column, and their names there."""


def study_answers(study: StudyResults) -> list[DiagnosedAnswers]:
    """The measures of all written answers of a study; kept in its folder, so that they are made once."""
    folder = study.uncut.path.parent
    return diagnose_runs([study.uncut, *study.cuts], seed=study.seed, cache=folder)


def answer_parts(cells: Sequence[DiagnosedAnswers], diagnostic: str, *, model: str = "model") -> list[Part]:
    """Every task and readout that has this diagnostic; nothing where none has.

    Args:
        cells: of ``diagnose_runs`` or ``diagnose_sweep``.
        diagnostic: ``degeneration`` or ``programs``.
        model: what the models differ in, for the head of the tables.
    """
    parts: list[Part] = []
    for cell in cells:
        found = cell["diagnostics"].get(diagnostic)
        if found is None:
            continue
        parts += [f"**{escape(_name(cell))}**", ""]
        if diagnostic == PROGRAMS:
            parts += [PROGRAM_SHARES, "", _class_table(found, cell, model), ""]
        parts += [_models_table(found, cell, model), ""]
        parts += [*(f"- {escape(note)}" for note in found["notes"]), ""]
    return parts and [*parts, *(f"- {line}" for line in _legend(diagnostic)), ""]


def answer_sections(cells: Sequence[DiagnosedAnswers], *, model: str = "model") -> list[Part]:
    """Markdown of both diagnostics under headings of their own; nothing where answers are neither."""
    found = [(title, answer_parts(cells, diagnostic, model=model)) for diagnostic, title in TITLES.items()]
    return [part for title, parts in found if parts for part in (f"## {title}", "", *parts)]


def full_tables(cells: Sequence[DiagnosedAnswers], diagnostic: str) -> list[Table]:
    """A table of all measures and models for each task and readout, its CSV with numbers that are not rounded."""
    tables = []
    for cell in cells:
        if found := cell["diagnostics"].get(diagnostic):
            name = f"{diagnostic}-{cell['task']}-{cell['readout']}"
            table = measure_table(found["rows"], name, f"{_name(cell)}, shares in %")
            tables.append(replace(table, raw=raw_measures(found["rows"])))
    return tables


def _models_table(found: Diagnosis, cell: DiagnosedAnswers, model: str) -> Table:
    """A line for each model, the original one first."""
    diagnostic = found["rows"][0].diagnostic
    by_measure = {measure: over_models(found, measure) for measure in _COLUMNS[diagnostic]}
    first, *cuts = found["data"].get("classes") or found["data"]["finish"]
    any_of = [next(iter(rows.values()))[0] for rows in by_measure.values()]
    lines = [[first, str(any_of[0].n), *(_level(row.values.uncut, row) for row in any_of)]]
    for arm in cuts:
        of_arm = [rows[arm] for rows in by_measure.values()]
        cells = [_level(row.values.cut, row) + "*" * stands for row, stands in of_arm]
        lines.append([arm.removeprefix("layer-"), str(of_arm[0][0].n), *cells])
    return Table(
        name=f"{diagnostic}-of-{cell['task']}-{cell['readout']}",
        caption=f"{_name(cell)}, shares in %",
        head=[model, "n", *_COLUMNS[diagnostic].values()],
        rows=lines,
        numeric=frozenset({1}),
    )


def _name(cell: DiagnosedAnswers) -> str:
    return f"{cell['task']} ({cell['readout']})"


def _class_table(found: Diagnosis, cell: DiagnosedAnswers, model: str) -> Table:
    classes = found["data"]["classes"]
    names, rows = program_cells(classes)
    return Table(
        name=f"classes-of-{cell['task']}-{cell['readout']}",
        caption=f"{_name(cell)}: programs by how they end",
        head=[model, *names],
        rows=[[arm.removeprefix("layer-"), *cells] for arm, cells in zip(classes, rows, strict=True)],
    )


def _level(value: Estimate, row: MeasureRow) -> str:
    return with_interval(value, share=row.unit == "share")


def _legend(diagnostic: str) -> list[str]:
    about = {
        NAME: "loops: a unit repeated three times or more is a quarter of the answer. no end: the length limit ended "
        "it. Rep-4, Self-BLEU-4: higher is more repetition. distinct-2: lower is more repetition.",
        PROGRAMS: "exception: the program parses and raises one, or exits early. Answers that the length limit ended "
        "while more text could make them right neither parse nor fail.",
    }
    return [
        about[diagnostic],
        "Shares in % with 95 % intervals (Wilson, else BCa over answers). *: worse than the first line on the same "
        f"items, p < {ALPHA} after Holm's correction over the models of the column (McNemar's exact test, else sign "
        "flips).",
    ]
