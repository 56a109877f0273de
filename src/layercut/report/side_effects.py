"""Side effects of a cut outside its goal: the table."""

from __future__ import annotations

from layercut.report.table import Column, Table
from layercut.runs.prune import PruneResult
from layercut.text.numbers import number, p_value, with_interval


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
