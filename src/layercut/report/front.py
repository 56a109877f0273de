"""The front: plans and other models on the same report items, by the bytes of their weights and by what they keep.

A model is on the front where no other one with fewer bytes keeps as much, of its worst task each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layercut.report.cells import share_cell, task_cell, verdict_cell
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.report.table import Cell, Table, texts
from layercut.runs.disk import size
from layercut.runs.prune import least_kept
from layercut.text.counting import counted
from layercut.text.numbers import number

if TYPE_CHECKING:
    from layercut.runs.prune import Alternative, PruneResult, TestedDepth

PLANS, OTHERS, BEHIND = "plans", "other models", "not on the front"


class Weighed(NamedTuple):
    """One model of the front."""

    label: str
    found: TestedDepth | Alternative
    disk_bytes: int
    change: float
    """Of the bytes, as a share of the original model's."""
    series: str
    on_front: bool


def weighed(result: PruneResult) -> list[Weighed]:
    """Every tested plan and every other model, the largest first; empty where no other model was named."""
    if not result.versus:
        return []
    every: list[tuple[str, TestedDepth | Alternative, str]] = [
        (f"{one.label}, {one.healing}" if one.healing else one.label, one, PLANS) for one in result.tested
    ]
    every += [(one.model, one, OTHERS) for one in result.versus]
    uncut = result.size["uncut"].disk_bytes
    models = []
    for label, one, series in every:
        own, num_bytes = least_kept(one.kept), one.disk_bytes or 0
        others = [(other.disk_bytes or 0, least_kept(other.kept)) for _, other, _ in every if other is not one]
        is_beaten = own is None or any(
            known is not None and known.value >= own.value and fewer < num_bytes for fewer, known in others
        )
        models.append(Weighed(label, one, num_bytes, num_bytes / uncut - 1, series, not is_beaten))
    return sorted(models, key=lambda one: -one.disk_bytes)


def front_table(result: PruneResult) -> Table:
    """A row for each model and task."""
    rows: list[list[Cell]] = [
        [
            one.label,
            f"{size(one.disk_bytes)} ({100 * one.change:+.0f} %)",
            task_cell(kept.task, kept.readout),
            share_cell(kept),
            "-" if kept.bound is None else f"{number(kept.bound)} %",
            verdict_cell(one.found.passed, one.found.verdict),
            "yes" if one.on_front else "no",
        ]
        for one in weighed(result)
        for kept in one.found.kept
    ]
    names = ("model", "weights", "task", "report items", "at least", "verdict", "front")
    caption = "Plans and other models on the same report items, with 95 % intervals"
    columns = texts(*names, numeric=["weights", "at least"], narrow={"at least": [1]})
    return Table(name="front", caption=caption, columns=columns, rows=rows)


def front_figure(result: PruneResult) -> Figure | None:
    """What each model keeps against its bytes, a panel for each task; None where no other model was named."""
    models = weighed(result)
    if not models:
        return None
    colours = {PLANS: charts.SERIES[0], OTHERS: charts.SERIES[1], BEHIND: "var(--line)"}
    reach = charts.reach([100 * one.change for one in models] + [0.0])
    panels = []
    for task in result.goal.tasks:
        points = [
            charts.marked(
                charts.ends(kept.kept),
                one.series if one.on_front else BEHIND,
                part=one.label,
                about={"model": one.label, "weights": size(one.disk_bytes), "keeps": share_cell(kept)},
                x=round(100 * one.change, 2),
            )
            for one in models
            for kept in one.found.kept
            if (kept.task, kept.readout) == (task.task, task.readout) and kept.kept is not None
        ]
        spec = charts.curves(
            points,
            x_title="bytes of the weights, % of the original model's",
            y_title="kept above chance, %",
            x=reach,
            y=(charts.KEPT_LOW, charts.KEPT_HIGH),
            colours=colours,
            marks=((100 * result.goal.keep, "goal"),),
        )
        panels.append(Panel(spec=spec, label=f"Plot of what each model keeps of {task.task}.", title=task.task))
    return Figure(
        name="front",
        title="What each model keeps, against its bytes",
        panels=panels,
        caption=f"Report items, 95 % intervals, seed {result.seed}; the further left, the smaller. "
        + versus_words(result),
        columns=min(2, len(panels)),
        legend=[Key(label=name, colour=colour, line=False) for name, colour in colours.items()],
        table=front_table(result),
    )


def versus_words(result: PruneResult) -> str:
    """How the other models were tested."""
    level = result.versus[0].level
    return (
        f"Each of the {counted(len(result.versus), 'other model')} is tested at {level:.1%}: all together err in at "
        "most 5 % of all cases, and so do the plans. GGUF files run in llama.cpp. On the front: no other one with "
        "fewer bytes keeps as much."
    )
