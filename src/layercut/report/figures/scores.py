"""Plots of scores: of every plan in report.md, by number of removed layers, and without each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import NOT_HEALED, Place, are_thinner, healed_as, places
from layercut.evidence.sweep import Curve, Sweep, SweepRow
from layercut.evidence.uses import is_written
from layercut.report import words
from layercut.report.comparison import about, about_uncut, kept, kept_table
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.report.table import Column, Table
from layercut.report.words import readout_order, readout_words
from layercut.runs.healing import MARK
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value

if TYPE_CHECKING:
    from layercut.runs.directory import RunFolder

UNCUT = "uncut"
_READ_BOTH = (
    "Left: given answers are ranked by likelihood. Right: the model writes its answer. Where a line stays high on the "
    "left and falls on the right, the model still ranks the right answer first but no longer writes it. "
)
"""Caption of a figure that has panels on both sides."""
_APART = 0.09
"""Between the points of neighbouring lines at one depth, in steps of depth, so that their bars do not overlap."""


def scores(rows: Sequence[ComparisonRow]) -> Figure | None:
    """Scores with the level of guessing on the left, retention above chance on the right; a line for each task and
    readout, a colour for each plan. Only headline metrics that are shares; None without one.
    """
    drawn = [row for row in rows if row.is_headline and row.is_share]
    if not drawn:
        return None
    tasks = list(dict.fromkeys(row.task for row in drawn))
    drawn.sort(key=lambda row: (tasks.index(row.task), readout_order(row.readout)))
    plans = list(dict.fromkeys(row.cut.name for row in rows if row in drawn))
    colours = {UNCUT: charts.UNCUT} | charts.colours(plans)
    found: list[dict[str, Any]] = []
    kept: list[dict[str, Any]] = []
    ticks: dict[str, float] = {}
    for row in drawn:
        name = f"{row.task}: {readout_words(row.readout)}"
        if not any(point["name"] == name for point in found):
            found.append(charts.marked(charts.ends(row.values.uncut, low=0, high=100), UNCUT, name=name, hollow=True))
        found.append(charts.marked(charts.ends(row.values.cut, low=0, high=100), row.cut.name, name=name))
        if row.chance is not None:
            ticks[name] = round(100 * row.chance, 2)
        share = row.kept_share
        value = {"y": None, "low": None, "high": None} if share is None else charts.ends(share)
        kept.append(charts.marked(value, row.cut.name, name=name))
    marks = ((0.0, "guessing"), (100.0, UNCUT))
    reach = (charts.KEPT_LOW, charts.KEPT_HIGH)
    guessing = [{"name": name, "x": level} for name, level in ticks.items()]
    left = charts.forest(found, x_title="score, %", x=(0, 100), colours=colours, ticks=guessing)
    right = charts.forest(kept, x_title="kept above chance, %", x=reach, colours=colours, marks=marks)
    return Figure(
        name="scores",
        title="Score and retention of every task and readout",
        panels=[
            Panel(spec=left, title="Score; grey: guessing", label="Plot of scores."),
            Panel(spec=right, title="Kept above chance", label="Plot of retention."),
        ],
        caption="Scores and retention with 95 % intervals.",
        legend=[Key(label=name, colour=colour, hollow=name == UNCUT) for name, colour in colours.items()],
    )


def retention(cuts: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> Figure | None:
    """A panel for each task and readout; None without a score with a retention, or with the original model at chance.

    Of the rows of compare_runs, only main metrics are drawn; a training at marks has a figure of its own.
    """
    cuts = [run for run in cuts if not healed_as(run).get(MARK)]
    shown = {run.name for run in cuts}
    rows = [row for row in rows if row.is_headline and row.cut.name in shown]
    drawn = [row for row in rows if row.kept_share is not None and not row.uncut_is_at_chance]
    if not drawn:
        return None
    where = places(cuts, rows)
    keys = _line_styles([where[run.name] for run in cuts])
    pairs = list(dict.fromkeys((row.task, row.readout) for row in drawn))
    tasks = list(dict.fromkeys(task for task, _ in pairs))
    pairs = _in_rows(sorted(pairs, key=lambda pair: (tasks.index(pair[0]), words.readout_order(pair[1]))))
    depths = sorted({0, *(place.depth for place in where.values())})
    both = len({is_written(readout) for _, readout in pairs}) > 1
    by_size = are_thinner(rows)
    x_title = "parameters removed, %" if by_size else "decoder layers removed"
    panels = [
        _retention_panel(
            [row for row in drawn if (row.task, row.readout) == pair], where, keys, depths, x_title=x_title, both=both
        )
        for pair in pairs
    ]
    left_out = dict.fromkeys(
        f"{row.task} ({words.readout_words(row.readout)})" for row in rows if (row.task, row.readout) not in pairs
    )
    seeds = sorted({run.settings.get("seed", 0) for run in cuts})
    caption = (
        "Share of the score above chance that remains after pruning: 100 % is the original model, 0 % is guessing. "
        + _READ_BOTH * both
        + f"Bars: 95 % intervals over the same items (n {charts.num_items(drawn)} in each panel, seed "
        + f"{', '.join(map(str, seeds))}); points "
        "of one depth are set side by side. Triangles: beyond the axis, with the value where the point itself is. "
        "Lines only connect measured points. Click a name in the legend to see its line alone; click more to compare."
    )
    if left_out:
        caption += f" Not drawn, because the original model is not significantly above guessing: {', '.join(left_out)}."
    return Figure(
        name="retention",
        title=f"Score kept above chance, against the {'share' if by_size else 'number'} of removed "
        + ("parameters" if by_size else "layers"),
        panels=panels,
        caption=caption,
        columns=min(2, len(panels)),
        legend=[Key(label=name, colour=look[0], dash=" ".join(map(str, look[1]))) for name, look in keys.items()],
        table=_retention_table(drawn, where),
    )


def _in_rows(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Tasks and readouts so that no place stays empty in between: tasks read both ways first, then the others."""
    ways: dict[str, set[bool]] = {}
    for task, readout in pairs:
        ways.setdefault(task, set()).add(is_written(readout))
    one_way = [[pair for pair in pairs if ways[pair[0]] == {written}] for written in (False, True)]
    both = [pair for pair in pairs if len(ways[pair[0]]) > 1]
    return both + [pair for row in zip_longest(*one_way) for pair in row if pair is not None]


def _line_styles(found: Sequence[Place]) -> dict[str, tuple[str, Sequence[int]]]:
    """A colour for each criterion, a dash for each healing arm; the other way round for more arms than dashes."""
    criteria = list(dict.fromkeys(place.criterion for place in found))
    arms = [NOT_HEALED, *dict.fromkeys(place.arm for place in found if place.arm != NOT_HEALED)]
    by_arm = len(arms) > max(len(charts.DASHES), len(criteria))
    num_inner = len(criteria if by_arm else arms)
    looks: dict[str, tuple[str, Sequence[int]]] = {}
    for place in found:
        outer, inner = criteria.index(place.criterion), arms.index(place.arm)
        if by_arm:
            outer, inner = inner, outer
        again, colour = divmod(outer, len(charts.SERIES))
        looks[place.series] = charts.SERIES[colour], charts.DASHES[(inner + again * num_inner) % len(charts.DASHES)]
    return looks


def _retention_panel(
    rows: Sequence[ComparisonRow],
    where: Mapping[str, Place],
    looks: Mapping[str, tuple[str, Sequence[int]]],
    depths: Sequence[float],
    *,
    x_title: str,
    both: bool,
) -> Panel:
    points: list[dict[str, Any]] = []
    gap = min((deep - shallow for shallow, deep in pairwise(depths)), default=1)
    apart = gap * min(_APART, 0.5 / len(looks))
    for part in dict.fromkeys(where[row.cut.name].part for row in rows):
        mine = sorted((row for row in rows if where[row.cut.name].part == part), key=lambda row: row.cut.turn)
        series = where[mine[0].cut.name].series
        aside = apart * (list(looks).index(series) - (len(looks) - 1) / 2)
        whole = {"y": 100, "low": 100, "high": 100}
        points.append(charts.marked(whole, series, part=part, hollow=True, about=about_uncut(mine[0]), x=0))
        for row in mine:
            assert row.kept_share is not None
            x = round(where[row.cut.name].depth + aside, 3)
            points.append(charts.marked(charts.ends(row.kept_share), series, part=part, about=about(row), x=x))
    first = rows[0]
    written = is_written(first.readout)
    readout = words.readout_words(first.readout)
    said = "; ".join(f"{row.cut.name} ({row.cut.amount} removed) keeps {kept(row.kept_share)}" for row in rows)
    spec = charts.curves(
        points,
        x_title=x_title,
        y_title="kept, %",
        x=(-0.4 * gap, max(1, depths[-1]) + 0.4 * gap),
        y=(charts.KEPT_LOW, charts.KEPT_HIGH),
        colours={name: look[0] for name, look in looks.items()},
        dashes={name: look[1] for name, look in looks.items()},
        marks=((100, "uncut"), (0, "guessing")),
        height=210,
        ticks=depths,
    )
    return Panel(
        spec=spec,
        title=f"{first.task}: {'written, ' if written else ''}{readout}",
        label=f"Line plot. {first.task}, {readout}: {said}.",
        column=(2 if written else 1) if both else 0,
    )


def _retention_table(rows: Sequence[ComparisonRow], where: Mapping[str, Place]) -> Table:
    line = Column("line", lambda row: where[row.cut.name].series)
    depth = Column("layers removed", lambda row: str(row.cut.depth), numeric=True)
    if are_thinner(rows):
        depth = Column("removed", lambda row: row.cut.label)
    found = Column("finding", lambda row: row.finding)
    return kept_table("retention", "What is kept, with 95 % intervals", rows, [line, depth], [found])


def layers(sweep: Sweep) -> Figure | None:
    """A panel for each task and a line for each readout; None where no task is above chance."""
    drawn = [curve for curve in sweep.curves if not curve.refused]
    if not drawn:
        return None
    tasks = list(dict.fromkeys(curve.task for curve in drawn))
    used = list(dict.fromkeys(curve.readout for curve in drawn))
    n = sorted({curve.rows[0].values.uncut.n for curve in drawn})
    return Figure(
        name="layers",
        title="Score kept above chance without one layer",
        panels=[_layers_panel([curve for curve in drawn if curve.task == task], sweep) for task in tasks],
        caption=(
            "Every point is the model without this one layer. 100 % is the original model, 0 % is guessing. Bands: "
            f"95 % intervals over the same {sweep.split} items (n {', '.join(map(str, n))}, seed "
            f"{sweep.rows[0].seed}). Filled points: a significant loss over all layers (p < 0.05 after Holm's "
            "correction). Open points: no significant loss."
        ),
        legend=[
            *(
                Key(
                    label=words.readout_words(name),
                    colour=charts.readout_colour(name),
                    dash=" ".join(map(str, charts.readout_dash(name))),
                )
                for name in used
            ),
            Key(label="significant loss", colour="var(--soft)", line=False),
            Key(label="not significant", colour="var(--soft)", line=False, hollow=True),
        ],
        columns=1,
    )


def _layers_panel(curves: Sequence[Curve], sweep: Sweep) -> Panel:
    points: list[dict[str, Any]] = []
    for curve in curves:
        adjusted, stands = curve.p_adjusted, curve.significant
        name = words.readout_words(curve.readout)
        for number_of_part, part in enumerate(unbroken(curve.rows)):
            for row in part:
                assert row.kept_share is not None
                tooltip = {"without layer": str(row.layer), **_about_layer(row, adjusted[row.layer])}
                look: dict[str, Any] = {"part": f"{name} {number_of_part}", "hollow": row.layer not in stands}
                points.append(charts.marked(charts.ends(row.kept_share), name, **look, about=tooltip, x=row.layer))
    names = {curve.readout: words.readout_words(curve.readout) for curve in curves}
    spec = charts.curves(
        points,
        x_title="skipped decoder layer",
        y_title="kept, %",
        x=(sweep.layers[0] - 0.5, sweep.layers[-1] + 0.5),
        y=(charts.KEPT_LOW, charts.KEPT_HIGH),
        colours={name: charts.readout_colour(readout) for readout, name in names.items()},
        dashes={name: charts.readout_dash(readout) for readout, name in names.items()},
        marks=((100, "uncut"), (0, "guessing")),
        bands=True,
    )
    label = "; ".join(_description(curve) for curve in curves)
    return Panel(spec=spec, title=curves[0].task, label=f"Line plot over layers. {label}.")


def _description(curve: Curve) -> str:
    least = min((row for row in curve.rows if row.kept_share), key=lambda row: row.values.cut.value)
    return (
        f"{curve.label}: a loss stands at {len(curve.significant)} of "
        f"{counted(len(curve.rows), 'layer')}; the least is kept without layer {least.layer}: {kept(least.kept_share)}"
    )


def _about_layer(row: SweepRow, p: float) -> dict[str, str]:
    share = all(0 <= value <= 1 for value in (row.values.uncut.value, row.values.cut.value))
    before, after = (number(one.value, share=share, digits=1) for one in (row.values.uncut, row.values.cut))
    unit = " %" if share else ""
    swapped = "" if row.values.lost is None else f"; lost/gained {row.values.lost}/{row.values.gained}"
    return {
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        "kept": kept(row.kept_share),
        "score": f"{before}{unit} uncut, {after}{unit} without it",
        "items": f"n {row.values.cut.n:,}{swapped}",
        "p (Holm)": p_value(p),
    }


def unbroken(rows: Sequence[SweepRow]) -> list[list[SweepRow]]:
    """Neighbouring layers that have a value; a line must not run over layers that were not skipped."""
    runs: list[list[SweepRow]] = []
    for row in rows:
        if row.kept_share is None:
            continue
        if runs and row.layer == runs[-1][-1].layer + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs
