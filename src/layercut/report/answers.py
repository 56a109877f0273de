"""Answers of the models: all of them before and after, those that were lost, repetition and failing programs."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from rich.text import Text

from layercut.evidence.completions import PROGRAMS, DiagnosedAnswers, diagnose_runs, first_difference
from layercut.evidence.degeneration import NAME
from layercut.evidence.diagnosis import over_models
from layercut.evidence.intervals import ALPHA
from layercut.report.diagnosis import diagnosis_examples, different_side, measure_column, measure_table
from layercut.report.diagnostics import PROGRAM_SHARES, program_cell, program_classes, program_words
from layercut.report.elements import Block, Details, Example, Html, Section, Side, bullets
from layercut.report.table import Column, Surface, Table, terminal, texts
from layercut.report.words import readout_words
from layercut.report.writers import filled
from layercut.text.counting import counted
from layercut.text.markup import escape, on_one_line, printable
from layercut.text.numbers import with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.evidence.comparison import ComparisonRow
    from layercut.evidence.study import StudyResults
    from layercut.report.source import Source
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
_LEGENDS = {
    NAME: "loops: a unit repeated three times or more is a quarter of the answer. no end: the length limit ended "
    "it. Rep-4, Self-BLEU-4: higher is more repetition. distinct-2: lower is more repetition.",
    PROGRAMS: "exception: the program parses and raises one, or exits early. Answers that the length limit ended "
    "while more text could make them right neither parse nor fail.",
}
OUTCOMES = {"right": "right", "wrong": "wrong", "no_answer": "no answer found", "cut": "cut by the length limit"}
NUM_EXAMPLES = 4
"""Per task."""
MOST_MODELS = 4
"""Pruned models whose answer to an item is shown in full."""


def items(source: Source) -> Section | None:
    """Make the section of all answers; None without a study, or without texts."""
    if source.study is None or not source.texts:
        return None
    return items_section(source.study)


def items_section(study: StudyResults, original: str = "", others: str = "Plan") -> Section:
    """Controls and all answers, packed; a line in place of them where scripts do not run.

    Args:
        original: name of the model that the others are compared with; empty for the original model.
        others: heading of their list.
    """
    blocks: list[str] = []
    index = []
    for task, readout in dict.fromkeys((row.task, row.readout) for row in study.rows):
        before = {record["id"]: record for record in study.uncut.records(task, readout)}
        asked = [row.cut.name for row in study.rows if (row.task, row.readout) == (task, readout)]
        runs = [run for run in study.cuts if run.name in asked]
        questions = [[printable(record[key]) for key in ("id", "question", "gold")] for record in before.values()]
        blocks.append(_packed([questions, [_answer(record) for record in before.values()]]))
        plans = [{"name": printable(run.name), "block": place} for place, run in enumerate(runs, start=len(blocks))]
        named = {"task": printable(task), "readout": printable(readout), "words": readout_words(readout)}
        index.append({**named, "block": len(blocks) - 1, "plans": plans})
        blocks += [_packed(_answers_after(before, run, task, readout)) for run in runs]
    about = {"tasks": index, "outcomes": OUTCOMES, "original": printable(original or "uncut")}
    text = Markup(json.dumps(about, ensure_ascii=True).replace("<", "\\u003c"))
    return Section(
        name="items",
        title="Every answer, before and after",
        short="Answers",
        lead=f"Marked: the first word or sign that differs from {original or 'the original model'}'s answer.",
        blocks=(Html(html=filled("browser.html", blocks=blocks, index=text, others=others)),),
        on=Surface.PAGE,
    )


def _answers_after(before: Mapping[str, Any], run: RunFolder, task: str, readout: str) -> list[Any]:
    """The pruned model's answer to each item, with the ends of the first difference; None for what it was not asked."""
    after = {record["id"]: record for record in run.records(task, readout)}
    answers: list[Any] = []
    for item, old in before.items():
        new = after.get(item)
        if new is None:
            answers.append(None)
            continue
        uncut, cut = _text(old), _text(new)
        # JavaScript counts UTF-16 code units, of the text as it is shown.
        ends = [len(printable(cut[:place]).encode("utf-16-le")) // 2 for place in first_difference(uncut, cut)]
        answers.append([*_answer(new), *(ends if uncut != cut else ())])
    return answers


def _answer(record: Mapping[str, Any]) -> list[str]:
    """Outcome, graded answer and whole text."""
    return [record["outcome"], printable(record["answer"]), printable(_text(record))]


def _text(record: Mapping[str, Any]) -> str:
    return str(record.get("completion", record["answer"]))


def _packed(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def errors(source: Source) -> Section | None:
    """Make the section of lost items; None where nothing was lost, or texts are left out."""
    if not source.texts:
        return None
    blocks: list[Block] = []
    if source.study is not None:
        runs = [source.study.uncut, *source.study.cuts]
        for task in dict.fromkeys(row.task for row in source.study.rows):
            readouts = list(dict.fromkeys(row.readout for row in source.study.rows if row.task == task))
            if lost := lost_items(runs, task, readouts):
                title = f"{task}: {counted(len(lost), 'item')} that were right before"
                blocks.append(Details(summary=title, blocks=lost))
    if source.diagnosis is not None:
        on = Surface.REPORTS if source.kind == "diagnosis" else Surface.PAGE
        for name, shown in diagnosis_examples(source.diagnosis).items():
            title = f"Diagnostic {name}: {counted(len(shown), 'item')} that were right before"
            blocks.append(Details(summary=title, blocks=shown, on=on))
    if not blocks:
        return None
    return Section(
        name="errors",
        title="Errors to read",
        short="Errors",
        lead="All models side by side on a few items, picked by the hash of their id among those that the original "
        "model gets right and a pruned one does not. Marked: the first word or sign that differs.",
        blocks=blocks,
    )


def lost_items(runs: Sequence[RunFolder], task: str, readouts: Sequence[str]) -> list[Example]:
    """Up to four items of a task that the first run gets right and another one loses under at least one readout.

    The same item is shown under every readout: a model may still rank the right answer first and no longer write it.
    Items are picked by the hash of their id, so that the choice is neither the first items of the task nor ours.

    Args:
        runs: the uncut run, then the cut ones.
        task: name of the task.
        readouts: those to show, all of them in the uncut run.
    """
    asked = {run.name: {row["readout"] for row in run.metrics()["rows"] if row["task"] == task} for run in runs}
    records = {
        (run.name, readout): {record["id"]: record for record in run.records(task, readout)}
        for run in runs
        for readout in readouts
        if readout in asked[run.name]
    }
    first, *cuts = (run.name for run in runs)
    failing: dict[str, dict[str, list[str]]] = {}
    for readout in readouts:
        for item, record in records[first, readout].items():
            if record["outcome"] == "right":
                answers = {name: records[name, readout].get(item) for name in cuts if readout in asked[name]}
                worse = [name for name, answer in answers.items() if answer and answer["outcome"] != "right"]
                failing.setdefault(item, {})[readout] = worse
    lost = [item for item, by_readout in failing.items() if any(by_readout.values())]
    lost.sort(key=lambda item: hashlib.sha256(item.encode()).digest())
    examples = []
    for item in lost[:NUM_EXAMPLES]:
        shown = [readout for readout in readouts if item in records[first, readout]]
        answers_in_full = []
        for readout in shown:
            uncut, losers = records[first, readout][item], failing[item].get(readout, [])
            if "completion" in uncut and losers:
                sides = [Side(name=first, text=uncut["completion"], ended="right")]
                for name in losers[:MOST_MODELS]:
                    cut = records[name, readout][item]
                    sides.append(different_side(name, cut["completion"], uncut["completion"], ended=_ended(cut)))
                answers_in_full.append((readout_words(readout), sides))
        record = records[first, shown[0]][item]
        names = [first, *cuts]
        rows = [(name, [_brief(records.get((name, readout), {}).get(item)) for readout in shown]) for name in names]
        head = [readout_words(readout) for readout in shown]
        examples.append(
            Example(
                item=item, question=record["question"], gold=record["gold"], head=head, rows=rows, texts=answers_in_full
            )
        )
    return examples


def _ended(record: Mapping[str, Any]) -> str:
    return OUTCOMES.get(record["outcome"], str(record["outcome"]))


def _brief(record: Mapping[str, Any] | None) -> tuple[str, str]:
    """An answer and how it ended."""
    return ("", "not asked") if record is None else (on_one_line(record["answer"]), _ended(record))


def endings(source: Source) -> Section | None:
    """Make the section of endings; None without written answers or a study."""
    blocks: list[Block] = []
    if source.study is not None:
        study = source.study
        blocks.append(Details(summary="Right, wrong, missing and cut short", blocks=[outcome_table(study.rows)]))
        # What was measured is kept in the study's folder, so that it is made once.
        folder = study.uncut.path.parent
        blocks += answer_details(diagnose_runs([study.uncut, *study.cuts], seed=study.seed, cache=folder))
    elif source.evaluation is not None:
        run = source.own_runs["evaluation"]
        seed = run.settings.get("seed")
        blocks += answer_details(diagnose_runs([run], seed=seed if isinstance(seed, int) else 0, cache=run.path))
    if not blocks:
        return None
    return Section(
        name="endings",
        title="How the answers ended",
        short="Endings",
        lead="Wrong, missing, or cut short by the length limit; whether texts repeat themselves; how programs fail.",
        blocks=blocks,
    )


def outcome_table(rows: Sequence[ComparisonRow]) -> Table:
    """Number of answers that were right, wrong, missing and cut short."""
    names = list(dict.fromkeys(name for row in rows for name in [*row.uncut_outcomes, *row.cut_outcomes]))
    names = [name for name in names if name in OUTCOMES or any(row.cut_outcomes.get(name) for row in rows)]
    lines = []
    main = [row for row in rows if row.is_headline]
    for task, readout in dict.fromkeys((row.task, row.readout) for row in main):
        own = [row for row in main if (row.task, row.readout) == (task, readout)]
        for run, outcomes in [(own[0].uncut.name, own[0].uncut_outcomes), *((r.cut.name, r.cut_outcomes) for r in own)]:
            lines.append([task, readout, run, *(str(outcomes.get(name, 0)) for name in names)])
    shown = [OUTCOMES.get(name, name) for name in names]
    return Table(
        name="outcomes",
        caption="Number of answers by how they ended",
        columns=texts("task", "readout", "run", *shown, numeric=shown),
        rows=lines,
    )


def answer_details(cells: Sequence[DiagnosedAnswers], *, model: str = "model") -> list[Block]:
    """Repetition of answers and failures of programs, folded; nothing where answers are neither texts nor programs.

    Args:
        cells: of ``diagnose_runs`` or ``diagnose_sweep``.
        model: what the models differ in, for the head of the tables.
    """
    details: list[Block] = []
    for diagnostic, title in TITLES.items():
        if blocks := _of_diagnostic(cells, diagnostic, model):
            full = [
                measure_table(cell["diagnostics"][diagnostic]["rows"], _table_name(diagnostic, cell), _caption(cell))
                for cell in cells
                if diagnostic in cell["diagnostics"]
            ]
            more = Details(summary="All measures", blocks=full, on=Surface.PAGE)
            details.append(Details(summary=title, blocks=[*blocks, more]))
    return details


def answer_tables(cells: Sequence[DiagnosedAnswers]) -> list[RenderableType]:
    """Tables of these measures for the terminal; nothing where answers are neither texts nor programs."""
    printed: list[RenderableType] = []
    for diagnostic, title in TITLES.items():
        blocks = _of_diagnostic(cells, diagnostic, "model")
        printed += [Text(f"\n{title}")] if blocks else []
        for block in blocks:
            if isinstance(block, Table):
                printed += [Text(block.caption), terminal(block)]
            else:
                printed.append(Text(re.sub(r"\\", "", str(block))))
    return printed


def _of_diagnostic(cells: Sequence[DiagnosedAnswers], diagnostic: str, model: str) -> list[Block]:
    """A line for each model, the original one first, for every task and readout that has this diagnostic."""
    blocks: list[Block] = []
    arm = Column(model, lambda name: name.removeprefix("layer-"))
    for cell in cells:
        if (found := cell["diagnostics"].get(diagnostic)) is None:
            continue
        if diagnostic == PROGRAMS:
            blocks.append(_class_table(found["data"]["classes"], cell, arm))
        measures = [
            measure_column(
                name, over_models(found, measure), lambda value, row: with_interval(value, share=row.unit == "share")
            )
            for measure, name in _COLUMNS[diagnostic].items()
        ]
        blocks.append(
            Table(
                name=_table_name(f"{diagnostic}-of", cell),
                caption=_caption(cell),
                columns=[arm, _count(found["rows"][0].n), *measures],
                rows=list(found["data"].get("classes") or found["data"]["finish"]),
            )
        )
        blocks.append(bullets(map(escape, found["notes"])))
    legend = [
        _LEGENDS[diagnostic],
        "Shares in % with 95 % intervals (Wilson, else BCa over answers). *: worse than the first line on the same "
        f"items, p < {ALPHA} after Holm's correction over the models of the column (McNemar's exact test, else sign "
        "flips).",
    ]
    return [*blocks, bullets(legend)] if blocks else []


def _count(num_items: int) -> Column:
    return Column("n", lambda model: str(num_items), numeric=True)


def _class_table(classes: Mapping[str, Mapping[str, int]], cell: DiagnosedAnswers, arm: Column) -> Table:
    def column(name: str) -> Column:
        return Column(program_words(name), lambda model: program_cell(classes[model], name))

    return Table(
        name=_table_name("classes-of", cell),
        caption=f"{cell['task']} ({cell['readout']}). {PROGRAM_SHARES}",
        columns=[arm, *map(column, program_classes(classes))],
        rows=list(classes),
    )


def _table_name(kind: str, cell: DiagnosedAnswers) -> str:
    return f"{kind}-{cell['task']}-{cell['readout']}"


def _caption(cell: DiagnosedAnswers) -> str:
    return f"{cell['task']} ({cell['readout']}), shares in %"
