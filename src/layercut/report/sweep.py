"""A sweep in words, tables and a plot: the loss of every task without each layer, for reports and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.sweep import Curve, Sweep
from layercut.report import charts, words
from layercut.report.answers import program_tables
from layercut.report.elements import (
    Block,
    Cell,
    Column,
    Facts,
    Figure,
    Key,
    Lead,
    Panel,
    Section,
    Styled,
    Table,
    bullet_list,
    terminal_table,
)
from layercut.report.source import Source
from layercut.runs.directory import RunFolder
from layercut.surgery.plan import CutPlan
from layercut.text import count_of, escape_inline, format_layers

if TYPE_CHECKING:
    from rich.console import RenderableType


def sweep_answer(source: Source) -> Section:
    """Make the section of the findings."""
    sweep: Sweep = source.value
    findings = bullet_list(map(escape_inline, sweep_findings(sweep)))
    scope = [("model", escape_inline(source.model)), ("measured", escape_inline(sweep_scope(sweep)))]
    blocks: list[Block] = [Lead(findings), Facts(scope)]
    return Section(name="answer", title="Which layers matter?", short="Answer", blocks=blocks)


def sensitivity_section(source: Source) -> Section:
    """A panel for each task, and how programs fail."""
    sweep: Sweep = source.value
    how = bullet_list(map(escape_inline, how_sweep_made(sweep)))
    blocks: list[Block] = [layers_figure(sweep) or overview_table(sweep), how]
    blocks += program_tables(_records_by_layer(source.runs[0], sweep), "layer")
    return Section(
        name="sensitivity",
        title="Each layer alone",
        short="Layers",
        lead="Retained score when one layer is skipped and all others are kept.",
        blocks=blocks,
    )


def _records_by_layer(run: RunFolder, sweep: Sweep) -> dict[tuple[str, str], dict[str, list[dict[str, Any]]]]:
    """By task and readout, the records of the original model and of the model without each layer."""
    names = {CutPlan(num_layers=sweep.num_layers, removed=(layer,)).key: str(layer) for layer in sweep.layers}
    names = {CutPlan(num_layers=sweep.num_layers).key: "uncut", **names}
    cells = {}
    for curve in sweep.curves:
        of_plans: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
        # sweep.json alone makes the rest of the report; a search in the same folder has other plans.
        for record in run.records(curve.task, curve.readout) if run.has_records(curve.task, curve.readout) else []:
            plan = CutPlan(num_layers=sweep.num_layers, removed=tuple(record["key"]["removed"])).key
            if plan in names and record.get("finish_reason") != "settled":
                of_plans[names[plan]].append(record)
        cells[curve.task, curve.readout] = of_plans
    return cells


def sweep_tables(sweep: Sweep) -> list[RenderableType]:
    """Tables and lines for the terminal, to be printed one after the other."""
    findings = (Text(f"- {line}") for line in sweep_findings(sweep))
    how = Padding(Text("\n".join(how_sweep_made(sweep)), style="dim"), (1, 0, 0, 0))
    return [Text(), Text(sweep_scope(sweep)), terminal_table(overview_table(sweep)), *findings, how]


def sweep_scope(sweep: Sweep) -> str:
    """Name the skipped layers and the items, in one line."""
    first = [curve.rows[0] for curve in sweep.curves]
    skipped = f"{count_of(len(sweep.layers), 'decoder layer')} of {sweep.num_layers} skipped alone"
    items = words.items_words([row.n for row in first], [row.limit for row in first])
    return f"{skipped} ({format_layers(sweep.layers)}), {items}, selection items"


def sweep_findings(sweep: Sweep) -> list[str]:
    """A sentence on each task and readout: where a loss is significant."""
    lines = []
    for curve in sweep.curves:
        num_layers = count_of(len(curve.rows), "layer")
        start = f"{curve.label}, uncut {words.score_words(curve.rows[0].values.uncut.value, _is_share(curve), 0)}"
        significant = sorted(curve.significant)
        text = f"a significant loss over all layers (*) at none of {num_layers}"
        if curve.refused:
            text = f"no retention, because {curve.refused}"
        elif significant:
            text = f"a significant loss (*) at {len(significant)} of {num_layers} ({format_layers(significant)})"
        lines.append(f"{start}: {text}.")
    return lines


def _is_share(curve: Curve) -> bool:
    """Return True where scores are shown in percent: all of them lie between 0 and 1."""
    return all(0 <= value <= 1 for row in curve.rows for value in (row.values.uncut.value, row.values.cut.value))


def how_sweep_made(sweep: Sweep) -> list[str]:
    """Meaning of the numbers, one sentence each."""
    lines = [
        "Kept above chance in %: (without the layer - chance) / (uncut - chance) on the same items, with 95 % "
        f"intervals ({NUM_RESAMPLES:,} resamples, seed {sweep.rows[0].seed}); about 1 in 20 of them misses by chance.",
        "*: a significant loss over all layers of a column, p < 0.05 after Holm's correction.",
    ]
    if any(row.chance is None for row in sweep.rows):
        lines.append("Where a task has no chance level, retention is without the layer / uncut.")
    return lines


def overview_table(sweep: Sweep) -> Table:
    """The retention without each layer, a line for each layer."""
    return Table(
        name="layers",
        caption="Kept above chance without each layer, in %; bold: a loss whose whole interval lies below 0; *: a "
        "significant loss over all layers",
        columns=[Column("layer", str, numeric=True), *(_of_curve(curve) for curve in sweep.curves)],
        rows=sweep.layers,
    )


def _of_curve(curve: Curve) -> Column:
    by_layer, significant = {row.layer: row for row in curve.rows}, curve.significant

    def value(layer: int) -> Cell:
        row, star = by_layer[layer], "*" * (layer in significant)
        text = words.retained_words(row.kept_share)
        return Styled(text, "strong", star) if row.shows_loss and row.kept_share else text + star

    return Column(curve.label, value)


def layers_figure(sweep: Sweep) -> Figure | None:
    """A panel for each task and a line for each readout; None where no task is above chance."""
    by_task: dict[str, list[Curve]] = {}
    for curve in sweep.curves:
        if not curve.refused:
            by_task.setdefault(curve.task, []).append(curve)
    if not by_task:
        return None
    drawn = [curve for curves in by_task.values() for curve in curves]
    n = ", ".join(map(str, sorted({curve.rows[0].n for curve in drawn})))
    return Figure(
        name="layers",
        title="Score kept above chance without one layer",
        panels=[_layers_panel(curves, sweep) for curves in by_task.values()],
        caption=(
            "Every point is the model without this one layer. 100 % is the original model, 0 % is guessing. Bands: "
            f"95 % intervals over the same selection items (n {n}, seed {sweep.rows[0].seed}). Filled points: a "
            "significant loss over all layers (p < 0.05 after Holm's correction). Open points: no significant loss."
        ),
        legend=[
            *(
                Key(
                    label=words.readout_words(readout),
                    colour=charts.readout_colour(readout),
                    dash=" ".join(map(str, charts.readout_dash(readout))),
                )
                for readout in dict.fromkeys(curve.readout for curve in drawn)
            ),
        ],
        columns=1,
        table=overview_table(sweep),
    )


def _layers_panel(curves: Sequence[Curve], sweep: Sweep) -> Panel:
    points: list[charts.Spec] = []
    for curve in curves:
        name, significant = words.readout_words(curve.readout), curve.significant
        points += [
            {
                **charts.percent_point(row.kept_share),
                "x": row.layer,
                "series": name,
                "part": f"{name} {row.layer - place}",  # no line runs over layers that were not skipped
                "hollow": row.layer not in significant,
            }
            for place, row in enumerate(curve.rows)
            if row.kept_share is not None
        ]
    readouts = {words.readout_words(curve.readout): curve.readout for curve in curves}
    label = "; ".join(
        f"{curve.label}: a loss stands at {len(curve.significant)} of {count_of(len(curve.rows), 'layer')}"
        for curve in curves
    )
    return charts.kept_share_panel(
        points,
        curves[0].task,
        f"Line plot over layers. {label}.",
        x_title="skipped decoder layer",
        x=(sweep.layers[0] - 0.5, sweep.layers[-1] + 0.5),
        colours={name: charts.readout_colour(readout) for name, readout in readouts.items()},
        dashes={name: charts.readout_dash(readout) for name, readout in readouts.items()},
        bands=True,
    )
