"""All scores of a study, plan by plan, with intervals and findings: the tables of report.md."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from layercut.evidence.comparison import left_out
from layercut.report import words
from layercut.report.elements import Block, Details, Prose, Section, Table, plain
from layercut.report.html.prose import blocks, prose
from layercut.report.html.source import Source
from layercut.report.markdown import headline_lines, note_lines, score_lines
from layercut.report.rows import raw
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
        for block in blocks(
            score_lines(rows), name=f"scores-{run.name}", caption=f"{run.name} beside the original model, in %"
        ):
            if isinstance(block, Table):
                own.append(
                    Table(
                        name=block.name,
                        caption=block.caption,
                        head=_finding_first(block.head),
                        rows=[_finding_first([*row[:-1], _coloured(row[-1])]) for row in block.rows],
                        numeric=frozenset(place + 1 if place > 1 else place for place in block.numeric),
                        raw=raw(rows),
                    )
                )
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


def _finding_first(cells: Sequence[str]) -> list[str]:
    """The last column behind task and readout: on a narrow screen the numbers are scrolled to, the finding is not."""
    return [*cells[:2], cells[-1], *cells[2:-1]]


def _coloured(finding: str) -> Markup:
    kind = {"lost": "wrong", "damaged": "wrong", "kept": "right", "better": "right", "gained": "right"}.get(
        plain(finding), ""
    )
    return Markup('<span class="{}">{}</span>').format(kind, plain(finding))


def _list(lines: list[str]) -> Prose:
    html = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Prose(html=Markup('<ul class="notes">{}</ul>').format(html))
