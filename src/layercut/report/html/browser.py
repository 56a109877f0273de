"""Every answer of a study, to be browsed and filtered: packed into the page, and unpacked by its script.

A block is the base64 of deflated JSON. There is one for each task and readout, with the questions and the original
model's answers, and one for each pruned model, in the same order of items; a browser unpacks those that are looked at.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from layercut.evidence.completions import first_difference
from layercut.evidence.study import StudyResults
from layercut.report.answers import OUTCOMES
from layercut.report.html.layout import filled
from layercut.report.words import readout_words
from layercut.runs.directory import RunFolder
from layercut.text.markup import printable


def browser(study: StudyResults, original: str = "uncut", others: str = "Plan") -> Markup:
    """Controls and packed answers; a line in place of them where scripts do not run.

    Args:
        original: name of the model that the others are compared with.
        others: heading of their list.
    """
    blocks: list[str] = []
    index = []
    for task, readout in dict.fromkeys((row.task, row.readout) for row in study.rows):
        before = {record["id"]: record for record in study.uncut.records(task, readout)}
        asked = [row.cut.name for row in study.rows if (row.task, row.readout) == (task, readout)]
        runs = [run for run in study.cuts if run.name in asked]
        items = [[printable(one["id"]), printable(one["question"]), printable(one["gold"])] for one in before.values()]
        blocks.append(_packed([items, [_answer(one) for one in before.values()]]))
        first = len(blocks)
        blocks += [_packed(_beside(before, run, task, readout)) for run in runs]
        plans = [{"name": printable(run.name), "block": first + place} for place, run in enumerate(runs)]
        named = {"task": printable(task), "readout": printable(readout), "words": readout_words(readout)}
        index.append({**named, "block": first - 1, "plans": plans})
    about = json.dumps(
        {"tasks": index, "outcomes": OUTCOMES, "original": printable(original)}, ensure_ascii=True
    ).replace("<", "\\u003c")
    return filled("browser.html", blocks=blocks, index=Markup(about), others=others)


def _beside(before: Mapping[str, Any], run: RunFolder, task: str, readout: str) -> list[Any]:
    """The pruned model's answer to each item, with the ends of the first difference; None for what it was not asked."""
    after = {record["id"]: record for record in run.records(task, readout)}
    found: list[Any] = []
    for item, old in before.items():
        new = after.get(item)
        if new is None:
            found.append(None)
            continue
        uncut, cut = _text(old), _text(new)
        start, end = first_difference(uncut, cut)
        ends = [len(printable(cut[:place]).encode("utf-16-le")) // 2 for place in (start, end)]
        found.append([*_answer(new), *(ends if uncut != cut else ())])
    return found


def _answer(record: Mapping[str, Any]) -> list[str]:
    """Outcome, graded answer and whole text."""
    return [record["outcome"], printable(record["answer"]), printable(_text(record))]


def _text(record: Mapping[str, Any]) -> str:
    return str(record.get("completion", record["answer"]))


def _packed(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")
