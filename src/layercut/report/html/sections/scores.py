"""All scores of a study, plan by plan, with intervals and findings: the tables of report.md."""

from __future__ import annotations

from dataclasses import replace

from markupsafe import Markup

from layercut.evidence.comparison import left_out
from layercut.report import words
from layercut.report.elements import Block, Details, Prose, Section, Table, plain
from layercut.report.html.prose import prose
from layercut.report.html.source import Source
from layercut.report.markdown import headline_lines, note_lines, score_table
from layercut.text.counting import counted

MOST_OPEN = 4
"""With more plans than these, the plans are folded."""


def scores(source: Source) -> Section | None:
    """A headline and a table for each plan; the CSV of a table holds every number unrounded."""
    study = source.study
    if study is None:
        return None
    found: list[Block] = []
    for run in study.cuts:
        rows = [row for row in study.rows if row.cut.name == run.name]
        own: list[Block] = [prose(headline_lines(run.name, rows))]
        own.append(_finding_first(score_table(rows)))
        if len(study.cuts) > MOST_OPEN:
            found.append(Details(summary=f"{run.name}: {words.summary(rows)}", blocks=tuple(own)))
        else:
            found += own
    notes = [*study.failed, *left_out(study.uncut, study.cuts), *note_lines(study.rows)]
    meaning = [
        "-/+: items lost and gained. p: McNemar's exact test; sign flips for scores that are not 0/1 or items that "
        f"share a context. Holm: p corrected for all {counted(len(study.rows), 'row')}; findings use it.",
        *(f"{name}: {meaning}." for name, meaning in words.FINDINGS.items()),
        *words.how_made(study.rows),
        *notes,
    ]
    return Section(
        name="scores",
        title="Scores of every plan",
        lead="Losses, retained scores, and comparisons with too few items to tell.",
        blocks=(*found, _list(meaning)),
    )


def _finding_first(table: Table) -> Table:
    """The last column behind task and readout: on a narrow screen the numbers are scrolled to, the finding is not."""
    head, *rows = ([*row[:2], row[-1], *row[2:-1]] for row in (table.head, *table.rows))
    return replace(
        table, head=[plain(cell) for cell in head], rows=rows, numeric=frozenset(place + 1 for place in table.numeric)
    )


def _list(lines: list[str]) -> Prose:
    html = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Prose(html=Markup('<ul class="notes">{}</ul>').format(html))
