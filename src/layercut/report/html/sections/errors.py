"""Errors: items that a pruned model lost, beside the original model's answers, with the first difference marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from layercut.evidence.completions import first_difference
from layercut.evidence.diagnosis import DiagnosisExample
from layercut.report.diagnosis.page import picked
from layercut.report.elements import Block, Details, Prose, Section, visible
from layercut.report.examples import OUTCOMES, LostItem, lost_items
from layercut.report.html.source import Source
from layercut.report.html.templates import templates
from layercut.report.words import readout_words
from layercut.text.counting import counted
from layercut.text.markup import MOST_CHARACTERS

MOST_MODELS = 4
"""Pruned models whose answer to an item is shown in full."""
_LEAD = 60
"""Characters that are shown before the place where two long answers part."""


def errors(source: Source) -> Section | None:
    """None where nothing was lost, or texts are left out."""
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
        if "completion" not in uncut or item.outcome(first, readout) != "right":
            continue
        failing = [name for name in item.names[1:] if item.outcome(name, readout) not in ("right", None)]
        sides = [_side(first, uncut["completion"], "right")]
        for name in failing[:MOST_MODELS]:
            record = item.answers[name, readout]
            ended = OUTCOMES.get(record["outcome"], record["outcome"])
            sides.append(_side(name, record["completion"], ended, uncut["completion"]))
        if failing:
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
    template = templates().get_template("example.html")
    html = template.render(
        name=visible(name), question=_short(question), gold=visible(gold), head=head, table=table, texts=texts
    )
    return Prose(html=Markup(html))


def _brief(record: Any) -> tuple[str, str]:
    """An answer and how it ended."""
    if record is None:
        return "", "not asked"
    text = " ".join(visible(record["answer"]).split())
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
        "before": ("[...] " if first else "") + visible(text[first:start]),
        "mark": visible(wrong) or ("(ends here)" if missing else ""),
        "after": visible(text[end:last]) + (" [...]" if last < len(text) else ""),
    }


def _short(text: str) -> str:
    return visible(text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS].rstrip() + " [...]")
