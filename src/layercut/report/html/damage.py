"""Damage: the loss of every task without a single layer, and the diagnostics, each with its plot and table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from markupsafe import Markup

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.completions import diagnose_sweep
from layercut.evidence.diagnosis import Diagnosis
from layercut.evidence.study import StudyResults, are_thinner
from layercut.report import words
from layercut.report.diagnosis.page import how_made, measure_table, summary
from layercut.report.diagnosis.sections import SECTIONS
from layercut.report.elements import Beside, Block, Details, Prose, Section
from layercut.report.figures.scores import layers
from layercut.report.first import FirstScreen
from layercut.report.html.answers import answer_details
from layercut.report.html.layout import blocks, filled, inline, prose
from layercut.report.source import Source
from layercut.report.sweep_text import agreement_parts, findings, layer_parts, overview_table, scope
from layercut.report.sweep_text import how_made as how_swept
from layercut.report.sweep_text import scope as sweep_scope
from layercut.text.counting import counted


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
