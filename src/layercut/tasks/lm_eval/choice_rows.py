"""Local rows of multiple-choice benchmarks in the form that lm-eval's task files expect."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from layercut.errors import InputError
from layercut.tasks.data_files import DataRow, DataSet

SUBJECT = "subject"
"""The field that says which part of a data set a row belongs to, as in MMLU; the hub has a configuration for each."""

_LAST_SENTENCE = re.compile(r"(?:.*[.!?]\s)?(?P<last>[^.!?]*)", re.DOTALL)


def of_subject(local: DataSet, subject: str | None, task: str, *, in_group: bool) -> dict[str, list[DataRow]]:
    """The rows of a local data set that belong to one task, by split.

    A file that holds several subjects is divided by its field ``subject``; one without that field belongs to the task
    as a whole, and so does one whose subjects are no configurations of the data set on the hub.

    Raises:
        InputError: a task of a group, and no row of its subject, though the rows have subjects.
    """
    rows = {split: list(of_split) for split, of_split in local.splits.items()}
    if subject is None or not all(SUBJECT in row.fields for of_split in rows.values() for row in of_split):
        return rows
    known = {str(row.fields[SUBJECT]) for of_split in rows.values() for row in of_split}
    if subject not in known and not in_group:
        return rows
    if subject not in known:
        raise InputError(
            f"there are no rows of the {SUBJECT} {subject!r}, which {task} needs; the data holds {len(known)} subjects"
        )
    own = {split: [one for one in of_split if str(one.fields[SUBJECT]) == subject] for split, of_split in rows.items()}
    return {split: of_split for split, of_split in own.items() if of_split}


def is_prepared_hellaswag(rows: Sequence[DataRow]) -> bool:
    """True if these are rows of HellaSwag whose context was put together already (``ctx`` and no ``ctx_a``)."""
    first = rows[0].fields
    return "ctx" in first and "endings" in first and "ctx_a" not in first


def hellaswag(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as lm-eval's own preparation leaves them: ``query`` and ``choices``.

    lm-eval capitalises the part of the context that the ending goes on (``ctx_b``). Where the two parts have been
    joined, that is the beginning of a sentence at the end, in small letters and without a full stop. Marks in brackets
    are gone from such files, and the preparation must not run over them again: it would change their white space.

    >>> hellaswag([{"activity_label": "Roofing", "ctx": "A man sits. he", "endings": ["slips."], "label": 0}])
    [{'query': 'Roofing: A man sits. He', 'choices': ['slips.'], 'label': 0}]
    """
    return [
        {
            "query": f"{row['activity_label']}: {_capitalised(str(row['ctx']))}".strip(),
            "choices": list(row["endings"]),
            # None where a hidden test label stands, so that the row is refused by name.
            "label": int(str(label)) if str(label := row.get("label")).isdigit() else None,
        }
        for row in rows
    ]


def _capitalised(context: str) -> str:
    match = _LAST_SENTENCE.fullmatch(context)
    last = match["last"] if match else ""
    return context[: len(context) - len(last)] + last.capitalize() if last[:1].islower() else context
