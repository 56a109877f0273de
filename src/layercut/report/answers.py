"""Answers of the models: all of them before and after, and how programs fail."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from layercut.evidence.program_classes import CLASS, CLASSES, FINE, ProgramClass
from layercut.evidence.study import StudyResults
from layercut.report.elements import Block, Html, Section, Table, text_columns
from layercut.report.source import Source
from layercut.report.words import first_difference, readout_words
from layercut.report.writers import fill_template
from layercut.text import printable_text

OUTCOMES = {"right": "right", "wrong": "wrong", "no_answer": "no answer found", "cut": "cut by the length limit"}
_WORDS = {
    "never_closed": "bracket never closed",
    "unmatched": "bracket closes nothing",
    "mismatched": "bracket of another kind",
    "cut": "cut by the length limit",
}
Record = Mapping[str, Any]


def answers_section(source: Source) -> Section:
    """Make the section of all answers."""
    return items_section(source.value)


def items_section(study: StudyResults, original: str = "", others: str = "Plan") -> Section:
    """All answers, packed, beside those of ``original`` or the original model; ``others`` heads the rest's list."""
    blocks: list[str] = []
    index = []
    for task, readout in dict.fromkeys((row.task, row.readout) for row in study.rows):
        before = study.uncut.records(task, readout)
        measured = {row.cut.name for row in study.rows if (row.task, row.readout) == (task, readout)}
        runs = [run for run in study.cuts if run.name in measured]
        questions = [[printable_text(record[key]) for key in ("id", "question", "gold")] for record in before]
        blocks.append(_packed([questions, list(map(_answer, before))]))
        plans = [
            {"name": printable_text(run.name), "block": place} for place, run in enumerate(runs, start=len(blocks))
        ]
        named = {"task": printable_text(task), "readout": printable_text(readout), "words": readout_words(readout)}
        index.append({**named, "block": len(blocks) - 1, "plans": plans})
        for run in runs:
            after = {record["id"]: record for record in run.records(task, readout)}
            blocks.append(_packed([_answer(after[old["id"]], old) if old["id"] in after else None for old in before]))
    about = {"tasks": index, "outcomes": OUTCOMES, "original": printable_text(original or "uncut")}
    text = Markup(json.dumps(about, ensure_ascii=True).replace("<", "\\u003c"))
    return Section(
        name="items",
        title="Every answer, before and after",
        short="Answers",
        lead=f"Marked: the first word or sign that differs from {original or 'the original model'}'s answer.",
        blocks=(Html(html=fill_template("browser.html", blocks=blocks, index=text, others=others)),),
    )


def _answer(record: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> list[Any]:
    """Outcome, graded answer and whole text, and the ends of the first difference from the answer before, if any."""
    text, old = written_text(record), written_text(before or record)
    # JavaScript counts UTF-16 code units, of the text as it is shown.
    places = first_difference(old, text) if text != old else ()
    ends = [len(printable_text(text[:place]).encode("utf-16-le")) // 2 for place in places]
    return [record["outcome"], printable_text(record["answer"]), printable_text(text), *ends]


def _packed(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def written_text(record: Record) -> str:
    """The whole written answer; of a ranked item, the option."""
    return str(record.get("completion", record["answer"]))


def programs_section(source: Source) -> Section | None:
    """Make the section of programs; None where no answer is one."""
    runs = source.runs
    cells = dict.fromkeys((row.task, row.readout) for row in source.value.rows)
    programs = {cell: {run.name: run.records(*cell) for run in runs if run.has_records(*cell)} for cell in cells}
    if not (tables := program_tables(programs)):
        return None
    return Section(name="programs", title="How programs fail", short="Programs", blocks=tables)


def program_tables(
    cells: Mapping[tuple[str, str], Mapping[str, Sequence[Record]]], model: str = "model"
) -> list[Block]:
    """How programs fail, by task and readout, of the models by name; ``model`` is what they differ in."""
    tables: list[Block] = []
    for (task, readout), of_models in cells.items():
        counts = {name: Counter(record.get(CLASS) for record in records) for name, records in of_models.items()}
        classes = {name: {kind: of[kind] for kind in CLASSES if of[kind]} for name, of in counts.items()}
        if any(classes.values()):
            tables.append(program_table(classes, f"classes-of-{task}-{readout}", f"{task} ({readout}). ", model))
    return tables


def program_table(classes: Mapping[str, Mapping[ProgramClass, int]], name: str, task: str, model: str) -> Table:
    """How many programs of each model end in each way, with shares of all and of those that fail."""

    def cell(counts: Mapping[ProgramClass, int], kind: ProgramClass) -> str:
        count, failed = counts.get(kind, 0), sum(count for of, count in counts.items() if of not in FINE)
        of_failed = f"; {100 * count / failed:.0f} %" if failed and kind not in FINE else ""
        return f"{count} ({100 * count / sum(counts.values()):.0f} %{of_failed})"

    kinds = list(dict.fromkeys(kind for counts in classes.values() for kind in counts))
    lines = [[variant, *(cell(counts, kind) for kind in kinds)] for variant, counts in classes.items()]
    columns = text_columns(model, *(_WORDS.get(kind, kind.replace("_", " ")) for kind in kinds))
    caption = f"{task}Outcomes of the generated programs: number (% of all; % of those that fail)."
    return Table(name=name, caption=caption, columns=columns, rows=lines)
