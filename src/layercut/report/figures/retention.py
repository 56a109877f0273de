"""Retention by number of removed layers: ranking beside writing, a line for each criterion and healing arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any

from layercut.evidence.study import NOT_HEALED, Place, places
from layercut.evidence.uses import is_written
from layercut.report import words
from layercut.report.elements import Figure, Key, Panel, Table
from layercut.report.figures import charts
from layercut.report.rows import about, about_uncut, kept, raw
from layercut.text.counting import counted

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparisonRow
    from layercut.runs.directory import RunFolder

_READ_BOTH = (
    "Left: given answers are ranked by likelihood. Right: the model writes its answer. Where a line stays high on the "
    "left and falls on the right, the model still ranks the right answer first but no longer writes it. "
)
"""Of a figure that has panels on both sides."""
_APART = 0.09
"""Between the points of neighbouring lines at one depth, in steps of depth, so that their bars do not overlap."""


def retention(cuts: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> Figure | None:
    """A panel for each task and readout; None without a score with a retention, or with the original model at chance.

    Args:
        cuts: the runs of the pruned models.
        rows: of compare_runs; only main metrics are drawn.
    """
    rows = [row for row in rows if row.is_headline]
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
    panels = [
        _panel([row for row in drawn if (row.task, row.readout) == pair], where, keys, depths, both=both)
        for pair in pairs
    ]
    left_out = dict.fromkeys(
        f"{row.task} ({words.readout_words(row.readout)})" for row in rows if (row.task, row.readout) not in pairs
    )
    seeds = sorted({run.settings.get("seed", 0) for run in cuts})
    counts = sorted({row.n for row in drawn})
    n = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    caption = (
        "Share of the score above chance that remains after pruning: 100 % is the original model, 0 % is guessing. "
        + _READ_BOTH * both
        + f"Bars: 95 % intervals over the same items (n {n} in each panel, seed {', '.join(map(str, seeds))}); points "
        "of one depth are set side by side. Triangles: beyond the axis, with the value where the point itself is. "
        "Lines only connect measured points. Click a name in the legend to see its line alone; click more to compare."
    )
    if left_out:
        caption += f" Not drawn, because the original model is not significantly above guessing: {', '.join(left_out)}."
    return Figure(
        name="retention",
        title="Score kept above chance, against the number of removed layers",
        panels=panels,
        caption=caption,
        columns=min(2, len(panels)),
        legend=[Key(label=name, colour=look[0], dash=" ".join(map(str, look[1]))) for name, look in keys.items()],
        table=_table(drawn, where),
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


def _panel(
    rows: Sequence[ComparisonRow],
    where: Mapping[str, Place],
    looks: Mapping[str, tuple[str, Sequence[int]]],
    depths: Sequence[int],
    *,
    both: bool,
) -> Panel:
    points: list[dict[str, Any]] = []
    gap = min((deep - shallow for shallow, deep in pairwise(depths)), default=1)
    apart = gap * min(_APART, 0.5 / len(looks))
    for part in dict.fromkeys(where[row.cut.name].part for row in rows):
        mine = sorted((row for row in rows if where[row.cut.name].part == part), key=lambda row: len(row.cut.removed))
        series = where[mine[0].cut.name].series
        aside = apart * (list(looks).index(series) - (len(looks) - 1) / 2)
        start = {"x": 0, "y": 100, "low": 100, "high": 100, "hollow": True, "about": about_uncut(mine[0])}
        points.append({**start, "series": series, "part": part})
        for row in mine:
            assert row.kept_share is not None
            points.append(
                {"x": round(len(row.cut.removed) + aside, 3), **charts.ends(row.kept_share), "series": series,
                 "part": part, "hollow": False, "about": about(row)}
            )  # fmt: skip
    first = rows[0]
    written = is_written(first.readout)
    readout = words.readout_words(first.readout)
    said = "; ".join(
        f"{row.cut.name} ({counted(len(row.cut.removed), 'layer')} removed) keeps {kept(row.kept_share)}"
        for row in rows
    )
    spec = charts.curves(
        points,
        x_title="decoder layers removed",
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


def _table(rows: Sequence[ComparisonRow], where: Mapping[str, Place]) -> Table:
    head = ["plan", "line", "layers removed", "task", "readout", "n", "kept above chance, %", "finding"]
    cells = [
        [
            row.cut.name,
            where[row.cut.name].series,
            str(len(row.cut.removed)),
            row.task,
            row.readout,
            f"{row.n:,}",
            kept(row.kept_share).removesuffix(" %"),
            row.finding,
        ]
        for row in rows
    ]
    return Table(
        name="retention", caption="What is kept, with 95 % intervals", head=head, rows=cells,
        numeric=frozenset({2, 5}), raw=raw(rows),
    )  # fmt: skip
