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

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.completions import PROGRAMS, DiagnosedAnswers, diagnose_runs, first_difference
from layercut.evidence.degeneration import NAME
from layercut.evidence.study import StudyResults
from layercut.report.diagnosis import STARS, diagnosis_examples, different_side, measure_columns, measure_table
from layercut.report.diagnostics import PROGRAM_SHARES, counts_table, model_column, program_cells
from layercut.report.elements import Block, Details, Example, Html, Section, Side, bullet_list
from layercut.report.source import Source
from layercut.report.table import Column, Surface, Table, terminal_table, text_columns
from layercut.report.words import readout_words
from layercut.report.writers import fill_template
from layercut.runs.directory import RunFolder
from layercut.text import count_of, escape_inline, on_one_line, printable_text

if TYPE_CHECKING:
    from rich.console import RenderableType


TITLES = {NAME: "Do written answers repeat themselves?", PROGRAMS: "How do programs fail?"}
"""Diagnostics of stored answers, and what they are called in a report."""
_COLUMNS: Mapping[str, Mapping[str, str]] = {
    NAME: {
        "loops": "loops", "empty": "empty", "no end within the limit": "no end", "Rep-4": "Rep-4",
        "Self-BLEU-4": "Self-BLEU-4", "distinct-2": "distinct-2", "length": "words",
    },
    PROGRAMS: {
        "programs that pass": "pass", "programs that parse": "parse", "programs with a bracket error": "bracket error",
        "programs with any syntax error": "any syntax error", "programs with a wrong result": "wrong result",
        "programs that raise an exception": "exception", "programs that run out of time": "time out",
        "programs without code": "no code",
    },
}  # fmt: skip
"""Measures with a column, and their names there."""
_LEGENDS = {
    NAME: "loops: a unit repeated three times or more is a quarter of the answer. no end: the length limit ended "
    "it. Rep-4, Self-BLEU-4: higher is more repetition. distinct-2: lower is more repetition.",
    PROGRAMS: "exception: the program parses and raises one, or exits early. Answers that the length limit ended "
    "while more text could make them right neither parse nor fail.",
}
OUTCOMES = {"right": "right", "wrong": "wrong", "no_answer": "no answer found", "cut": "cut by the length limit"}
NUM_EXAMPLES = 4  # of a task
MOST_MODELS = 4  # pruned models whose answer to an item is shown in full


def items(source: Source) -> Section | None:
    """Make the section of all answers; None where texts are left out."""
    return items_section(source.value) if source.texts else None


def items_section(study: StudyResults, original: str = "", others: str = "Plan") -> Section:
    """Controls and all answers, packed; a line in place of them where scripts do not run.

    Args:
        original: name of the model that the others are compared with; empty for the original model.
        others: heading of their list.
    """
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
        on=Surface.PAGE,
    )


def _answer(record: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> list[Any]:
    """Outcome, graded answer and whole text, and the ends of the first difference from the answer before, if any."""
    text, old = (str(each.get("completion", each["answer"])) for each in (record, before or record))
    # JavaScript counts UTF-16 code units, of the text as it is shown.
    places = first_difference(old, text) if text != old else ()
    ends = [len(printable_text(text[:place]).encode("utf-16-le")) // 2 for place in places]
    return [record["outcome"], printable_text(record["answer"]), printable_text(text), *ends]


def _packed(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")


def errors_section(source: Source) -> Section | None:
    """Make the section of lost items; None where nothing was lost, or texts are left out."""
    if not source.texts:
        return None
    blocks: list[Block] = []
    if source.kind == "diagnosis":
        shown = {f"Diagnostic {name}": examples for name, examples in diagnosis_examples(source.value).items()}
    else:
        readouts: dict[str, dict[str, None]] = {}
        for row in source.value.rows:
            readouts.setdefault(row.task, {})[row.readout] = None
        shown = {task: lost_item_examples(source.runs, task, list(own)) for task, own in readouts.items()}
    for name, examples in shown.items():
        if examples:
            title = f"{name}: {count_of(len(examples), 'item')} that were right before"
            blocks.append(Details(summary=title, blocks=examples))
    section = Section(
        name="errors",
        title="Errors to read",
        short="Errors",
        lead="All models side by side on a few items, picked by the hash of their id among those that the original "
        "model gets right and a pruned one does not. Marked: the first word or sign that differs.",
        blocks=blocks,
    )
    return section if blocks else None


def lost_item_examples(runs: Sequence[RunFolder], task: str, readouts: Sequence[str]) -> list[Example]:
    """Up to four items of a task that the first run gets right and another one loses under at least one readout.

    The same item is shown under every readout: a model may still rank the right answer first and no longer write it.
    Items are picked by the hash of their id, so that the choice is neither the first items of the task nor ours.

    Args:
        runs: the uncut run, then the cut ones.
        task: name of the task.
        readouts: those to show, all of them in the uncut run.
    """
    measured = {run.name: {row["readout"] for row in run.metrics()["rows"] if row["task"] == task} for run in runs}
    records: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {
        (run.name, readout): {record["id"]: record for record in run.records(task, readout)}
        if readout in measured[run.name]
        else {}
        for run in runs
        for readout in readouts
    }
    names = [run.name for run in runs]
    losers = {
        (item, readout): [
            name
            for name in names[1:]
            if item in records[name, readout] and records[name, readout][item]["outcome"] != "right"
        ]
        for readout in readouts
        for item, record in records[names[0], readout].items()
        if record["outcome"] == "right"
    }
    lost = dict.fromkeys(item for (item, _), worse in losers.items() if worse)
    picked = sorted(lost, key=lambda item: hashlib.sha256(item.encode()).digest())[:NUM_EXAMPLES]
    return [_example(item, names, readouts, records, losers) for item in picked]


def _example(
    item: str,
    names: Sequence[str],
    readouts: Sequence[str],
    records: Mapping[tuple[str, str], Mapping[str, Mapping[str, Any]]],
    losers: Mapping[tuple[str, str], Sequence[str]],
) -> Example:
    """One lost item: every model's answer, and the written ones in full."""
    first = names[0]
    shown = [readout for readout in readouts if item in records[first, readout]]
    in_full = []
    for readout in shown:
        uncut, worse = records[first, readout][item], losers.get((item, readout), [])
        if "completion" in uncut and worse:
            sides = [Side(name=first, text=uncut["completion"], ended="right")]
            for name in worse[:MOST_MODELS]:
                cut = records[name, readout][item]
                ended = OUTCOMES.get(cut["outcome"], cut["outcome"])
                sides.append(different_side(name, cut["completion"], uncut["completion"], ended=ended))
            in_full.append((readout_words(readout), sides))

    def brief(name: str, readout: str) -> tuple[str, str]:
        answer = records[name, readout].get(item)
        if answer is None:
            return "", "not asked"
        return on_one_line(answer["answer"]), OUTCOMES.get(answer["outcome"], answer["outcome"])

    record = records[first, shown[0]][item]
    return Example(
        item=item,
        question=record["question"],
        gold=record["gold"],
        head=[readout_words(readout) for readout in shown],
        rows=[(name, [brief(name, readout) for readout in shown]) for name in names],
        texts=in_full,
    )


def endings_section(source: Source) -> Section | None:
    """Make the section of endings; None without written answers or a study."""
    blocks: list[Block] = []
    place, seed = source.folder, source.runs[0].settings.get("seed")
    if source.kind == "study":
        place, seed = source.runs[0].path.parent, source.value.seed
        blocks.append(Details(summary="Right, wrong, missing and cut short", blocks=[outcome_table(source.value.rows)]))
    # What was measured is kept in the folder, so that it is made once.
    blocks += answer_details(diagnose_runs(source.runs, seed=seed if isinstance(seed, int) else 0, cache=place))
    section = Section(
        name="endings",
        title="How the answers ended",
        short="Endings",
        lead="Wrong, missing, or cut short by the length limit; whether texts repeat themselves; how programs fail.",
        blocks=blocks,
    )
    return section if blocks else None


def outcome_table(rows: Sequence[ComparisonRow]) -> Table:
    """Number of answers that were right, wrong, missing and cut short."""
    names = dict.fromkeys(name for row in rows for name in [*row.uncut_outcomes, *row.cut_outcomes])
    names_shown = [name for name in names if name in OUTCOMES or any(row.cut_outcomes.get(name) for row in rows)]
    by_task: dict[tuple[str, str], dict[str, Mapping[str, int]]] = {}
    for row in (row for row in rows if row.is_headline):
        outcomes = by_task.setdefault((row.task, row.readout), {row.uncut.name: row.uncut_outcomes})
        outcomes[row.cut.name] = row.cut_outcomes
    lines = [
        [*key, run, *(str(outcomes.get(name, 0)) for name in names_shown)]
        for key, of_runs in by_task.items()
        for run, outcomes in of_runs.items()
    ]
    shown = [OUTCOMES.get(name, name) for name in names_shown]
    columns = text_columns("task", "readout", "run", *shown, numeric=shown)
    return Table(name="outcomes", caption="Number of answers by how they ended", columns=columns, rows=lines)


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
                printed += [Text(block.caption), terminal_table(block)]
            else:
                printed.append(Text(re.sub(r"\\", "", str(block))))
    return printed


def _of_diagnostic(cells: Sequence[DiagnosedAnswers], diagnostic: str, model: str) -> list[Block]:
    """A line for each model, the original one first, for every task and readout that has this diagnostic."""
    blocks: list[Block] = []
    for cell in cells:
        if (diagnosis := cell["diagnostics"].get(diagnostic)) is None:
            continue
        classes = diagnosis["data"].get("classes") or {}
        if diagnostic == PROGRAMS:
            caption = f"{cell['task']} ({cell['readout']}). {PROGRAM_SHARES}"
            name, kinds = _table_name("classes-of", cell), program_cells(classes.values())
            blocks.append(counts_table(classes, kinds, name=name, caption=caption, model=model))
        models = list(classes or diagnosis["data"]["finish"])
        measures = {name: (measure, "") for measure, name in _COLUMNS[diagnostic].items()}
        num_items = dict.fromkeys(models, str(diagnosis["rows"][0].n))
        count = Column("n", num_items.__getitem__, numeric=True)
        columns = [model_column(model), count, *measure_columns(diagnosis, measures, models[0])]
        name = _table_name(f"{diagnostic}-of", cell)
        blocks.append(Table(name=name, caption=_caption(cell), columns=columns, rows=models))
        blocks.append(bullet_list(map(escape_inline, diagnosis["notes"])))
    legend = (
        _LEGENDS[diagnostic],
        f"Shares in % with 95 % intervals (Wilson, else BCa over answers). {STARS}",
    )
    return [*blocks, bullet_list(legend)] if blocks else []


def _table_name(kind: str, cell: DiagnosedAnswers) -> str:
    return f"{kind}-{cell['task']}-{cell['readout']}"


def _caption(cell: DiagnosedAnswers) -> str:
    return f"{cell['task']} ({cell['readout']}), shares in %"
