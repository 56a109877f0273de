"""Every report of a run folder: a section is a function from a ``Source``, listed in ``KINDS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from layercut.errors import InputError
from layercut.evidence.study import KEEP, StudyResults, prune_result
from layercut.report.answers import answers_section, items_section, programs_section
from layercut.report.comparison import compare_two_runs, scores_section
from layercut.report.diagnosis import broken_section, damage_answer
from layercut.report.elements import Block, Section, bullet_list
from layercut.report.first import answer_section
from layercut.report.retention import retention_section
from layercut.report.source import Kind, Source, provenance_section, read_source
from layercut.report.sweep import sensitivity_section, sweep_answer
from layercut.report.writers import MARK, html_page_text, markdown_text
from layercut.runs.atomic import write_output, write_text
from layercut.runs.directory import PAGE, REPORT
from layercut.runs.environment import shown_path
from layercut.text import escape_inline


class KindOfReport(NamedTuple):
    """The reports of one kind of folder."""

    sections: tuple[Callable[[Source], Section | None], ...]
    """In their order; each gives None where there is nothing to show."""
    title: str = "What MODEL loses by pruning"
    file: str = REPORT
    """Name of the report in Markdown."""


KINDS: dict[Kind, KindOfReport] = {
    "study": KindOfReport(
        (answer_section, scores_section, retention_section, answers_section, programs_section, provenance_section)
    ),
    "sweep": KindOfReport(
        (sweep_answer, sensitivity_section, provenance_section),
        "What MODEL loses without each of its layers",
        "sweep.md",
    ),
    "diagnosis": KindOfReport(
        (damage_answer, broken_section, provenance_section), "What broke in MODEL", "diagnose.md"
    ),
}


def write_reports(
    folder: Path, *, use: str = "all", keep: float | None = None, study: StudyResults | None = None
) -> dict[str, Path]:
    """Write the reports of a run folder of any kind, all numbers compared once.

    Args:
        folder: of the run.
        use: what the plans of a study are judged for; math, say.
        keep: share of the score above chance that they have to keep; 0.9 for None.
        study: what study_results gave for this folder, where that is known already.

    Returns:
        ``report``, the Markdown file, and ``page``, report.html.
    Raises:
        InputError: no finished run in the folder, or a use or share where no plans of a study are judged.
    """
    folder = Path(folder)
    source = read_source(folder, study)
    if (use, keep) != ("all", None) and (source.kind != "study" or prune_result(folder)):
        raise InputError(
            f"{shown_path(folder)} is no study, so it takes no `use` and `keep`; prune judges its plans by its own."
        )
    source = replace(source, use=use, keep=KEEP if keep is None else keep)
    kind = KINDS[source.kind]
    sections = [section for make in kind.sections if (section := make(source)) is not None]
    title = kind.title.replace("MODEL", source.model, 1)
    written = {"report": folder / kind.file, "page": folder / PAGE}
    write_text(written["report"], markdown_text(title, sections))
    write_text(written["page"], html_page_text(title, sections))
    return written


def write_comparison(file: Path, study: StudyResults, notes: Sequence[str]) -> Path:
    """Write a page of two runs, with remarks on them: their scores, and every answer of both; gives its path."""
    first, second = study.uncut.name, study.cuts[0].name
    scope, tables, legend = compare_two_runs(study.rows, notes)
    blocks: list[Block] = [bullet_list(map(escape_inline, scope)), *tables, bullet_list(map(escape_inline, legend))]
    scores_of_both = Section(name="scores", title="Scores", blocks=blocks)
    tasks = study._replace(rows=[row for row in study.rows if not row.group])
    answers = items_section(tasks, first, "Compared with")
    write_output(file, html_page_text(f"{second} beside {first}", [scores_of_both, answers]), MARK)
    return file
