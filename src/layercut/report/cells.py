"""Cells that tables of what models keep have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layercut.report import words
from layercut.report.table import Styled
from layercut.text.numbers import HasInterval, with_interval

if TYPE_CHECKING:
    from layercut.runs.prune import TaskKept


class Share(NamedTuple):
    """Retention of one task."""

    task: str
    readout: str
    kept: HasInterval | None
    bound: float | None
    """At least this, by a one-sided bound."""


def task_cell(task: str, readout: str) -> Styled:
    """A task, and below it how it is answered."""
    return Styled(task, "plain", below=(words.readout_words(readout),))


def share_cell(one: TaskKept | Share) -> str:
    """The share that is kept, with its interval."""
    return "n/a" if one.kept is None else f"{with_interval(one.kept)} %"


def verdict_cell(passed: bool, otherwise: str) -> Styled:
    """``passed``, or the verdict ``otherwise``."""
    return (
        Styled("passed", "right") if passed else Styled(otherwise, "wrong" if otherwise == "shown to fail" else "weak")
    )
