"""Rows and examples of a diagnostic session: the measures of its models, and the items that a pruned model lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from layercut.diagnostics.session import Answers, DiagnosticSession
from layercut.evidence.diagnosis import DiagnosisExample, MeasureRow, Values, measure_rows, without_kept


def rows_of(session: DiagnosticSession, diagnostic: str, measure: str, values: Values, **how: Any) -> list[MeasureRow]:
    """Give a row for every pruned model that has values; ``how`` as ``measure_rows`` takes it."""
    own = {arm.name: values[arm.name] for arm in session.arms if arm.name in values}
    return measure_rows(diagnostic, measure, own, seed=session.seed, **how) if len(own) > 1 else []


def by_group(
    session: DiagnosticSession, diagnostic: str, measure: str, values: Values, groups: Sequence[str]
) -> list[MeasureRow]:
    """Rows for the items of each group, by name, without the retention: ratios over a few items vary too much."""
    rows: list[MeasureRow] = []
    for group in sorted(set(groups)):
        places = [place for place, name in enumerate(groups) if name == group]
        part = {name: [found[place] for place in places] for name, found in values.items()}
        rows += rows_of(session, diagnostic, measure, part, group=group)
    return [replace(row, values=without_kept(row.values)) for row in rows]


def examples_of(
    session: DiagnosticSession,
    diagnostic: str,
    items: Iterable[tuple[str, str, str]],
    answers: Answers,
    is_lost: Callable[[str, int], bool],
) -> list[DiagnosisExample]:
    """The items that a pruned model lost, with both models' answers.

    Args:
        items: id, question and right answer of each.
        answers: records with ``text``.
        is_lost: whether a pruned model, by its name, lost the item at a place.
    """
    items = list(items)
    return [
        {
            "diagnostic": diagnostic,
            "arm": arm.name,
            "id": id,
            "question": question,
            "gold": gold,
            "uncut": answers[session.uncut.name][id]["text"],
            "cut": answers[arm.name][id]["text"],
            "tokens": [],
        }
        for arm in session.cuts
        for place, (id, question, gold) in enumerate(items)
        if is_lost(arm.name, place)
    ]
