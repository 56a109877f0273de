"""Retention without each layer: a panel for each task, a line for each readout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layercut.evidence.sweep import Curve, Sweep, SweepRow
from layercut.report import words
from layercut.report.comparison import kept
from layercut.report.elements import Figure, Key, Panel
from layercut.report.figures import charts
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value


def layers(sweep: Sweep) -> Figure | None:
    """None where no task is above chance."""
    drawn = [curve for curve in sweep.curves if not curve.refused]
    if not drawn:
        return None
    tasks = list(dict.fromkeys(curve.task for curve in drawn))
    used = list(dict.fromkeys(curve.readout for curve in drawn))
    n = sorted({curve.rows[0].values.uncut.n for curve in drawn})
    return Figure(
        name="layers",
        title="Score kept above chance without one layer",
        panels=[_panel([curve for curve in drawn if curve.task == task], sweep) for task in tasks],
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
                        "about": {"without layer": sweep.label(row.layer), **_about(row, adjusted[row.layer])},
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


def _about(row: SweepRow, p: float) -> dict[str, str]:
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
