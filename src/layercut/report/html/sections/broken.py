"""What exactly is damaged: the diagnostics of `layercut diagnose`, each with its plot and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from layercut.evidence.diagnosis import Diagnosis
from layercut.report.diagnosis.page import how_made, layers_in_parent, measure_table, raw_measures, summary
from layercut.report.diagnosis.sections import SECTIONS
from layercut.report.elements import Block, Details, Section
from layercut.report.html.prose import blocks, prose
from layercut.report.html.source import Source


def broken(source: Source) -> Section | None:
    """None without a diagnosis."""
    data = source.diagnosis
    if data is None:
        return None
    diagnoses: Mapping[str, Diagnosis] = data["diagnostics"]
    arms = [arm["name"] for arm in data["arms"][1:]]
    found: list[Block] = []
    for arm in data["arms"][1:]:
        found.append(prose([f"**{arm['name']}**: {arm['describe']}.", "", *summary(diagnoses, arm["name"])]))
        if table := layers_in_parent(arm):
            found.append(Details(summary=table.caption, blocks=(table,)))
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
    table = measure_table(found["rows"], name, f"{section.title}: all measures, shares in %")
    table = replace(table, raw=raw_measures(found["rows"])) if found["rows"] else replace(table, caption=section.title)
    text = [*section.lines(found), "", *(f"- {note}" for note in found["notes"])]
    more = blocks(text)
    figure = section.figure(found, arms)
    shown: list[Block] = [prose(f"**{section.title}.** {section.question}"), table]
    if figure is not None:
        own = table if figure.table is None else replace(figure.table, name=table.name)
        caption = f"{section.question} {figure.caption} Seed {seed}."
        shown = [replace(figure, name=table.name, title=section.title, caption=caption, table=own)]
    return [*shown, *more] if table.rows or figure is not None or more else []
