"""What each layer is needed for: a row per layer, a plot over the depth, and all numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from layercut.evidence.diagnosis import Diagnosis, MeasureRow, layer_damages, over_models
from layercut.evidence.intervals import ALPHA, Estimate
from layercut.report import charts
from layercut.report.diagnosis import measure_column, measure_table
from layercut.report.elements import Block, Figure, Panel, Section, bullet_list
from layercut.report.table import Column, Table, terminal_table
from layercut.text import escape_inline, number_text

if TYPE_CHECKING:
    from layercut.report.source import Source

PLOT = "layers.png"
COLUMNS: Mapping[tuple[str, str], str] = {
    ("arithmetic", "written"): "sums written",
    ("arithmetic", "ranked"): "sums ranked",
    ("arithmetic", "log-probability"): "ln p of sums",
    ("brackets", "closed"): "closed",
    ("brackets", "next bracket"): "next bracket",
    ("brackets", "programs that parse"): "parses",
    ("brackets", "programs that pass"): "passes",
    ("degeneration", "loops"): "loops",
    ("degeneration", "Rep-4"): "Rep-4",
    ("propagation", "teacher-forced"): "first choice",
    ("propagation", "KL"): "KL",
}
"""Measures of the overview, and their names there."""
_UNITS = {"KL": "KL, nats a token", "log-probability": "ln p of the right answer"}
_UNCUT = "uncut"
_LAYER = Column("layer", lambda variant: variant.removeprefix("layer-"), numeric=True)
_LEGEND = (
    "Shares in %. first choice: tokens of the original model's right answers that stay the likeliest under teacher "
    "forcing. ln p of the right answer and KL in nats.",
    f"*: worse than uncut, p < {ALPHA} after Holm's correction over the layers of the column (McNemar's exact test, "
    "else sign flips).",
    "broke first: the largest share lost among the headline measures of a layer that stay significant after Holm's "
    "correction over all measures of that layer.",
)


def each_layer(source: Source) -> Section | None:
    """Make the section of the overview; None without a diagnosis of layers."""
    data = source.value
    if data is None:
        return None
    title = "Each layer skipped alone"
    figure = Figure(
        name="layers",
        title=title,
        panels=[
            _panel(
                [row for row, _ in over_models(data["diagnostics"][key[0]], key[1]).values()], name, data["num_layers"]
            )
            for key, name in columns_of(data["diagnostics"]).items()
        ],
        caption="Every point is the model without this one layer, with its 95 % interval; dashed: uncut.",
        table=layers_overview(data),
        picture=PLOT,
    )
    return Section(name="layers", title=title, lead=skipped_layers(data), blocks=(figure, bullet_list(_LEGEND)))


def layer_measures(source: Source) -> Section | None:
    """Make the section of all measures; None without a diagnosis of layers."""
    if source.value is None:
        return None
    diagnoses: Mapping[str, Diagnosis] = source.value["diagnostics"]
    columns = columns_of(diagnoses)
    blocks: list[Block] = []
    for name, diagnosis in diagnoses.items():
        rows = [row for row in diagnosis["rows"] if row.headline or ((name, row.metric) in columns and not row.group)]
        if rows:
            blocks.append(measure_table(rows, f"layers-{name}", name.capitalize()))
        if name == "propagation" and (of_kinds := token_table(source.value)):
            blocks.append(of_kinds)
        blocks.append(bullet_list(map(escape_inline, diagnosis["notes"])))
    return Section(name="measures", title="All measures", blocks=blocks)


def layers_overview(data: Mapping[str, Any]) -> Table:
    """A line for the original model and one for each layer, by name; the last column names the largest damage."""
    diagnoses: dict[str, Diagnosis] = data["diagnostics"]

    def broke_first(variant: str) -> str:
        broken = layer_damages(diagnoses, variant)
        nothing = "" if variant == _UNCUT else "-"
        return f"{broken[0].row.diagnostic}, {broken[0].row.label}" if broken else nothing

    measures = [
        measure_column(name, over_models(diagnoses[of], metric), _value, numeric=True)
        for (of, metric), name in columns_of(diagnoses).items()
    ]
    columns = [_LAYER, *measures, Column("broke first", broke_first)]
    rows = [_UNCUT, *(variant["name"] for variant in data["arms"][1:])]
    return Table(name="layers", caption="Each layer skipped alone", columns=columns, rows=rows)


def token_table(data: Mapping[str, Any]) -> Table | None:
    """A line for each layer: the extra loss of the original model's right answers by kind of token, if it was measured.

    Means of an answer's tokens, averaged over the n answers that have such a token.
    """
    diagnosis = data["diagnostics"].get("propagation", {"rows": []})
    kinds = {row.group: row.n for row in diagnosis["rows"] if row.metric == "extra loss" and row.group}
    of_kinds = [
        measure_column(f"{kind} (n {n})", over_models(diagnosis, "extra loss", kind), _value, numeric=True)
        for kind, n in kinds.items()
    ]
    rows = [variant["name"] for variant in data["arms"][1:]]
    caption = "Extra loss by kind of token, nats a token"
    return Table(name="layers-tokens", caption=caption, columns=[_LAYER, *of_kinds], rows=rows) if kinds else None


def skipped_layers(data: Mapping[str, Any]) -> str:
    """Name the skipped layers and the items, in a sentence."""
    return (
        f"{len(data['arms']) - 1} of {data['num_layers']} decoder layers, each skipped alone; at most {data['limit']} "
        f"items of each kind (--limit {data['limit']}), seed {data['seed']}, report items."
    )


def layers_table(data: Mapping[str, Any]) -> list[RenderableType]:
    """Blocks for the terminal, to be printed one after the other: the overview, and the layers without which something
    broke."""
    whole = layers_overview(data)
    *measures, broke_first = whole.columns
    tables: list[RenderableType] = [terminal_table(replace(whole, columns=measures), in_parts=True)]
    broken = [variant for variant in whole.rows if broke_first.value(variant) not in ("", "-")]
    if broken:
        tables.append(terminal_table(replace(whole, rows=broken, columns=[_LAYER, broke_first])))
    if of_kinds := token_table(data):
        tables += [Text(of_kinds.caption), terminal_table(of_kinds)]
    legend = _LEGEND if broken else _LEGEND[:-1]
    return [Text(skipped_layers(data)), *tables, Text("\n".join(legend), style="dim")]


def columns_of(diagnoses: Mapping[str, Diagnosis]) -> dict[tuple[str, str], str]:
    """The measures of the overview that were taken."""
    taken = {(name, row.metric) for name, diagnosis in diagnoses.items() for row in diagnosis["rows"] if not row.group}
    return {key: name for key, name in COLUMNS.items() if key in taken}


def _value(level: Estimate, row: MeasureRow) -> str:
    return number_text(level.value, share=True) if row.unit == "share" else f"{level.value:.2f}"


def _panel(rows: Sequence[MeasureRow], name: str, num_layers: int) -> Panel:
    """A measure without each layer, with 95 % intervals; dashed, the original model."""
    first = rows[0]
    times = 100.0 if first.unit == "share" else 1.0
    points = [charts.chart_point(row.values.cut, name, times, x=int(row.arm.removeprefix("layer-"))) for row in rows]
    uncut = times * first.values.uncut.value
    scale = "log" if first.metric == "KL" else "linear"  # the first layers are worth a hundred times the others
    values = [uncut, *(end for point in points for end in (point["y"], point["low"], point["high"]) if end is not None)]
    spec = charts.curve_chart(
        points,
        x_title="skipped layer",
        y_title=_UNITS.get(first.metric, "%"),
        x=(-0.5, num_layers - 0.5),
        y=(-4.0, 104.0) if first.unit == "share" else charts.axis_reach(values, scale),
        colours={name: charts.SERIES[0]},
        marks=() if scale == "log" else ((uncut, _UNCUT),),
        height=150,
        scale=scale,
    )
    return Panel(spec=spec, title=name, label=f"Line plot over layers: {name}.")
