"""Plots of the diagnostics: points with intervals, curves along answers and layers, and maps of hidden states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercut.evidence.diagnosis import Diagnosis, MeasureRow
from layercut.evidence.intervals import Estimate
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.report.table import Table, texts
from layercut.text.numbers import number, p_value, with_interval

_PLACES = (10, 30, 50, 70, 90)
"""Middles of the fifths of an answer, in percent."""
MOST_STATES = 40
"""Layers that a map of hidden states shows; of more, every second or third one."""
MOST_MAPS = 4
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
        caption=f"Bars and bands: 95 % intervals where they are known (n {_counts(found['rows'])}).",
        legend=keys(arms),
    )


def similarity(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """Maps of hidden states beside the uncut ones; steps, norms and the logit lens along depth."""
    models: Mapping[str, Any] = found["data"].get("arms", {})
    if not models:
        return None
    panels = [_map(name, model["cosine"]) for name, model in list(models.items())[:MOST_MAPS]]
    colours = look([name for name in models if name != "uncut"])
    for name, what, y, scale in (
        ("steps", "Cosine of a layer's input and output", None, "linear"),
        ("norms", "Norm of the hidden state", None, "log"),
        ("lens", "Final token is already the likeliest after this layer, %", (-4.0, 104.0), "linear"),
    ):
        panels.append(_along(models, name, what, y, scale, colours))
    return Figure(
        name="similarity",
        title="Similarity",
        panels=panels,
        caption=(
            "Maps: cosine of the hidden states of a model (upwards) and of the original one (to the right), "
            "from the first layer on; a bright diagonal means similar states. Curves use layer indices "
            "of the original model. Means over the answers of the original model; they explain damage, they do not "
            "test for it."
        ),
        legend=keys([name for name in models if name != "uncut"]),
        table=_similarity_table(models),
    )


def cost(found: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """A panel for each measure: speed as a ratio to the original model."""
    rows = [row for row in found["rows"] if row.unit == "ratio"]
    panels = []
    for measure in dict.fromkeys(row.metric for row in rows):
        mine = [row for row in rows if row.metric == measure]
        ends = [end for row in mine for end in row.values.difference[:3] if end is not None]
        points = [
            charts.marked(_plain(row.values.difference, 1), row.arm, name=row.group, about=_about_ratio(row))
            for row in mine
        ]
        colours = {name: colour for name, colour in look(arms).items() if name != "uncut"}
        reach = (min(0.9, min(ends)) - 0.05, max(1.1, max(ends)) + 0.05)
        spec = charts.forest(points, x_title="cut / uncut", x=reach, colours=colours, marks=((1, "uncut"),))
        said = "; ".join(f"{r.group}, {r.arm}: {with_interval(r.values.difference, share=False)}" for r in mine)
        panels.append(Panel(spec=spec, title=measure, label=f"Plot of ratios. {measure}: {said}."))
    if not panels:
        return None
    return Figure(
        name="cost",
        title="Cost",
        panels=panels,
        caption=f"Above 1 the pruned model is faster. Bars: 95 % intervals over repeats (n {_counts(rows)}).",
        legend=keys(arms)[1:],
    )


def _about_ratio(row: MeasureRow) -> dict[str, str]:
    ratio = with_interval(row.values.difference, share=False)
    return {"model": row.arm, "cut / uncut": ratio, "repeats": f"n {row.n}"}


def _shares_figure(arms: Sequence[str], panels: Sequence[Panel], rows: Sequence[MeasureRow]) -> Figure:
    ticks = any(row.chance is not None for row in rows)
    caption = f"Points: uncut (open) and {', '.join(arms)} (filled); bars: 95 % intervals (n {_counts(rows)})."
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


def _along(
    models: Mapping[str, Any], name: str, what: str, y: tuple[float, float] | None, scale: str, colours: dict[str, str]
) -> Panel:
    points: list[dict[str, Any]] = []
    for model, data in models.items():
        layers = [-1, *data["layers"]] if name == "norms" else data["layers"]
        for layer, value in zip(layers, data[name], strict=True):
            shown = 100 * value if name == "lens" else value
            tooltip = {"model": model, "layer": "embedding" if layer < 0 else str(layer), what: f"{shown:.3g}"}
            value_alone = {"y": shown, "low": None, "high": None}
            points.append(charts.marked(value_alone, model, hollow=model == "uncut", about=tooltip, x=layer))
    ends = y or charts.reach([point["y"] for point in points], scale)
    x = (min(point["x"] for point in points) - 0.5, max(point["x"] for point in points) + 0.5)
    spec = charts.curves(
        points, x_title="decoder layer of the original model", y_title="", x=x, y=ends, colours=colours, scale=scale
    )
    return Panel(spec=spec, title=what, label=f"Line plot over layers: {what}. Numbers are in the table below.")


def _map(name: str, matrix: Sequence[Sequence[float]]) -> Panel:
    step = -(-max(len(matrix), len(matrix[0])) // MOST_STATES)
    cells = [
        {"x": x, "y": y, "value": round(value, 3)}
        for y, row in enumerate(matrix)
        if y % step == 0
        for x, value in enumerate(row)
        if x % step == 0
    ]
    spec = charts.heat_map(cells, x_title="state of the original model", y_title="state of this model", high=1.0)
    return Panel(
        spec=spec, title=f"Cosine of states, {name}", label=f"Map of the cosine of hidden states of {name} and uncut."
    )


def _similarity_table(models: Mapping[str, Any]) -> Table:
    names = ("model", "layer", "cosine of input and output", "norm of state", "final token likeliest, %")
    rows = [
        [model, str(layer), f"{data['steps'][i]:.3f}", f"{data['norms'][i + 1]:.4g}", f"{100 * data['lens'][i]:.0f}"]
        for model, data in models.items()
        for i, layer in enumerate(data["layers"])
    ]
    maps = [
        (model, y, x, value)
        for model, data in models.items()
        for y, row in enumerate(data["cosine"])
        for x, value in enumerate(row)
    ]
    of_maps = texts("model", "state of this model", "state of the original model", "cosine")
    return Table(
        name="similarity",
        caption="Hidden states along depth; the CSV holds the maps",
        columns=texts(*names, numeric=names[1:]),
        rows=rows,
        download=Table(name="similarity", caption="", columns=of_maps, rows=maps),
    )


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


def _counts(rows: Sequence[MeasureRow]) -> str:
    counts = sorted({row.n for row in rows})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
