"""How answers ended, whether long ones are lost more often, and what written ones look like."""

from __future__ import annotations

from collections.abc import Sequence

from layercut.evidence.completions import DiagnosedAnswers
from layercut.report.completions import TITLES, answer_parts, full_tables, study_answers
from layercut.report.elements import Block, Details, Section
from layercut.report.html.prose import blocks
from layercut.report.html.source import Source
from layercut.report.markdown import outcome_table
from layercut.report.study_tables import depth_section


def endings(source: Source) -> Section | None:
    """None without a study."""
    if source.study is None:
        return None
    rows = source.study.rows
    found: list[Block] = [Details(summary="Number of answers by how they ended", blocks=(outcome_table(rows),))]
    if depth := blocks(depth_section(rows)):
        found.append(Details(summary="Are long answers lost more often?", blocks=depth))
    found += answer_details(study_answers(source.study))
    return Section(
        name="endings",
        title="How the answers ended",
        short="Endings",
        lead="Wrong, missing, or cut short by the length limit; whether long answers suffer more than short ones, "
        "whether texts repeat themselves, and how programs fail.",
        blocks=tuple(found),
    )


def answer_details(cells: Sequence[DiagnosedAnswers], *, model: str = "model") -> list[Details]:
    """What stored answers look like and how programs fail, folded; see ``layercut.report.completions``."""
    found = []
    for diagnostic, title in TITLES.items():
        if parts := blocks(answer_parts(cells, diagnostic, model=model)):
            more = Details(summary="All measures", blocks=tuple(full_tables(cells, diagnostic)))
            found.append(Details(summary=title, blocks=(*parts, more)))
    return found
