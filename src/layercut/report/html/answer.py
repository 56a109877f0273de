"""The answer first: the recommended or best plan, what each task keeps, its size, its checkpoint, and its command."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import StudyResults, are_thinner
from layercut.report import words
from layercut.report.diagnosis.page import summary
from layercut.report.elements import Beside, Block, Details, Prose, Section
from layercut.report.first import FirstScreen
from layercut.report.html.layout import blocks, filled, inline
from layercut.report.source import Source
from layercut.report.sweep_text import findings
from layercut.report.sweep_text import scope as sweep_scope
from layercut.text.counting import counted

Facts = Sequence[tuple[str, str | Markup]]


def answer(source: Source) -> Section | None:
    """Make the section of a study's answer; else of the findings of a sweep, or of the first damage."""
    lines: list[tuple[str, Markup]] = []
    facts: list[tuple[str, str | Markup]] = [("model", source.model)]
    shown: list[Block] = []
    title = "How many layers can be removed?"
    if source.study is not None and source.first is not None:
        title = "What can be removed?" if are_thinner(source.study.rows) else title
        lines = [("", inline(source.first.answer))]
        shown = _plan(source.first)
        facts += _study_scope(source.study)
    elif source.sweep is not None:
        title = "Which layers matter?"
        lines = [("", inline(line)) for line in findings(source.sweep)]
        facts.append(("measured", sweep_scope(source.sweep)))
    if source.diagnosis is not None:
        if source.study is None and source.sweep is None:
            title = "What broke first?"
        for arm in source.diagnosis["arms"][1:]:
            first = summary(source.diagnosis["diagnostics"], arm["name"])[0]
            lines.append((f"What broke first in {arm['name']}", inline(first)))
        facts.append(("diagnosed", f"at most {counted(source.diagnosis['limit'], 'item')} of each kind"))
    top = _laid_out(lines, [], large=source.study is not None)
    return Section(name="answer", title=title, short="Answer", blocks=(top, *shown, _laid_out([], facts)))


def _laid_out(lines: Sequence[tuple[str, Markup]], facts: Facts, *, large: bool = False, rows: bool = False) -> Prose:
    return Prose(html=filled("answer.html", lines=lines, facts=facts, large=large, rows=rows))


def _plan(first: FirstScreen) -> list[Block]:
    facts = [(name, inline(text)) for name, text in first.facts]
    plan: list[Block] = [_laid_out([], facts, rows=True)] if facts else []
    if first.table is not None:
        plan.append(first.table)
    behind = [Details(summary="Evidence behind this answer", blocks=blocks(first.behind))] if first.behind else []
    figure = [first.figure] if first.figure else []
    return [Beside(blocks=plan), *figure, *behind]


def _depths(rows: Sequence[ComparisonRow], num_plans: int) -> str:
    depths = sorted({len(row.cut.removed) for row in rows})
    deep = f"{depths[0]}" if len(depths) == 1 else f"{depths[0]} to {depths[-1]}"
    return f"{deep} of {rows[0].cut.num_layers} decoder layers, {counted(num_plans, 'plan')}"


def _study_scope(study: StudyResults) -> list[tuple[str, str | Markup]]:
    rows = study.rows
    return [
        ("tried", counted(len(study.cuts), "plan") if are_thinner(rows) else _depths(rows, len(study.cuts))),
        ("tasks", ", ".join(dict.fromkeys(row.task for row in rows))),
        ("measured", words.items([row.n for row in rows], [row.limit for row in rows])),
        *([("test sets", sets)] if (sets := words.test_sets(rows)) else []),
        ("seed", str(study.seed)),
    ]
