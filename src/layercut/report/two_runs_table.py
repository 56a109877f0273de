"""Two runs side by side, as a table for the terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.padding import Padding
from rich.text import Text

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.means import form_means
from layercut.evidence.two_runs import verdict
from layercut.report import readouts, words
from layercut.report.completions import TITLES, answer_parts
from layercut.report.elements import Cell, Styled, Table
from layercut.report.render import terminal
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value, with_interval

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.evidence.completions import DiagnosedAnswers
    from layercut.evidence.means import TaskMean
    from layercut.report.readouts import Discordance

_STYLES: dict[str, Literal["right", "wrong", "faint"]] = {"better": "right", "worse": "wrong", "not shown": "faint"}


def two_runs_table(rows: Sequence[ComparisonRow], notes: Sequence[str] = ()) -> list[RenderableType]:
    """A line for each task, readout and metric, and what the numbers mean; to be printed one after the other."""
    first, second = rows[0].uncut, rows[0].cut
    scope = [f"A: {first.name}, {words.removal(first)}", f"B: {second.name}, {words.removal(second)}"]
    scope.append(words.items([row.n for row in rows], [row.limit for row in rows]))
    scope += [f"items: {sets}"] if (sets := words.test_sets(rows)) else []
    legend = [
        f"{words.scores_in(row.is_share for row in rows)}. B - A on the same items, 95 % intervals by a Bayesian "
        f"bootstrap ({NUM_RESAMPLES:,} resamples, seed {rows[0].seed}). -/+: items that only A or only B gets right.",
        f"p: of no difference, corrected for all {counted(len(rows), 'row')} (Holm). better, worse: B "
        "beside A, p < 0.05 and an "
        "interval without 0.",
        *(f"note: {note}" for note in [*notes, *dict.fromkeys(row.note for row in rows if row.note)]),
    ]
    return [
        Text("\n".join(["", *scope])),
        _table(rows),
        *(Text(f"{mean.words}: {_beside(mean.mean)}") for mean in form_means(rows)),
        Padding(Text("\n".join(legend), style="dim"), (1, 0, 0, 0)),
    ]


def answer_tables(cells: Sequence[DiagnosedAnswers]) -> list[RenderableType]:
    """What the written answers look like, and how programs fail; nothing where there are none."""
    blocks: list[RenderableType] = []
    for diagnostic, title in TITLES.items():
        if parts := [part for part in answer_parts(cells, diagnostic) if part]:
            shown = (Text(re.sub(r"\*\*|\\", "", one)) if isinstance(one, str) else terminal(one) for one in parts)
            blocks += [Text(f"\n{title}"), *shown]
    return blocks


def discordance_table(found: Sequence[Discordance]) -> RenderableType:
    """Two readouts of the same items, for each run."""
    return terminal(readouts.discordance_table(found))


def _beside(mean: TaskMean) -> str:
    scores = f"A {number(mean.uncut)}, B {number(mean.cut)}"
    return f"{scores}, B - A {with_interval(mean.difference, sign=True)}"


def _table(rows: Sequence[ComparisonRow]) -> RenderableType:
    lines: list[list[Cell]] = []
    task = ""
    for row in rows:
        values, share, found = row.values, row.is_share, verdict(row)
        lines.append(
            [
                row.task * (row.task != task),
                words.readout_name(row, rows),
                f"{row.n:,}",
                number(values.uncut.value, share=share),
                number(values.cut.value, share=share),
                with_interval(values.difference, share=share, sign=True),
                words.swapped(row),
                p_value(row.p_value),
                Styled(found, _STYLES[found]),
            ]
        )
        task = row.task
    head = ["task", "readout", "n", "A", "B", "B - A", "-/+", "p", "finding"]
    return terminal(Table(name="two-runs", caption="", head=head, rows=lines, numeric=frozenset({2, 3, 4, 6, 7})))
