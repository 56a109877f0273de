"""Sensitivity: the loss of every task when a single layer is skipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from layercut.evidence.completions import diagnose_sweep
from layercut.evidence.sweep import Sweep
from layercut.report.elements import Block, Details, Section
from layercut.report.figures.layers import layers
from layercut.report.html.prose import blocks, prose
from layercut.report.html.sections.endings import answer_details
from layercut.report.html.source import Source
from layercut.report.provenance import lineage_table
from layercut.report.sweep_text import agreement_parts, findings, how_made, layer_parts, overview_table, scope


def sensitivity(source: Source) -> Section | None:
    """A panel for each task, the agreement of tasks and criteria, and every layer in full."""
    sweep = source.sweep
    if sweep is None:
        return None
    found: list[Block] = []
    if source.study is not None:  # without a study these are the answer of the page
        found.append(prose([f"{scope(sweep)}.", "", *(f"- {line}" for line in findings(sweep))]))
    if figure := layers(sweep):
        table = overview_table(sweep)
        caption = table.caption + "; *: a significant loss over all layers"
        found.append(replace(figure, table=replace(table, caption=caption, raw=_raw(sweep))))
    found.append(prose([f"- {line}" for line in how_made(sweep)]))
    agreement = blocks(agreement_parts(sweep))
    found.append(Details(summary="Do tasks and criteria agree on the layers?", blocks=tuple(agreement)))
    if source.sweep_run is not None:
        found += answer_details(diagnose_sweep(source.sweep_run, sweep), model="layer")
    for curve in sweep.curves:
        full = blocks(layer_parts(curve, sweep))
        found.append(Details(summary=f"Every layer in full: {curve.label}", blocks=tuple(full)))
    if sweep.parent is not None and sweep.parent.lineage.matches:
        table = lineage_table(sweep.parent.lineage, "this model")
        found.append(Details(summary="Layers in the parent", blocks=(table,)))
    return Section(
        name="sensitivity",
        title="Each layer alone",
        short="Layers",
        lead="Retained score when one layer is skipped and all others are kept.",
        blocks=tuple(found),
    )


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
