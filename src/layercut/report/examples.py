"""Items that the uncut model gets right and a cut model does not, for people to read."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from layercut.report.markup import code, escape, fenced
from layercut.report.words import READOUTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layercut.runs.directory import RunFolder

NUM_EXAMPLES = 4
"""Per task."""
_OUTCOMES = {"right": "right", "wrong": "wrong", "no_answer": "no answer found", "cut": "cut by the length limit"}
_Records = dict[str, dict[str, Any]]


def examples(runs: Sequence[RunFolder], task: str, readouts: Sequence[str]) -> list[str]:
    """Markdown lines with up to four items of a task that the first run gets right and another one loses.

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
        if _has(run, task, readout)
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
    lines: list[str] = []
    for item in lost[:NUM_EXAMPLES]:
        lines += _item(item, records, [uncut, *cuts], readouts)
    return lines


def _item(
    item: str, records: Mapping[tuple[str, str], _Records], names: Sequence[str], readouts: Sequence[str]
) -> list[str]:
    shown = [readout for readout in readouts if item in records.get((names[0], readout), {})]
    first = records[names[0], shown[0]][item]
    lines = [f"Item {code(item)}, right answer {code(first['gold'])}:", "", *fenced(first["question"]), ""]
    lines += ["| run | " + " | ".join(READOUTS.get(readout, readout) for readout in shown) + " |"]
    lines += ["|---|" + "---|" * len(shown)]
    for name in names:
        cells = []
        for readout in shown:
            record = records.get((name, readout), {}).get(item)
            cells.append("-" if record is None else _cell(record))
        lines.append(f"| {escape(name)} | " + " | ".join(cells) + " |")
    lines.append("")
    for readout in shown:
        lines += _in_full(item, records, names, readout)
    return lines


def _cell(record: Mapping[str, Any]) -> str:
    outcome = _OUTCOMES.get(record["outcome"], record["outcome"])
    return f"{code(record['answer'])} {outcome}" if record["answer"].strip() else outcome


def _in_full(item: str, records: Mapping[tuple[str, str], _Records], names: Sequence[str], readout: str) -> list[str]:
    """What the uncut and the first failing cut model wrote, where that is more than the answer in the table."""
    uncut = records[names[0], readout][item]
    if "completion" not in uncut or uncut["outcome"] != "right":
        return []
    failing = (name for name in names[1:] if _outcome(records, name, readout, item) not in ("right", None))
    lines: list[str] = []
    for name in (names[0], *list(failing)[:1]):
        record = records[name, readout][item]
        if record["completion"].strip() != record["answer"].strip():
            lines += [f"{escape(name)}, {READOUTS.get(readout, readout)}:", "", *fenced(record["completion"]), ""]
    return lines


def _outcome(records: Mapping[tuple[str, str], _Records], name: str, readout: str, item: str) -> str | None:
    record = records.get((name, readout), {}).get(item)
    return None if record is None else str(record["outcome"])


def _has(run: RunFolder, task: str, readout: str) -> bool:
    return any(row["task"] == task and row["readout"] == readout for row in run.metrics()["rows"])
