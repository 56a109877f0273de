"""Blocks of a report: sections with prose, tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from layercut.report import words
from layercut.report.table import Column, Styled, Table
from layercut.runs.prune import PruneResult
from layercut.text.numbers import HasInterval, number, p_value, with_interval

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


@dataclass(frozen=True, kw_only=True)
class Prose:
    """Text that is HTML already; see layercut.report.html.layout."""

    html: Markup
    kind: str = "prose"


@dataclass(frozen=True, kw_only=True)
class Key:
    """A line of a figure's legend."""

    label: str
    colour: str
    """A CSS colour, such as ``var(--ranked)``."""
    dash: str = ""
    """SVG dash array."""
    hollow: bool = False
    """A point that is not filled."""
    line: bool = True


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One plot of a figure."""

    spec: dict[str, Any]
    """Vega-Lite."""
    label: str
    """Description for readers who do not see the plot."""
    title: str = ""
    column: int = 0
    """Number of its column where panels are side by side; 0 for the next free one."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Plots that share a legend and a caption, with the table of all their numbers."""

    name: str
    title: str
    panels: Sequence[Panel]
    caption: str
    table: Table | None = None
    """The page shows it folded below the plots; Markdown has tables of its own."""
    legend: Sequence[Key] = ()
    columns: int = 2
    """Number of panels side by side where the width allows."""
    kind: str = "figure"


@dataclass(frozen=True, kw_only=True)
class Details:
    """Blocks that are folded away until they are asked for."""

    summary: str
    blocks: Sequence[Block]
    kind: str = "details"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Blocks that are side by side where the width allows; on a phone the last one comes first."""

    blocks: Sequence[Block]
    kind: str = "beside"


Block = Prose | Table | Figure | Details | Beside


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page with a heading."""

    name: str
    """Its anchor."""
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    lead: str = ""
    """The question that the section answers, in a sentence."""
    short: str = ""
    """Its title in the contents, in one or two words."""


def side_effect_table(result: PruneResult) -> Table:
    """Every check of both models."""
    return Table(
        name="side_effects",
        caption="What else changed: share of the answers that pass each check, in %, with 95 % intervals; "
        "p adjusted (Holm)",
        columns=[
            Column("check", lambda one: one.what),
            Column("original", lambda one: f"{number(one.uncut.value)} %", numeric=True),
            Column("pruned", lambda one: f"{number(one.cut.value)} %", numeric=True),
            Column("difference, points", lambda one: with_interval(one.difference, sign=True)),
            Column("p", lambda one: p_value(one.p), numeric=True),
            Column("n", lambda one: f"{one.cut.n:,}", numeric=True),
        ],
        rows=result.side_effects,
    )
