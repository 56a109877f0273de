"""layers.md: what each layer is needed for. A line per layer, a picture over the depth, and all numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from layercut.evidence.multiplicity import holm
from layercut.report.diagnosis.drawing import COLOURS, MARKERS, canvas, label, save, tidy
from layercut.report.diagnosis.page import provenance_lines, table_lines
from layercut.report.diagnosis.verdict import ALPHA, damages, is_worse, load
from layercut.report.markup import escape
from layercut.report.numbers import number
from layercut.report.ranking import plain_table
from layercut.runs.atomic import write_text
from layercut.runs.diagnosis import Diagnosis, MeasureRow
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home

LAYERS_FILE, REPORT, PLOT = "layers.json", "layers.md", "layers.png"
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
    ("similarity", "final state"): "final cosine",
}
"""Measures of the overview, and their names there."""
MOST_COLUMNS = 7
"""Measures beside each other in the terminal."""
_UNITS = {"KL": "KL, nats a token", "final state": "cosine", "log-probability": "ln p of the right answer"}
_UNCUT = "uncut"


def arm_name(layer: int) -> str:
    """The name of the model without a layer."""
    return f"layer-{layer}"


def layers_report(folder: Path) -> Path:
    """Write layers.md and its picture again from what the run folder holds; gives the path of layers.md.

    Raises:
        InputError: no run folder, or no diagnosis of layers in it.
    """
    run = RunFolder.open(folder)
    data = load(run.path, LAYERS_FILE)
    drawn = save(partial(figure, data), run.path / PLOT)
    write_text(run.path / REPORT, render(data, run, PLOT if drawn else None))
    return run.path / REPORT


def render(data: Mapping[str, Any], run: RunFolder, picture: str | None) -> str:
    """The text of layers.md."""
    diagnoses: dict[str, Diagnosis] = data["diagnostics"]
    columns = columns_of(diagnoses)
    lines = [f"# What each layer of {escape(hide_home(data['model']))} is needed for", "", facts(data), ""]
    lines += ["| layer | " + " | ".join(columns.values()) + " | broke first |"]
    lines += ["|---:|" + "---:|" * len(columns) + "---|"]
    for cells in table_rows(data):
        lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    lines += ["", *([f"![Over the layers]({picture})", ""] if picture else []), *(f"- {line}" for line in legend()), ""]
    for name, found in diagnoses.items():
        rows = [row for row in found["rows"] if row["headline"] or (name, row["measure"]) in columns]
        shown = [row for row in rows if not row["group"] or row["headline"]]
        lines += [f"## {name.capitalize()}", "", *table_lines(shown), *(f"- {escape(note)}" for note in found["notes"])]
        lines.append("")
    return "\n".join([*lines, *provenance_lines(run)]) + "\n"


def facts(data: Mapping[str, Any]) -> str:
    """What was skipped and asked, in a sentence."""
    return (
        f"{len(data['arms']) - 1} of {data['num_layers']} decoder layers, each skipped alone; at most {data['limit']} "
        f"items of each kind (--limit {data['limit']}), seed {data['seed']}, report items."
    )


def legend() -> list[str]:
    """How the overview is read."""
    return [
        "Shares in %; first choice: tokens of the uncut model's right answers that stay the likeliest ones when all "
        "before them is given; ln p of the right answer and KL in nats; final cosine: of the last hidden states.",
        f"*: worse than uncut, p < {ALPHA} after Holm's correction over the layers of the column (McNemar's exact "
        "test, else sign flips).",
        "broke first: the largest share lost among the headline measures of a layer that stand after Holm's correction "
        "over all of that layer's.",
    ]


def layers_table(data: Mapping[str, Any]) -> list[RenderableType]:
    """What the terminal shows, to be printed one after the other: tables of so few measures that 80 columns hold them,
    the last one with what broke first."""
    names, lines = list(columns_of(data["diagnostics"]).values()), table_rows(data)
    tables = []
    for start in range(0, len(names), MOST_COLUMNS):
        part = slice(start, start + MOST_COLUMNS)
        is_last = part.stop >= len(names)
        table: Table = plain_table()
        for name in ("layer", *names[part]):
            table.add_column(name, justify="right")
        if is_last:
            table.add_column("broke first")
        for layer, *values, first in lines:
            table.add_row(layer, *values[part], *([first] if is_last else []))
        tables.append(table)
    return [Text(facts(data)), *tables, Text("\n".join(legend()), style="dim")]


def columns_of(diagnoses: Mapping[str, Diagnosis]) -> dict[tuple[str, str], str]:
    """The measures of the overview that were taken."""
    taken = {(name, row["measure"]) for name, found in diagnoses.items() for row in found["rows"] if not row["group"]}
    return {key: words for key, words in COLUMNS.items() if key in taken}


def table_rows(data: Mapping[str, Any]) -> list[list[str]]:
    """A row of the overview for the uncut model and one for each layer."""
    diagnoses: dict[str, Diagnosis] = data["diagnostics"]
    columns = {key: _column(diagnoses, key) for key in columns_of(diagnoses)}
    first = [next(iter(rows.values()))[0] for rows in columns.values()]
    lines = [[_UNCUT, *(_value(row, "uncut") for row in first), ""]]
    for arm in data["arms"][1:]:
        cells = []
        for rows in columns.values():
            row, stands = rows[arm["name"]]
            cells.append(_value(row, "cut") + "*" * stands)
        broken = damages(diagnoses, arm["name"])
        what = f"{broken[0].row['diagnostic']}, {label(broken[0].row)}" if broken else "-"
        lines.append([arm["name"].removeprefix("layer-"), *cells, what])
    return lines


def _column(diagnoses: Mapping[str, Diagnosis], key: tuple[str, str]) -> dict[str, tuple[MeasureRow, bool]]:
    """By arm, the row of a measure and whether its loss stands among all layers."""
    rows = [row for row in diagnoses[key[0]]["rows"] if row["measure"] == key[1] and not row["group"]]
    adjusted = holm([row["p_value"] for row in rows])
    return {row["arm"]: (row, is_worse(row) and p < ALPHA) for row, p in zip(rows, adjusted, strict=True)}


def _value(row: MeasureRow, side: str) -> str:
    value = row[side][0]  # type: ignore[literal-required]
    return number(value, share=True) if row["unit"] == "share" else f"{value:.2f}"


def figure(data: Mapping[str, Any]) -> Figure | None:
    """A panel for each diagnostic: what is left without each layer, with 95 % intervals; dotted, the uncut model."""
    diagnoses: dict[str, Diagnosis] = data["diagnostics"]
    columns = columns_of(diagnoses)
    panels: dict[str, list[tuple[str, str]]] = {}
    for diagnostic, measure in columns:
        unit = _UNITS.get(measure, "%")
        panels.setdefault(f"{diagnostic}, {unit}", []).append((diagnostic, measure))
    if not panels:
        return None
    size, margin = 1.5, 0.5
    height = 0.35 + len(panels) * (size + margin)
    picture = canvas(height)
    for place, (title, keys) in enumerate(panels.items()):
        bottom = height - (place + 1) * (size + margin) + 0.3
        axes = picture.add_axes((0.07, bottom / height, 0.72, (size - 0.1) / height))
        for index, key in enumerate(keys):
            _curve(axes, list(_column(diagnoses, key).values()), columns[key], index)
        if ("propagation", "KL") in keys:
            axes.set_yscale("log")  # the first layers are worth a hundred times the others
        if title.endswith("%"):
            axes.set_ylim(-4, 104)
        axes.set_title(title, fontsize=9, loc="left")
        axes.set_xlim(-0.7, data["num_layers"] - 0.3)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        tidy(axes)
    axes.set_xlabel("layer that is skipped", fontsize=9)
    return picture


def _curve(axes: Any, rows: Sequence[tuple[MeasureRow, bool]], name: str, index: int) -> None:
    scale = 100.0 if rows[0][0]["unit"] == "share" else 1.0
    layers = [int(row["arm"].removeprefix("layer-")) for row, _ in rows]
    values = [scale * (row["cut"][0] or 0.0) for row, _ in rows]
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    axes.plot(layers, values, color=colour, marker=marker, markersize=3.5, linewidth=1.1, label=name)
    for layer, (row, _) in zip(layers, rows, strict=True):
        _, low, high = row["cut"]
        if low is not None and high is not None:
            axes.vlines(layer, scale * low, scale * high, color=colour, linewidth=0.8, alpha=0.6)
    uncut = scale * (rows[0][0]["uncut"][0] or 0.0)
    if uncut or axes.get_yscale() != "log":
        axes.axhline(uncut, color=colour, linestyle=":", linewidth=0.9)
