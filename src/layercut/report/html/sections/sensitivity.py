"""Sensitivity: what every task loses when one layer alone is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layercut.report import words
from layercut.report.html import charts
from layercut.report.html.elements import Block, Details, Figure, Key, Panel, Section, Table
from layercut.report.html.prose import blocks, prose
from layercut.report.html.rows import kept
from layercut.report.html.source import Source
from layercut.report.numbers import number, p_value
from layercut.report.sweep import Curve, Sweep, SweepRow
from layercut.report.sweep_agreement import agreement_lines
from layercut.report.sweep_plot import unbroken
from layercut.report.sweep_text import facts, findings, how_made, layer_lines, overview_lines
from layercut.runs.counting import counted


def sensitivity(source: Source) -> Section | None:
    """A panel for each task, the agreement of tasks and criteria, and every layer in full."""
    sweep = source.sweep
    if sweep is None:
        return None
    found: list[Block] = []
    if source.study is not None:  # without a study these are the answer of the page
        found.append(prose([f"{facts(sweep)}.", "", *(f"- {line}" for line in findings(sweep))]))
    if any(not curve.refused for curve in sweep.curves):
        found.append(_figure(sweep))
    found.append(prose([f"- {line}" for line in how_made(sweep)]))
    agreement = blocks(agreement_lines(sweep), name="agreement", caption="Do tasks and criteria agree on the layers?")
    found.append(Details(summary="Do tasks and criteria agree on the layers?", blocks=tuple(agreement)))
    for curve in sweep.curves:
        name = f"layers-{curve.task}-{curve.readout}"
        full = blocks(layer_lines(curve), name=name, caption=f"{curve.label}: every layer in full, scores in %")
        found.append(Details(summary=f"Every layer in full: {curve.label}", blocks=tuple(full)))
    return Section(
        name="sensitivity",
        title="Each layer alone",
        lead="What is kept when one layer is skipped and all others stay.",
        blocks=tuple(found),
    )


def _figure(sweep: Sweep) -> Figure:
    drawn = [curve for curve in sweep.curves if not curve.refused]
    tasks = list(dict.fromkeys(curve.task for curve in drawn))
    used = list(dict.fromkeys(curve.readout for curve in drawn))
    n = sorted({curve.rows[0].values.uncut.n for curve in drawn})
    overview = blocks(overview_lines(sweep), name="layers", caption="Kept above chance without each layer, in %")
    table = next(block for block in overview if isinstance(block, Table))
    table = Table(
        name=table.name,
        caption=table.caption + "; *: a loss that stands among all layers",
        head=table.head,
        rows=table.rows,
        numeric=table.numeric,
        raw=_raw(sweep),
    )
    return Figure(
        name="layers",
        title="Score kept above chance without one layer",
        panels=[_panel([curve for curve in drawn if curve.task == task], sweep) for task in tasks],
        caption=(
            "Every point is the model without this one layer; 100 % is the uncut model, 0 % is guessing. Bands: 95 % "
            f"intervals over the same {sweep.split} items (n {', '.join(map(str, n))}, seed {sweep.rows[0].seed}). "
            "Filled points: a loss that stands when all layers are judged together (p < 0.05 after Holm). Open points: "
            "none is shown."
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
            Key(label="loss stands among all layers", colour="var(--soft)", line=False),
            Key(label="not shown", colour="var(--soft)", line=False, hollow=True),
        ],
        table=table,
        columns=1,
    )


def _panel(curves: Sequence[Curve], sweep: Sweep) -> Panel:
    points: list[dict[str, Any]] = []
    for curve in curves:
        adjusted, stands = curve.p_adjusted, curve.significant
        name = words.readout_words(curve.readout)
        for number_of_part, part in enumerate(unbroken(curve.rows)):
            for row in part:
                assert row.kept_share is not None
                points.append(
                    {
                        "x": row.layer,
                        **charts.ends(row.kept_share),
                        "series": name,
                        "part": f"{name} {number_of_part}",
                        "hollow": row.layer not in stands,
                        "about": _about(row, adjusted[row.layer]),
                    }
                )
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
        bars=False,
    )
    label = "; ".join(_told(curve) for curve in curves)
    return Panel(spec=spec, title=curves[0].task, label=f"Line plot over layers. {label}.")


def _told(curve: Curve) -> str:
    least = min((row for row in curve.rows if row.kept_share), key=lambda row: row.values.cut.value)
    return (
        f"{curve.label}: a loss stands at {len(curve.significant)} of "
        f"{counted(len(curve.rows), 'layer')}; the least is kept "
        f"without layer {least.layer}: {kept(least.kept_share)}"
    )


def _about(row: SweepRow, p: float) -> dict[str, str]:
    share = all(0 <= value <= 1 for value in (row.values.uncut.value, row.values.cut.value))
    before, after = (number(one.value, share=share, digits=1) for one in (row.values.uncut, row.values.cut))
    unit = " %" if share else ""
    swapped = "" if row.values.lost is None else f"; lost/gained {row.values.lost}/{row.values.gained}"
    return {
        "without layer": str(row.layer),
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        "kept": kept(row.kept_share),
        "score": f"{before}{unit} uncut, {after}{unit} without it",
        "items": f"n {row.values.cut.n:,}{swapped}",
        "p (Holm)": p_value(p),
    }


def _raw(sweep: Sweep) -> list[list[Any]]:
    head = ["layer", "task", "readout", "metric", "n", "chance", "uncut", "cut", "kept", "kept_low", "kept_high"]
    lines: list[list[Any]] = [[*head, "p_value", "p_holm", "seed"]]
    for curve in sweep.curves:
        adjusted = curve.p_adjusted
        for row in curve.rows:
            share = row.kept_share
            ends = ["", "", ""] if share is None else [share.value, share.low, share.high]
            cells = [row.layer, row.task, row.readout, row.metric, row.values.cut.n, row.chance]
            cells += [row.values.uncut.value, row.values.cut.value, *ends]
            cells += [row.values.p_value, adjusted[row.layer], row.seed]
            lines.append(["" if cell is None else cell for cell in cells])
    return lines
