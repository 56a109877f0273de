"""Answers of the models: repetition, failing programs, and items that were lost."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.text import Text

from layercut.evidence.completions import PROGRAMS, DiagnosedAnswers, diagnose_runs
from layercut.evidence.degeneration import NAME
from layercut.evidence.diagnosis import Diagnosis, MeasureRow, over_models
from layercut.evidence.intervals import ALPHA, Estimate
from layercut.report.diagnosis.page import measure_column, measure_table
from layercut.report.diagnosis.sections import PROGRAM_SHARES, program_cell, program_classes, program_words
from layercut.report.table import Column, Part, Table, terminal
from layercut.report.words import readout_words
from layercut.text.markup import code, escape, fenced, table
from layercut.text.numbers import with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.evidence.study import StudyResults
    from layercut.runs.directory import RunFolder

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
    return [
        measure_table(
            cell["diagnostics"][diagnostic]["rows"],
            f"{diagnostic}-{cell['task']}-{cell['readout']}",
            f"{_name(cell)}, shares in %",
        )
        for cell in cells
        if diagnostic in cell["diagnostics"]
    ]


def answer_tables(cells: Sequence[DiagnosedAnswers]) -> list[RenderableType]:
    """Tables of these measures for the terminal; nothing where answers are neither texts nor programs."""
    blocks: list[RenderableType] = []
    for diagnostic, title in TITLES.items():
        if parts := [part for part in answer_parts(cells, diagnostic) if part]:
            shown = (Text(re.sub(r"\*\*|\\", "", one)) if isinstance(one, str) else terminal(one) for one in parts)
            blocks += [Text(f"\n{title}"), *shown]
    return blocks


def _models_table(found: Diagnosis, cell: DiagnosedAnswers, model: str) -> Table:
    """A line for each model, the original one first."""
    diagnostic = found["rows"][0].diagnostic
    num_items = found["rows"][0].n
    measures = [
        measure_column(name, over_models(found, measure), _level) for measure, name in _COLUMNS[diagnostic].items()
    ]
    return Table(
        name=f"{diagnostic}-of-{cell['task']}-{cell['readout']}",
        caption=f"{_name(cell)}, shares in %",
        columns=[_arm(model), Column("n", lambda arm: str(num_items), numeric=True), *measures],
        rows=list(found["data"].get("classes") or found["data"]["finish"]),
    )


def _arm(model: str) -> Column:
    return Column(model, lambda arm: arm.removeprefix("layer-"))


def _name(cell: DiagnosedAnswers) -> str:
    return f"{cell['task']} ({cell['readout']})"


def _class_table(found: Diagnosis, cell: DiagnosedAnswers, model: str) -> Table:
    classes = found["data"]["classes"]

    def column(name: str) -> Column:
        return Column(program_words(name), lambda arm: program_cell(classes[arm], name))

    return Table(
        name=f"classes-of-{cell['task']}-{cell['readout']}",
        caption=f"{_name(cell)}: programs by how they end",
        columns=[_arm(model), *map(column, program_classes(classes))],
        rows=list(classes),
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


NUM_EXAMPLES = 4
"""Per task."""
OUTCOMES = {"right": "right", "wrong": "wrong", "no_answer": "no answer found", "cut": "cut by the length limit"}


class LostItem(NamedTuple):
    """An item of a task; lost where the original model gets it right and a pruned model does not."""

    id: str
    names: list[str]
    """Names of the runs, the original one first."""
    readouts: list[str]
    """Under which the original model was asked this item."""
    answers: Mapping[tuple[str, str], Mapping[str, Any]]
    """The record of each run and readout that has the item."""

    def outcome(self, name: str, readout: str) -> str | None:
        """Return how an answer ended; None where the item was not asked."""
        record = self.answers.get((name, readout))
        return None if record is None else str(record["outcome"])

    def failing(self, readout: str) -> list[str]:
        """Runs of pruned models that lose the item under a readout."""
        if self.outcome(self.names[0], readout) != "right":
            return []
        return [name for name in self.names[1:] if self.outcome(name, readout) not in ("right", None)]


def lost_items(runs: Sequence[RunFolder], task: str, readouts: Sequence[str]) -> list[LostItem]:
    """Up to four items of a task that the first run gets right and another one loses under at least one readout.

    The same item is shown under every readout: a model may still rank the right answer first and no longer write it.
    Items are picked by the hash of their id, so that the choice is neither the first items of the task nor ours.

    Args:
        runs: the uncut run, then the cut ones.
        task: name of the task.
        readouts: those to show, all of them in the uncut run.
    """
    records = {
        (run.name, readout): {record["id"]: record for record in run.records(task, readout)}
        for run in runs
        for readout in readouts
        if any((row["task"], row["readout"]) == (task, readout) for row in run.metrics()["rows"])
    }
    names = [run.name for run in runs]
    items = [
        LostItem(
            id=item,
            names=names,
            readouts=[readout for readout in readouts if item in records[names[0], readout]],
            answers={key: known[item] for key, known in records.items() if item in known},
        )
        for item in dict.fromkeys(item for readout in readouts for item in records[names[0], readout])
    ]
    lost = [item for item in items if any(map(item.failing, readouts))]
    return sorted(lost, key=lambda item: hashlib.sha256(item.id.encode()).digest())[:NUM_EXAMPLES]


def examples(runs: Sequence[RunFolder], task: str, readouts: Sequence[str]) -> list[str]:
    """Markdown lines with the items of ``lost_items``; nothing where none was lost."""
    lines: list[str] = []
    for item in lost_items(runs, task, readouts):
        lines += _item(item)
    return lines


def _item(item: LostItem) -> list[str]:
    first = item.answers[item.names[0], item.readouts[0]]
    lines = [f"Item {code(item.id)}, right answer {code(first['gold'])}:", "", *fenced(first["question"]), ""]
    head = ["run", *map(readout_words, item.readouts)]
    rows = [[escape(name), *(_cell(item.answers.get((name, one))) for one in item.readouts)] for name in item.names]
    lines += [*table(head, rows), ""]
    for readout in item.readouts:
        lines += _in_full(item, readout)
    return lines


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "-"
    outcome = OUTCOMES.get(record["outcome"], record["outcome"])
    return f"{code(record['answer'])} {outcome}" if record["answer"].strip() else outcome


def _in_full(item: LostItem, readout: str) -> list[str]:
    """Texts of the uncut and the first failing pruned model, where they are more than the answers in the table."""
    first = item.names[0]
    if "completion" not in item.answers[first, readout] or item.outcome(first, readout) != "right":
        return []
    lines: list[str] = []
    for name in (first, *item.failing(readout)[:1]):
        record = item.answers[name, readout]
        if record["completion"].strip() != record["answer"].strip():
            lines += [f"{escape(name)}, {readout_words(readout)}:", "", *fenced(record["completion"]), ""]
    return lines
