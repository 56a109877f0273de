"""Answers: all of them before and after, those that a pruned model lost, and how they ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from layercut.evidence.completions import DiagnosedAnswers, first_difference
from layercut.evidence.diagnosis import DiagnosisExample
from layercut.report.answers import (
    OUTCOMES,
    TITLES,
    LostItem,
    answer_parts,
    full_tables,
    lost_items,
    study_answers,
)
from layercut.report.diagnosis.page import picked
from layercut.report.elements import Block, Details, Prose, Section
from layercut.report.html.layout import blocks, filled
from layercut.report.markdown import outcome_table
from layercut.report.source import Source
from layercut.report.words import readout_words
from layercut.text.counting import counted
from layercut.text.markup import MOST_CHARACTERS, printable

ITEMS_PAGE = "report-items.html"
MOST_BYTES = 3_000_000
"""Size of packed answers inside the page; more of them get a page of their own."""


MOST_MODELS = 4
"""Pruned models whose answer to an item is shown in full."""
_LEAD = 60
"""Characters that are shown before the first difference of two long answers."""


def items(source: Source) -> Section | None:
    """Make the section of all answers; None without a study, or without texts."""
    if source.browser is None:
        return None
    elsewhere = Markup(
        '<p>All answers are in <a href="{}">{}</a> ({:.1f} MB), a file in the same folder as this page. Send it along '
        "when you send the page.</p>"
    ).format(ITEMS_PAGE, ITEMS_PAGE, len(source.browser) / 1e6)
    return items_section(source.browser if len(source.browser) <= MOST_BYTES else elsewhere)


def items_section(html: Markup, first: str = "the original model") -> Section:
    """The section with this content, and the name of the model whose answers come first."""
    return Section(
        name="items",
        title="Every answer, before and after",
        short="Answers",
        lead=f"Marked: the first word or sign that differs from {first}'s answer.",
        blocks=(Prose(html=html),),
    )


def errors(source: Source) -> Section | None:
    """Make the section of lost items; None where nothing was lost, or texts are left out."""
    if not source.texts:
        return None
    found: list[Block] = []
    if source.study is not None:
        runs = [source.study.uncut, *source.study.cuts]
        for task in dict.fromkeys(row.task for row in source.study.rows):
            readouts = list(dict.fromkeys(row.readout for row in source.study.rows if row.task == task))
            cards = [_lost(item) for item in lost_items(runs, task, readouts)]
            if cards:
                title = f"{task}: {counted(len(cards), 'item')} that were right before"
                found.append(Details(summary=title, blocks=tuple(cards)))
    if source.diagnosis is not None:
        for name, one in source.diagnosis["diagnostics"].items():
            arms = dict.fromkeys(example["arm"] for example in one["examples"])
            cards = [_diagnosed(example) for arm in arms for example in picked(one["examples"], arm)]
            if cards:
                title = f"Diagnostic {name}: {counted(len(cards), 'item')} that were right before"
                found.append(Details(summary=title, blocks=tuple(cards)))
    if not found:
        return None
    return Section(
        name="errors",
        title="Errors to read",
        short="Errors",
        lead=(
            "All models side by side on a few items, picked by the hash of their id among those that the original "
            "model gets right and a pruned one does not. Marked: the first word or sign that differs."
        ),
        blocks=tuple(found),
    )


def _lost(item: LostItem) -> Prose:
    first = item.names[0]
    table = [(name, [_brief(item.answers.get((name, readout))) for readout in item.readouts]) for name in item.names]
    texts = []
    for readout in item.readouts:
        uncut = item.answers[first, readout]
        failing = item.failing(readout)
        if "completion" not in uncut or not failing:
            continue
        sides = [_side(first, uncut["completion"], "right")]
        for name in failing[:MOST_MODELS]:
            record = item.answers[name, readout]
            ended = OUTCOMES.get(record["outcome"], record["outcome"])
            sides.append(_side(name, record["completion"], ended, uncut["completion"]))
        texts.append((readout_words(readout), sides))
    record = item.answers[first, item.readouts[0]]
    return _card(
        item.id, record["question"], record["gold"], [readout_words(name) for name in item.readouts], table, texts
    )


def _diagnosed(one: DiagnosisExample) -> Prose:
    sides = [_side("uncut", one["uncut"], "right"), _side(one["arm"], one["cut"], "", one["uncut"], one["tokens"])]
    return _card(one["id"], one["question"], one["gold"], [], [], [("", sides)])


def _card(
    name: str,
    question: str,
    gold: str,
    head: Sequence[str],
    table: Sequence[tuple[str, Sequence[tuple[str, str]]]],
    texts: Sequence[tuple[str, Sequence[dict[str, str]]]],
) -> Prose:
    shown = {"name": printable(name), "question": _short(question), "gold": printable(gold)}
    return Prose(html=filled("example.html", **shown, head=head, table=table, texts=texts))


def _brief(record: Any) -> tuple[str, str]:
    """An answer and how it ended."""
    if record is None:
        return "", "not asked"
    text = " ".join(printable(record["answer"]).split())
    return text if len(text) <= 80 else text[:77] + "...", OUTCOMES.get(record["outcome"], record["outcome"])


def _side(name: str, text: str, ended: str, uncut: str | None = None, tokens: Sequence[str] = ()) -> dict[str, str]:
    """One answer in three pieces, the middle one to be marked; long ones around the place where they part."""
    start, end = (0, 0) if uncut is None else first_difference(uncut, text, tokens)
    first = max(0, start - _LEAD) if len(text) > MOST_CHARACTERS else 0
    last = first + MOST_CHARACTERS
    wrong = text[start:end].replace("\n", "↵\n")
    if word := text[start:end].strip():
        start, wrong = text.index(word, start), word  # the mark begins at the word, not at the space before it
    missing = uncut is not None and start == end and text != uncut
    return {
        "name": name,
        "ended": ended,
        "before": ("[...] " if first else "") + printable(text[first:start]),
        "mark": printable(wrong) or ("(ends here)" if missing else ""),
        "after": printable(text[end:last]) + (" [...]" if last < len(text) else ""),
    }


def _short(text: str) -> str:
    return printable(text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rstrip() + " [...]")


def endings(source: Source) -> Section | None:
    """Make the section of endings; None without a study."""
    if source.study is None:
        return None
    counts = Details(summary="Number of answers by how they ended", blocks=(outcome_table(source.study.rows),))
    return Section(
        name="endings",
        title="How the answers ended",
        short="Endings",
        lead="Wrong, missing, or cut short by the length limit; whether texts repeat themselves; how programs fail.",
        blocks=(counts, *answer_details(study_answers(source.study))),
    )


def answer_details(cells: Sequence[DiagnosedAnswers], *, model: str = "model") -> list[Details]:
    """Repetition of answers and failures of programs, folded; see ``layercut.report.answers``."""
    found = []
    for diagnostic, title in TITLES.items():
        if parts := blocks(answer_parts(cells, diagnostic, model=model)):
            more = Details(summary="All measures", blocks=tuple(full_tables(cells, diagnostic)))
            found.append(Details(summary=title, blocks=(*parts, more)))
    return found
