"""Items that the original model gets right and a pruned model does not, for people to read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.report.words import readout_words
from layercut.text.markup import code, escape, fenced, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layercut.runs.directory import RunFolder

NUM_EXAMPLES = 4
"""Per task."""
OUTCOMES = {"right": "right", "wrong": "wrong", "no_answer": "no answer found", "cut": "cut by the length limit"}
_Records = dict[str, dict[str, Any]]


class LostItem(NamedTuple):
    """An item that the original model gets right, and that a pruned model loses under at least one readout."""

    id: str
    names: list[str]
    """Of the runs, the original one first."""
    readouts: list[str]
    """Under which the original model was asked this item."""
    answers: Mapping[tuple[str, str], Mapping[str, Any]]
    """The record of each run and readout that has the item."""

    def outcome(self, name: str, readout: str) -> str | None:
        """How an answer ended; None where the item was not asked."""
        record = self.answers.get((name, readout))
        return None if record is None else str(record["outcome"])


def lost_items(runs: Sequence[RunFolder], task: str, readouts: Sequence[str]) -> list[LostItem]:
    """Up to four items of a task that the first run gets right and another one loses.

    The same item is shown under every readout: a model may still rank the right answer first and no longer write it.
    Items are picked by the hash of their id, so that the choice is neither the first items of the task nor ours.

    Args:
        runs: the uncut run, then the cut ones.
        task: name of the task.
        readouts: those to show, all of them in the uncut run.
    """
    records: dict[tuple[str, str], _Records] = {
        (run.name, readout): {record["id"]: record for record in run.records(task, readout)}
        for run in runs
        for readout in readouts
        if any((row["task"], row["readout"]) == (task, readout) for row in run.metrics()["rows"])
    }
    uncut, cuts = runs[0].name, [run.name for run in runs[1:]]

    def is_lost(item: str) -> bool:
        return any(
            _outcome(records, uncut, readout, item) == "right"
            and _outcome(records, name, readout, item) not in ("right", None)
            for readout in readouts
            for name in cuts
        )

    known = dict.fromkeys(item for readout in readouts for item in records[uncut, readout])
    lost = [item for item in known if is_lost(item)]
    lost.sort(key=lambda item: hashlib.sha256(item.encode()).digest())
    return [
        LostItem(
            id=item,
            names=[uncut, *cuts],
            readouts=[readout for readout in readouts if item in records.get((uncut, readout), {})],
            answers={key: known[item] for key, known in records.items() if item in known},
        )
        for item in lost[:NUM_EXAMPLES]
    ]


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
    """What the uncut and the first failing pruned model wrote, where that is more than the answer in the table."""
    first = item.names[0]
    if "completion" not in item.answers[first, readout] or item.outcome(first, readout) != "right":
        return []
    failing = (name for name in item.names[1:] if item.outcome(name, readout) not in ("right", None))
    lines: list[str] = []
    for name in (first, *list(failing)[:1]):
        record = item.answers[name, readout]
        if record["completion"].strip() != record["answer"].strip():
            lines += [f"{escape(name)}, {readout_words(readout)}:", "", *fenced(record["completion"]), ""]
    return lines


def _outcome(records: Mapping[tuple[str, str], _Records], name: str, readout: str, item: str) -> str | None:
    record = records.get((name, readout), {}).get(item)
    return None if record is None else str(record["outcome"])
