"""The picture of the propagation diagnostic: kinds of tokens, places in the answer, and prefix clamping."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report.diagnosis.drawing import UNCUT, canvas, legend, look, tidy
from layercut.report.markup import escape
from layercut.runs.counting import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layercut.runs.diagnosis import Diagnosis, MeasureRow

TITLE = "Propagation"
QUESTION = "Is damage done at single tokens, or does it grow along the answer?"


def figure(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """Three panels: first choices by kind of token, right tokens by place (solid: given; dashed: alone), clamping."""
    if not found["rows"]:
        return None
    height = 3.1
    picture = canvas(height)
    above = legend(picture, arms)
    panels = []
    for left, width in ((0.06, 0.3), (0.42, 0.24), (0.72, 0.25)):
        axes = picture.add_axes((left, 0.19, width, (height - above - 0.9) / height))
        axes.set_ylim(-4, 104)
        tidy(axes, "y")
        panels.append(axes)
    _by_kind(panels[0], [row for row in found["rows"] if row["measure"] == "first choice"], arms)
    for index, arm in enumerate(arms):
        colour, marker = look(index)
        places = found["data"]["places"][arm]
        for name, style in (("teacher_forced", "-"), ("free_running", "--")):
            points = [(x, 100 * value) for x, value in enumerate(places[name]) if value is not None]
            panels[1].plot(*zip(*points, strict=True), color=colour, linestyle=style, marker=marker, markersize=4)
    panels[1].set_xticks(range(5), ["10", "30", "50", "70", "90"])
    panels[1].set_xlabel("place in the answer, %", fontsize=9)
    panels[1].set_title("right tokens in %; dashed: alone", fontsize=9, loc="left")
    _clamped(panels[2], [row for row in found["rows"] if row["measure"] == "clamped"], arms)
    return picture


def _by_kind(axes: Axes, rows: Sequence[MeasureRow], arms: Sequence[str]) -> None:
    kinds = list(dict.fromkeys(row["group"] for row in rows))
    for row in rows:
        index = list(arms).index(row["arm"])
        colour, marker = look(index)
        x = kinds.index(row["group"])
        if index == 0:
            axes.plot([x - 0.25], [_percent(row["uncut"][0])], marker="o", color=UNCUT, markerfacecolor="white")
        x_cut = x - 0.25 + 0.5 * (index + 1) / max(1, len(arms))
        value, low, high = row["cut"]
        if low is not None and high is not None:
            axes.vlines(x_cut, 100 * low, 100 * high, color=colour, linewidth=1.3)
        axes.plot([x_cut], [_percent(value)], marker=marker, color=colour, markersize=5)
    axes.set_xticks(range(len(kinds)), kinds, rotation=20)
    axes.set_title("first choice, right start given, in %", fontsize=9, loc="left")


def _clamped(axes: Axes, rows: Sequence[MeasureRow], arms: Sequence[str]) -> None:
    for index, arm in enumerate(arms):
        colour, marker = look(index)
        mine = [row for row in rows if row["arm"] == arm]
        for x, row in enumerate(mine):
            _, low, high = row["cut"]
            if low is not None and high is not None:
                axes.vlines(x, 100 * low, 100 * high, color=colour, linewidth=1.0, alpha=0.6)
        axes.plot(range(len(mine)), [_percent(row["cut"][0]) for row in mine], color=colour, marker=marker)
    axes.set_xticks(range(5), ["0", "25", "50", "75", "100"])
    axes.set_xlabel("of the right answer given, %", fontsize=9)
    axes.set_title("answers that come right in %", fontsize=9, loc="left")


def lines(found: Diagnosis, arms: Sequence[str]) -> list[str]:
    """Where answers first go wrong."""
    text = []
    for arm, where in found["data"].get("first_wrong", {}).items():
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(where["kinds"].items(), key=lambda one: -one[1]))
        line = f"- {escape(arm)}: {where['parted']} of {counted(where['traces'], 'answer')} part from the uncut model's"
        if where["parted"]:
            line += (
                f", first at: {kinds}; {where['at_first_token']} at the very first token. Up to there the answer is "
                f"the same, and with it given as text the token is not the first choice either in "
                f"{where['wrong_when_forced']} of them"
            )
        text.append(f"{line}.")
    return [*text, ""] if text else []


def _percent(value: float | None) -> float:
    return 100 * (value or 0.0)
