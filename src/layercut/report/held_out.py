"""A chosen plan's scores on the items that it was chosen on, and on held-out ones, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from layercut.evidence.intervals import Estimate
from layercut.report.elements import Table
from layercut.report.render import terminal
from layercut.text.numbers import number, with_interval

WHERE = {"selected": "chosen on", "held_out": "held out"}


def held_out_table(scores: Mapping[str, Any]) -> RenderableType | None:
    """Per task, the scores on both kinds of items; None where a plan has none.

    Args:
        scores: of a plan.
    """
    found = scores.get("held_out")
    if not found:
        return None
    rows = [
        line
        for row in found["rows"]
        for line in (
            [f"{row['task']} ({row['readout']})", *_side("selected", row["selected"])],
            ["", *_side("held_out", row["held_out"])],
        )
    ]
    head = ["task", "items", "n", "chance", "uncut", "cut", "difference"]
    table = terminal(Table(name="held-out", caption="", head=head, rows=rows, numeric=frozenset({2, 3})))
    return Group(table, Text(objective_line(found["objective"])), Text(f"Intervals: 95 %, seed {found['seed']}."))


def objective_line(objective: Mapping[str, Any]) -> str:
    """The value that was maximised, on both kinds of items."""
    selected, held = objective["selected"], objective["held_out"]
    if selected is None:
        return f"no objective: {objective['refused']}"
    line = f"objective (uncut 1): {selected:.4f} on the items that it was chosen on, too good by construction; "
    if held is None:
        return f"{line}no value on held-out items: {objective['refused']}."
    value = f"{held['value']:.4f}" + ("" if held["low"] is None else f" [{held['low']:.4f}, {held['high']:.4f}]")
    return f"{line}{value} on {held['n']} held-out ones."


def _side(kind: str, side: Mapping[str, Any] | None) -> list[str]:
    if side is None:
        return [WHERE[kind], "0", "", "no items are left: lower --limit", "", ""]
    estimates = {name: Estimate(**side[name]) for name in ("uncut", "cut", "difference")}
    share = all(0 <= estimates[name].value <= 1 for name in ("uncut", "cut"))
    shown = [with_interval(one, share=share, sign=name == "difference") for name, one in estimates.items()]
    return [WHERE[kind], str(side["n"]), "-" if side["chance"] is None else number(side["chance"], share=share), *shown]
