"""Plots of the diagnostics: points with intervals, and curves along answers and depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercut.evidence.diagnosis import Diagnosis, MeasureRow
from layercut.evidence.intervals import Estimate
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.text.numbers import number, p_value, with_interval

_PLACES = (10, 30, 50, 70, 90)
"""Middles of the fifths of an answer, in percent."""
FEWEST = 5
"""Items of a group that has a line of its own, or intervals, in a picture; smaller ones are in the table alone."""


def look(arms: Sequence[str]) -> dict[str, str]:
    """A colour for the uncut and each pruned model."""
    return {"uncut": charts.UNCUT} | charts.colours(arms)


def keys(arms: Sequence[str]) -> list[Key]:
    """The legend of models."""
    return [Key(label=name, colour=colour, hollow=name == "uncut") for name, colour in look(arms).items()]


def share_rows(found: Diagnosis) -> list[MeasureRow]:
    """The measures that are shares of items, of groups that are not too small for a picture."""
    return [row for row in found["rows"] if row.unit == "share" and (not row.group or row.n >= FEWEST)]


def shares(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """A line for each measure that is a share of items."""
    rows = share_rows(found)
    return _shares_figure(arms, [_forest(rows, arms, "% of items", "")], rows) if rows else None


def brackets(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """Shares of items; sequences of brackets by their depth."""
    rows = [row for row in share_rows(found) if not row.group]
    if not rows:
        return None
    panels = [_forest(rows, arms, "% of items", "")]
    for measure, what in (("closed", "all brackets closed"), ("next bracket", "next bracket right")):
        mine = [row for row in found["rows"] if row.metric == measure and row.group.startswith("depth ")]
        if mine:
            panels.append(_by_depth(mine, arms, what))
    return _shares_figure(arms, panels, rows)


def propagation(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """First choices by kind of token; right tokens along the answer; answers that come right with a start given."""
    if not found["rows"]:
        return None
    panels = []
    kinds = [row for row in found["rows"] if row.metric == "first choice"]
    if kinds:
        panels.append(_forest(kinds, arms, "first choice is right, %", "By kind of token, the right start given", True))
    points: list[dict[str, Any]] = []
    colours = {}
    dashes = {}
    for arm in arms:
        for way, dash in (("given", (1, 0)), ("alone", (6, 3))):
            series = f"{arm}, {way}"
            colours[series], dashes[series] = look(arms)[arm], dash
            values = found["data"]["places"][arm]["teacher_forced" if way == "given" else "free_running"]
            for x, value in zip(_PLACES, values, strict=True):
                if value is not None:
                    tooltip = {"model": arm, "place": f"{x - 10} to {x + 10} % of the answer", "right start": way}
                    points.append(_at(x, (value, None, None), series, tooltip | {"right": f"{number(value)} %"}))
    if points:
        spec = charts.curves(
            points, x_title="place in the answer, %", y_title="right tokens, %", x=(0, 100), y=(-4, 104),
            colours=colours, dashes=dashes,
        )  # fmt: skip
        where = "Right tokens along the answer; solid: the right start given, dashed: the model alone"
        panels.append(Panel(spec=spec, title=where, label=f"Line plot. {where}. Numbers are in the table or hover."))
    clamped = [row for row in found["rows"] if row.metric == "clamped"]
    if clamped:
        spec = charts.curves(
            _over_groups(clamped), x_title="of the right answer given, %", y_title="answers that come right, %",
            x=(-3, 103), y=(-4, 104), colours={name: colour for name, colour in look(arms).items() if name != "uncut"},
        )  # fmt: skip
        where = "Answers that come right when a part is given"
        panels.append(Panel(spec=spec, title=where, label=f"Line plot. {where}: {_said(clamped)}."))
    return Figure(
        name="propagation",
        title="Propagation",
        panels=panels,
        caption=f"Bars and bands: 95 % intervals where they are known (n {charts.num_items(found['rows'])}).",
        legend=keys(arms),
    )


def _shares_figure(arms: Sequence[str], panels: Sequence[Panel], rows: Sequence[MeasureRow]) -> Figure:
    ticks = any(row.chance is not None for row in rows)
    caption = f"Points: uncut (open) and {', '.join(arms)} (filled); bars: 95 % intervals (n {charts.num_items(rows)})."
    return Figure(
        name="shares",
        title="Shares of items",
        panels=panels,
        caption=caption + (" Grey ticks: guessing." if ticks else ""),
        legend=keys(arms),
        columns=1,
    )


def _by_depth(rows: Sequence[MeasureRow], arms: Sequence[str], what: str) -> Panel:
    depths = [int(row.group.removeprefix("depth ")) for row in rows]
    points = []
    for row, depth in zip(rows, depths, strict=True):
        uncut, cut = row.values[:2]
        tooltip = {"depth": str(depth), "n": f"{row.n} items"}
        if row.arm == arms[0]:
            points.append(_at(depth, uncut, "uncut", tooltip | {"uncut": f"{with_interval(uncut)} %"}))
        points.append(_at(depth, cut, row.arm, tooltip | {"cut": f"{with_interval(cut)} %"}))
    spec = charts.curves(
        points, x_title="brackets open", y_title=f"{what}, %", x=(min(depths) - 0.5, max(depths) + 0.5), y=(-4, 104),
        colours=look(arms),
    )  # fmt: skip
    return Panel(spec=spec, title=f"{what[0].upper()}{what[1:]}, by depth", label=f"Line plot. {what}: {_said(rows)}.")


def _forest(rows: Sequence[MeasureRow], arms: Sequence[str], x_title: str, title: str, groups: bool = False) -> Panel:
    points: list[dict[str, Any]] = []
    ticks = []
    for row in rows:
        name = row.group if groups else row.label
        uncut, cut, difference = row.values[:3]
        tooltip = {"measure": row.label, "n": f"{row.n} items"}
        if not any(point["name"] == name and point["series"] == "uncut" for point in points):
            points.append(_line(name, uncut, "uncut", tooltip | {"uncut": f"{with_interval(uncut)} %"}))
            if row.chance is not None:
                ticks.append({"name": name, "x": round(100 * row.chance, 2)})
        change = {"cut": f"{with_interval(cut)} %", "difference": with_interval(difference, sign=True)}
        tooltip = {"model": row.arm, **tooltip, **change, "p": p_value(row.values.p_value)}
        points.append(_line(name, cut, row.arm, tooltip))
    spec = charts.forest(points, x_title=x_title, x=(-2, 102), colours=look(arms), ticks=ticks)
    return Panel(spec=spec, title=title, label=f"Plot of points with intervals. {title}: {_said(rows)}.")


def _over_groups(rows: Sequence[MeasureRow]) -> list[dict[str, Any]]:
    groups = list(dict.fromkeys(row.group for row in rows))
    step = 100 / max(1, len(groups) - 1)
    return [
        _at(
            step * groups.index(row.group),
            row.values.cut,
            row.arm,
            {"model": row.arm, "given": row.group, "come right": f"{with_interval(row.values.cut)} %",
             "n": f"{row.n} items"},
        )
        for row in rows
    ]  # fmt: skip


def _line(name: str, value: Estimate, series: str, tooltip: Mapping[str, str]) -> dict[str, Any]:
    return charts.marked(_plain(value, 100), series, hollow=series == "uncut", about=tooltip, name=name)


def _at(x: float, value: Sequence[Any], series: str, tooltip: Mapping[str, str]) -> dict[str, Any]:
    return charts.marked(_plain(value, 100), series, hollow=series == "uncut", about=tooltip, x=x)


def _plain(value: Sequence[Any], scale: float) -> dict[str, float | None]:
    y, low, high = (None if end is None else round(scale * end, 3) for end in value[:3])
    return {"y": y, "low": low, "high": high}


def _said(rows: Sequence[MeasureRow]) -> str:
    return "; ".join(
        f"{row.label}: uncut {number(row.values.uncut.value)} %, {row.arm} {number(row.values.cut.value)} %"
        for row in rows
    )
