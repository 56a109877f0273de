"""The format of diagnose.json: a row per measure, original against pruned model."""

from __future__ import annotations

from typing import Any, Literal, TypedDict

Interval = list[float | None]
"""Value, lower and upper end of the 95 % interval; the ends are null where the items do not give one."""


class MeasureRow(TypedDict):
    """One measure of the original and of one pruned model on the same items."""

    diagnostic: str
    measure: str
    group: str
    """Which items or tokens, such as ``depth 3`` or ``digit``; empty for all of them."""
    arm: str
    better: Literal["higher", "lower"]
    unit: Literal["share", "nats", "score", "words", "ratio"]
    chance: float | None
    n: int
    uncut: Interval
    cut: Interval
    difference: Interval
    kept: Interval | None
    """(cut - chance) / (uncut - chance), for measures where higher is better; null where that has no meaning."""
    p_value: float
    test: str
    seed: int
    headline: bool
    """Whether a loss here counts as damage."""


class DiagnosisExample(TypedDict):
    """One item that the original model gets right and a pruned model does not."""

    diagnostic: str
    arm: str
    id: str
    question: str
    gold: str
    uncut: str
    cut: str
    tokens: list[str]
    """The original model's answer by tokens; empty where they are not known."""


class Diagnosis(TypedDict):
    """The results of one diagnostic."""

    rows: list[MeasureRow]
    data: dict[str, Any]
    """Other data for its section and figure."""
    examples: list[DiagnosisExample]
    notes: list[str]


def label(row: MeasureRow) -> str:
    """Measure and group in few words."""
    return f"{row['measure']}: {row['group']}" if row["group"] else row["measure"]
