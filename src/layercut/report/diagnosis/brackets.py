"""The picture of the bracket diagnostic: shares, the two of nested brackets by depth; and how programs end, as a
table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report.diagnosis.drawing import by_step, forest
from layercut.report.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

    from layercut.runs.diagnosis import Diagnosis

TITLE = "Brackets and syntax"
QUESTION = "Is what is open still closed, in sequences of growing depth and in programs?"
_FINE = ("passed", "parses")
_WORDS = {
    "never_closed": "bracket never closed",
    "unmatched": "bracket closes nothing",
    "mismatched": "bracket of another kind",
    "no_code": "no code",
    "cut": "cut by the length limit",
}


def figure(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """All shares, one line each; below, nested brackets by depth."""
    rows = [row for row in found["rows"] if row["unit"] == "share"]
    if not rows:
        return None
    depths = {
        title: [row for row in rows if row["group"] and row["measure"] == measure]
        for measure, title in (("closed", "all closed, %"), ("next bracket", "next bracket right, %"))
    }
    below = 2.1 if any(depths.values()) else 0.0
    picture = forest([row for row in rows if not row["group"]], arms, "% of items, 95 % intervals", below=below)
    height = float(picture.get_size_inches()[1])
    for place, (title, mine) in enumerate(depths.items() if below else ()):
        axes = picture.add_axes((0.07 + 0.49 * place, 0.42 / height, 0.42, 1.35 / height))
        axes.set_ylim(-4, 104)
        by_step(axes, [{**row, "group": row["group"].removeprefix("depth ")} for row in mine], arms, "brackets open")
        axes.set_title(title, fontsize=9, loc="left")
    return picture


def lines(found: Diagnosis, arms: Sequence[str]) -> list[str]:
    """How programs end: number, share of all, share of those that fail."""
    classes = found["data"].get("classes", {})
    names = list(dict.fromkeys(name for counts in classes.values() for name in counts))
    if not names:
        return []
    text = ["How the generated programs end: number (% of all; % of those that fail).", ""]
    text += ["| | " + " | ".join(escape(arm) for arm in classes) + " |", "|---|" + "---|" * len(classes)]
    for name in names:
        cells = [_cell(name, counts) for counts in classes.values()]
        text.append(f"| {_WORDS.get(name, name.replace('_', ' '))} | " + " | ".join(cells) + " |")
    return [*text, ""]


def _cell(name: str, counts: dict[str, int]) -> str:
    number, total = counts.get(name, 0), sum(counts.values())
    failed = sum(count for one, count in counts.items() if one not in _FINE)
    share = f"{100 * number / total:.0f} %"
    return (
        f"{number} ({share})" if name in _FINE or not failed else f"{number} ({share}; {100 * number / failed:.0f} %)"
    )
