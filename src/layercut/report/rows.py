"""Rows of compare_runs for the page: tooltips, and unrounded numbers for CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.intervals import Estimate
from layercut.report import words
from layercut.surgery.plan import format_layers
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value, with_interval

_ESTIMATES = ("uncut", "cut", "difference", "retention", "retention_above_chance")


def kept(estimate: Estimate | None) -> str:
    """A retention with its interval in percent, as in report.md."""
    return "n/a" if estimate is None else f"{with_interval(estimate)} %"


def kept_of(row: ComparisonRow) -> str:
    """What it is a share of, in words."""
    return "kept of the score" if row.chance is None else "kept above chance"


def about(row: ComparisonRow) -> dict[str, str]:
    """What hovering over a point of a pruned model shows."""
    share = row.is_share
    unit = " %" if share else ""
    before, after = (number(one.value, share=share, digits=1) for one in (row.values.uncut, row.values.cut))
    chance = "none" if row.chance is None else f"{number(row.chance, share=share, digits=1)}{unit}"
    tooltip = {
        "plan": row.cut.name,
        "layers removed": f"{len(row.cut.removed)}: {format_layers(row.cut.removed)}",
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        kept_of(row): kept(row.kept_share),
        "score": f"{before}{unit} uncut, {after}{unit} cut, guessing {chance}",
        "items": f"n {row.n:,}; lost/gained {words.swapped(row)}",
        "p (Holm)": p_value(row.p_value),
        "finding": row.finding,
    }
    if row.values.num_clusters is not None:
        tooltip["items"] += f"; {counted(row.values.num_clusters, 'context')}"
    return tooltip


def about_uncut(row: ComparisonRow) -> dict[str, str]:
    """What hovering over the original model shows."""
    unit = " %" if row.is_share else ""
    return {
        "plan": "uncut",
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        "score": f"{with_interval(row.values.uncut, share=row.is_share, digits=1)}{unit}",
        "items": f"n {row.n:,}",
    }


def raw(rows: Sequence[ComparisonRow]) -> list[list[Any]]:
    """All numbers of the rows for CSV, unrounded, the head first; what is not known is empty."""
    ends = [f"{name}{end}" for name in _ESTIMATES for end in ("", "_low", "_high")]
    scope = ["run", "removed", "num_layers", "task", "version", "readout", "metric", "n", "items", "limit", "chance"]
    tests = ["lost", "gained", "p_value", "p_holm", "test", "contexts", "finding", "seed", "note"]
    lines: list[list[Any]] = [[*scope, *ends, *tests]]
    for row in rows:
        data = row.to_dict() | {"p_holm": row.p_value, "contexts": row.values.num_clusters}
        data["removed"] = " ".join(map(str, row.cut.removed))
        values: list[Any] = []
        for name in _ESTIMATES:
            one: Estimate | None = getattr(row.values, name)
            values += ["", "", ""] if one is None else [one.value, one.low, one.high]
        cells = [*(data[name] for name in scope), *values, *(data[name] for name in tests)]
        lines.append(["" if cell is None else cell for cell in cells])
    return lines
