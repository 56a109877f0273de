"""All scores of a study: a matrix of plans and tasks coloured by finding, then every number, a line for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from layercut.evidence.comparison import ComparisonRow, left_out
from layercut.report import words
from layercut.report.elements import Cell, Details, Prose, Section, Styled, Table, plain, units
from layercut.report.html.source import Source
from layercut.report.markdown import note_lines, refusal_lines, score_table
from layercut.report.rows import raw
from layercut.report.study_tables import form_mean_table
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value, with_interval


def scores(source: Source) -> Section | None:
    """None without a study."""
    study = source.study
    if study is None:
        return None
    pairs = list(dict.fromkeys((row.task, row.readout) for row in study.rows if row.is_headline))
    above = {(row.task, row.readout) for row in study.rows if row.is_headline and row.finding != "at chance"}
    silent = [f"{task} ({readout})" for task, readout in pairs if (task, readout) not in above]
    notes = [f"The original model is at chance, so there is nothing to lose: {', '.join(silent)}."] if silent else []
    notes += [*study.failed, *left_out(study.uncut, study.cuts), *note_lines(study.rows)]
    meaning = [
        *(f"{name}: {meaning}." for name, meaning in words.FINDINGS.items()),
        f"p: McNemar's exact test; sign flips for scores that are not 0/1 or items that share a context. Holm: p "
        f"corrected for all {counted(len(study.rows), 'row')}; findings use it. -/+: items lost and gained.",
        *words.how_made(study.rows),
        *refusal_lines(study.rows),
    ]
    plans = counted(len(study.cuts), "plan")
    means = form_mean_table(study.rows)
    return Section(
        name="scores",
        title="Scores of every plan",
        short="Scores",
        lead="What each plan keeps of the score above chance, in %, with its 95 % interval, p, and p after Holm's "
        "correction.",
        blocks=(
            _matrix(study.rows, [pair for pair in pairs if pair in above]),
            *([means] if means else []),
            *([_list(notes)] if notes else []),
            Details(summary=f"Every number of {plans}: a line for each metric", blocks=(_every_number(study.rows),)),
            Details(summary="What the findings and numbers mean", blocks=(_list(meaning),)),
        ),
    )


def _matrix(rows: Sequence[ComparisonRow], columns: Sequence[tuple[str, str]]) -> Table:
    cells = {(row.cut.name, row.task, row.readout): row for row in rows if row.is_headline}
    nothing = Styled("not measured", "faint")
    lines: list[list[Cell]] = []
    values: list[list[Any]] = [["plan", "layers", *(f"{task}: {readout}" for task, readout in columns)]]
    for name, arm in {row.cut.name: row.cut for row in rows}.items():
        found = [cells.get((name, *column)) for column in columns]
        lines.append([name, str(len(arm.removed)), *(nothing if row is None else _cell(row) for row in found)])
        shares = (None if row is None else row.kept_share for row in found)
        values.append([name, len(arm.removed), *("" if share is None else share.value for share in shares)])
    return Table(
        name="matrix",
        caption="Plans and tasks, coloured by finding; layers: how many are removed",
        head=values[0],
        rows=lines,
        numeric=frozenset({1}),
        matrix=True,
        raw=values,
    )


def _cell(row: ComparisonRow) -> Styled:
    """The finding with what is kept, or the difference where the score has no share above chance; and its tests."""
    kept, tests = row.kept_share, f"p {p_value(row.values.p_value)}, Holm {p_value(row.p_value)}"
    if row.uncut_is_at_chance or kept is None:
        change = with_interval(row.values.difference, share=row.is_share, sign=True)
        return Styled(
            row.finding, words.LOOKS.get(row.finding, "faint"), below=(units(f"difference {change}"), units(tests))
        )
    interval = with_interval(kept).partition(" ")[2]
    return Styled(
        f"{number(kept.value)} % {row.finding}", words.LOOKS.get(row.finding, "plain"), below=(interval, tests)
    )


def _every_number(rows: Sequence[ComparisonRow]) -> Table:
    """The tables of report.md as one, the plan first, without plain retention, which the CSV has."""
    lines: list[list[Cell]] = []
    for name in dict.fromkeys(row.cut.name for row in rows):
        table = score_table([row for row in rows if row.cut.name == name])
        lines += [[name, *row[:2], row[-1], *row[2:7], *row[8:-1]] for row in table.rows]
    head = [plain(cell) for cell in table.head]
    return Table(
        name="scores",
        caption="Every score beside the original model's, in %",
        head=["plan", *head[:2], head[-1], *head[2:7], *head[8:-1]],
        rows=lines,
        numeric=frozenset({4, 5, 10, 11, 12}),
        raw=raw(rows),
    )


def _list(lines: Sequence[str]) -> Prose:
    html = Markup("").join(Markup("<li>{}</li>").format(units(line)) for line in lines)
    return Prose(html=Markup('<ul class="notes">{}</ul>').format(html))
