"""Turn one value per item and model into rows: each measure paired with the original model, and examples of losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from layercut.diagnostics.session import Answers, DiagnosticSession
from layercut.evidence.diagnosis import DiagnosisExample, MeasureRow
from layercut.evidence.intervals import Estimate
from layercut.evidence.paired import Comparison, compare_paired

Values = Mapping[str, Sequence[float]]
"""By name of the arm, one value per item, all in the same order."""


def rows_of(
    session: DiagnosticSession,
    diagnostic: str,
    measure: str,
    values: Values,
    *,
    group: str = "",
    better: Literal["higher", "lower"] = "higher",
    unit: Literal["share", "nats", "score", "words", "ratio"] = "share",
    chance: float | None = None,
    clusters: Sequence[str] | None = None,
    headline: bool = False,
) -> list[MeasureRow]:
    """A row for every pruned model that has values; none where there are no items.

    Statistics are those of ``compare_paired``: McNemar's exact test for 0/1 values, else sign flips.
    """
    before = values[session.uncut.name]
    if not before:
        return []
    rows: list[MeasureRow] = []
    for arm in session.cuts:
        if arm.name not in values:
            continue
        found = compare_paired(before, values[arm.name], chance=chance, seed=session.seed, clusters=clusters)
        if better == "lower" or unit != "share":
            found = without_kept(found)
        uncut, cut = _level(found.uncut, before, unit), _level(found.cut, values[arm.name], unit)
        rows.append(
            MeasureRow(
                diagnostic=diagnostic,
                metric=measure,
                group=group,
                arm=arm.name,
                better=better,
                unit=unit,
                chance=chance,
                seed=session.seed,
                headline=headline,
                values=found._replace(uncut=uncut, cut=cut),
            )
        )
    return rows


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


def without_kept(values: Comparison) -> Comparison:
    """Without retentions, where they have no meaning."""
    return values._replace(retention=None, retention_above_chance=None)


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


def _level(estimate: Estimate, values: Sequence[float], unit: str) -> Estimate:
    """A value with its interval; without one for a constant that is no share, because it is so by construction."""
    return estimate._replace(low=None, high=None) if unit != "share" and len(set(values)) == 1 else estimate
