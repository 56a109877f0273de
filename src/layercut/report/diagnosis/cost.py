"""The picture of the cost diagnostic: speed as a ratio to the uncut model, by batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report.diagnosis.drawing import canvas, legend, look, tidy
from layercut.report.markup import escape
from layercut.report.numbers import parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from layercut.runs.diagnosis import Diagnosis

TITLE = "Cost"
QUESTION = "How much smaller and faster is it?"


def figure(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """A panel for each measure: the ratio cut / uncut over the batch size."""
    measures = list(dict.fromkeys(row["measure"] for row in found["rows"]))
    if not measures:
        return None
    height = 2.7
    picture = canvas(height)
    above = legend(picture, arms, uncut=False)
    for place, measure in enumerate(measures):
        left = 0.07 + place * 0.94 / len(measures)
        axes = picture.add_axes((left, 0.2, 0.9 / len(measures) - 0.05, (height - above - 0.85) / height))
        rows = [row for row in found["rows"] if row["measure"] == measure]
        groups = list(dict.fromkeys(row["group"] for row in rows))
        for index, arm in enumerate(arms):
            colour, marker = look(index)
            for row in rows:
                value, low, high = row["difference"]
                if row["arm"] == arm and value is not None:
                    x = groups.index(row["group"]) + (index - (len(arms) - 1) / 2) * 0.12
                    if low is not None and high is not None:
                        axes.vlines(x, low, high, color=colour, linewidth=1.3)
                    axes.plot([x], [value], marker=marker, color=colour, markersize=5)
        axes.axhline(1, color="#777777", linewidth=1, linestyle="--")
        axes.set_xticks(range(len(groups)), [group.removeprefix("batch ") for group in groups])
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_xlabel("batch size", fontsize=9)
        axes.set_title(f"{measure}, cut / uncut", fontsize=9, loc="left")
        tidy(axes, "y")
    return picture


def lines(found: Diagnosis, arms: Sequence[str]) -> list[str]:
    """Sizes, counted."""
    counted = found["data"].get("counted", {})
    if not counted:
        return []
    text = ["| model | parameters | bytes of weights | KV cache per token |", "|---|---:|---:|---:|"]
    for name, size in counted.items():
        count = "-" if size["parameters"] is None else parameters(size["parameters"])
        cells = [escape(name), count, f"{size['bytes'] / 1e6:,.1f} MB", f"{size['cache_bytes_per_token']:,.0f} bytes"]
        text.append("| " + " | ".join(cells) + " |")
    return [*text, ""]
