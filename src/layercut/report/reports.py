"""Every report of a run folder at once: Markdown with its pictures, and the page for a browser.

    layercut report runs/quickstart

Steps write data alone; the command line and ``layercut.api`` have their reports written here. ``KINDS`` lists the
sections of each kind of folder: a new section is a function from a ``Source``, and its name there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from layercut.evidence.study import StudyResults, are_thinner, further_reports
from layercut.report import words
from layercut.report.answers import endings, errors, items, items_section
from layercut.report.comparison import TwoRuns
from layercut.report.diagnosis import broken, summary
from layercut.report.draft import draft_answer, draft_numbers, serving
from layercut.report.elements import Beside, Block, Details, Facts, Html, Lead, Section, bullets
from layercut.report.healing import healing, training
from layercut.report.layers import each_layer, layer_measures
from layercut.report.provenance import cost, further, provenance
from layercut.report.retention import retention
from layercut.report.scores import evaluation, readouts, scores, seeds
from layercut.report.source import Kind, Source, read_source
from layercut.report.sweep import findings, sensitivity
from layercut.report.sweep import scope as sweep_scope
from layercut.report.writers import MARK, markdown_text, page_text
from layercut.runs.atomic import write_output, write_text
from layercut.runs.directory import PAGE, REPORT
from layercut.runs.healing import healings_in
from layercut.text.counting import counted
from layercut.text.markup import escape

ITEMS_PAGE = "report-items.html"
MOST_BYTES = 3_000_000
"""Size of packed answers inside the page; more of them get a page of their own."""


def answer(source: Source) -> Section:
    """Make the section of a study's answer; else of the findings of a sweep, or of the first damage."""
    lines: list[tuple[str, str]] = []
    blocks: list[Block] = []
    scope = [("model", escape(source.model))]
    title = "What broke first?"
    if source.study is not None and source.first is not None:
        first, rows = source.first, source.study.rows
        title = "What can be removed?" if are_thinner(rows) else "How many layers can be removed?"
        lines = [("", first.answer)]
        plan: list[Block] = [Facts(facts=first.facts, rows=True)] if first.facts else []
        plan += [first.table] if first.table else []
        blocks = [Beside(blocks=plan), *([first.figure] if first.figure else [])]
        if first.behind:
            blocks.append(Details(summary="Evidence behind this answer", blocks=first.behind))
        scope += _scope(source.study)
    elif source.sweep is not None:
        title = "Which layers matter?"
        lines = [("", escape(line)) for line in findings(source.sweep)]
        scope.append(("measured", escape(sweep_scope(source.sweep))))
    if source.diagnosis is not None:
        for arm in source.diagnosis["arms"][1:]:
            broke_first = summary(source.diagnosis["diagnostics"], arm["name"])[0]
            lines.append((f"What broke first in {arm['name']}", broke_first))
        scope.append(("diagnosed", f"at most {counted(source.diagnosis['limit'], 'item')} of each kind"))
    top = Lead(lines=lines, large=source.study is not None)
    return Section(name="answer", title=title, short="Answer", blocks=(top, *blocks, Facts(facts=scope)))


def _scope(study: StudyResults) -> list[tuple[str, str]]:
    """The plans, tasks, items and seed of a study."""
    rows = study.rows
    tried = counted(len(study.cuts), "plan")
    if not are_thinner(rows):
        depths = sorted({row.cut.depth for row in rows})
        deep = " to ".join(map(str, dict.fromkeys((depths[0], depths[-1]))))
        tried = f"{deep} of {rows[0].cut.num_layers} decoder layers, {tried}"
    return [
        ("tried", tried),
        ("tasks", ", ".join(escape(task) for task in dict.fromkeys(row.task for row in rows))),
        ("measured", words.items([row.n for row in rows], [row.limit for row in rows])),
        *([("test sets", escape(sets))] if (sets := words.test_sets(rows)) else []),
        ("seed", str(study.seed)),
    ]


class KindOfReport(NamedTuple):
    """The reports of one kind of folder."""

    sections: tuple[Callable[[Source], Section | None], ...]
    """In their order; each gives None where there is nothing to show."""
    title: str = "What MODEL loses with layers removed"
    file: str = REPORT
    """Name of the report in Markdown."""
    has_page: bool = True


_STUDY = (
    answer, scores, retention, readouts, seeds, sensitivity, broken, items, errors, endings, further, cost, provenance,
)  # fmt: skip
KINDS: dict[Kind, KindOfReport] = {
    "study": KindOfReport(_STUDY),
    "sweep": KindOfReport(_STUDY, "What MODEL loses without each of its layers", "sweep.md"),
    "diagnosis": KindOfReport(_STUDY, "What broke in MODEL", "diagnose.md"),
    "layers": KindOfReport(
        (each_layer, layer_measures, provenance), "What each layer of MODEL is needed for", "layers.md", False
    ),
    "healing": KindOfReport((healing, training, provenance), "Healing of MODEL", has_page=False),
    "draft": KindOfReport((draft_answer, draft_numbers, serving, provenance), "MODEL with a draft of itself"),
    "evaluation": KindOfReport((evaluation, endings, provenance), "MODEL", has_page=False),
}


def write_reports(
    folder: Path,
    *,
    more: Sequence[Path] = (),
    seed: int | None = None,
    study: StudyResults | None = None,
    texts: bool = True,
) -> dict[str, Path]:
    """Write the reports of a run folder of any kind, all numbers compared once.

    Args:
        folder: of the run.
        more: folders of a sweep and a diagnosis of the same model that the page shows as well.
        seed: of the resampling; the study's own by default.
        study: what study_results gave for this folder, where that is known already.
        texts: whether questions and answers are shown; without them a report can be shared where a data set cannot.

    Returns:
        ``report``, the Markdown file, and ``page``, report.html; no page of a sweep that diagnoses, nor of a
        healing or an evaluation.
    Raises:
        InputError: no finished run in the folder, or one of another model (see read_source).
    """
    folder = Path(folder)
    parts = [report.parent for report in further_reports(folder)]
    source = read_source(folder, more=[*more, *parts], seed=seed, study=study, texts=texts)
    kind = KINDS[source.kind]
    made = [section for make in kind.sections if (section := make(source)) is not None]
    title = (source.first.title if source.first else "") or kind.title
    title = title.replace("MODEL", source.model, 1)
    written = {"report": folder / kind.file}
    write_text(written["report"], markdown_text(title, made, folder))
    if kind.has_page:
        written["page"] = folder / PAGE
        _write_page(folder, title, made, source.model)
    return written


def _write_page(folder: Path, title: str, sections: Sequence[Section], model: str) -> None:
    """Write report.html, and where there are many answers, a page for them."""
    apart = folder / ITEMS_PAGE
    apart.unlink(missing_ok=True)
    shown = list(sections)
    for place, section in enumerate(sections):
        first = next(iter(section.blocks), None)
        if isinstance(first, Html) and len(first.html) > MOST_BYTES:
            write_text(apart, page_text(title, [section], model))
            link = Markup(
                '<p>All answers are in <a href="{}">{}</a> ({:.1f} MB), a file in the same folder as this page. Send '
                "it along when you send the page.</p>"
            ).format(ITEMS_PAGE, ITEMS_PAGE, len(first.html) / 1e6)
            shown[place] = replace(section, blocks=(Html(html=link),))
    write_text(folder / PAGE, page_text(title, shown, model))


def study_reports(folder: Path, study: StudyResults | None) -> dict[str, Path]:
    """Write all reports of a study, also those of its sweep, diagnosis and healings; gives them by name.

    ``study``: its results; None where nothing can be compared.

    Raises:
        InputError: see ``write_reports``.
    """
    _healing_reports(folder)
    parts = {path.parent.name: path for path in further_reports(folder)}
    for path in parts.values():
        write_reports(path.parent)
    return parts if study is None else write_reports(folder, seed=study.seed, study=study) | parts


def prune_reports(folder: Path, *, seed: int) -> None:
    """Write the reports of a prune and of the healings that its folder keeps, unless they are there."""
    _healing_reports(folder)
    if not (folder / PAGE).is_file():
        write_reports(folder, seed=seed)


def _healing_reports(folder: Path) -> None:
    """Write those that are missing in a folder with healings."""
    for path in healings_in(folder):
        if not (path / REPORT).is_file():
            write_reports(path)


def write_comparison(file: Path, study: StudyResults, compared: TwoRuns) -> Path:
    """Write a page of two runs: their scores, and every answer of both; gives its path."""
    first, second = study.uncut.name, study.cuts[0].name
    lead = " ".join([*compared.scope, *compared.means])
    blocks = (compared.table, bullets(map(escape, compared.legend)))
    sections = [Section(name="scores", title="Scores", lead=lead, blocks=blocks)]
    sections.append(items_section(study, first, "Compared with"))
    write_output(file, page_text(f"{second} beside {first}", sections), MARK)
    return file
