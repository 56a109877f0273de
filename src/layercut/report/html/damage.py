"""Damage: the loss of every task without a single layer, and the diagnostics, each with its plot and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from layercut.evidence.completions import diagnose_sweep
from layercut.evidence.diagnosis import Diagnosis
from layercut.report.diagnosis.page import how_made, measure_table, summary
from layercut.report.diagnosis.sections import SECTIONS
from layercut.report.elements import Block, Details, Section
from layercut.report.figures.scores import layers
from layercut.report.html.answers import answer_details
from layercut.report.html.layout import blocks, prose
from layercut.report.source import Source
from layercut.report.sweep_text import agreement_parts, findings, layer_parts, overview_table, scope
from layercut.report.sweep_text import how_made as how_swept


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
        found.append(replace(figure, table=replace(table, caption=caption)))
    found.append(prose([f"- {line}" for line in how_swept(sweep)]))
    agreement = blocks(agreement_parts(sweep))
    found.append(Details(summary="Do tasks and criteria agree on the layers?", blocks=tuple(agreement)))
    if source.sweep_run is not None:
        found += answer_details(diagnose_sweep(source.sweep_run, sweep), model="layer")
    for curve in sweep.curves:
        full = blocks(layer_parts(curve))
        found.append(Details(summary=f"Every layer in full: {curve.label}", blocks=tuple(full)))
    return Section(
        name="sensitivity",
        title="Each layer alone",
        short="Layers",
        lead="Retained score when one layer is skipped and all others are kept.",
        blocks=tuple(found),
    )


def broken(source: Source) -> Section | None:
    """Make the section of diagnostics; None without a diagnosis."""
    data = source.diagnosis
    if data is None:
        return None
    diagnoses: Mapping[str, Diagnosis] = data["diagnostics"]
    arms = [arm["name"] for arm in data["arms"][1:]]
    found: list[Block] = []
    for arm in data["arms"][1:]:
        found.append(prose([f"**{arm['name']}**: {arm['describe']}.", "", *summary(diagnoses, arm["name"])]))
    for name, one in diagnoses.items():
        found += _diagnostic(name, one, arms, data["seed"])
    found.append(Details(summary="How to read this", blocks=tuple(blocks(how_made(data)))))
    return Section(
        name="broken",
        title="What exactly broke",
        short="Damage",
        lead="Each diagnostic asks the original and the pruned models the same questions.",
        blocks=tuple(found),
    )


def _diagnostic(name: str, found: Diagnosis, arms: Sequence[str], seed: int) -> list[Block]:
    section = SECTIONS[name]
    caption = f"{section.title}: all measures, shares in %" if found["rows"] else section.title
    table = measure_table(found["rows"], name, caption)
    text = [*section.lines(found), "", *(f"- {note}" for note in found["notes"])]
    more = blocks(text)
    figure = section.figure(found, arms)
    shown: list[Block] = [prose(f"**{section.title}.** {section.question}"), table]
    if figure is not None:
        own = table if figure.table is None else replace(figure.table, name=table.name)
        caption = f"{section.question} {figure.caption} Seed {seed}."
        shown = [replace(figure, name=table.name, title=section.title, caption=caption, table=own)]
    return [*shown, *more] if table.rows or figure is not None or more else []
