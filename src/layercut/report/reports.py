"""Every report of a run folder at once: Markdown with its pictures, and the page for a browser.

    layercut report runs/quickstart

Steps write data alone; the command line and ``layercut.api`` have their reports written here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layercut.evidence.comparison import arm_of
from layercut.evidence.completions import diagnose_runs
from layercut.evidence.study import StudyResults, further_reports
from layercut.evidence.sweep import is_sweep
from layercut.report import words
from layercut.report.answers import answer_sections
from layercut.report.diagnosis.layers import layers_report
from layercut.report.diagnosis.page import diagnosis_report
from layercut.report.draft import draft_reports
from layercut.report.healing import healing_report
from layercut.report.html.page import write_page
from layercut.report.markdown import study_report
from layercut.report.provenance import write_report
from layercut.report.runs import scores_legend, scores_table
from layercut.report.source import read_source
from layercut.report.sweep_text import sweep_report
from layercut.runs.directory import DIAGNOSIS, LAYERS, METRICS, PAGE, REPORT, RunFolder, is_run
from layercut.runs.draft import DRAFT
from layercut.runs.healing import healings_in, is_healing
from layercut.runs.study import UNCUT
from layercut.text.markup import escape

if TYPE_CHECKING:
    from layercut.report.table import Part


def write_reports(
    folder: Path,
    *,
    more: Sequence[Path] = (),
    seed: int | None = None,
    study: StudyResults | None = None,
    texts: bool = True,
) -> dict[str, Path]:
    """Write the reports of a study, a prune, a sweep, a diagnosis, a healing or an eval, all numbers compared once.

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
        InputError: no finished run of these kinds (see study_results, sweep_report, diagnosis_report).
    """
    folder = Path(folder)
    if (folder / LAYERS).is_file():
        return {"report": layers_report(folder)}
    if (folder / DRAFT).is_file():
        return draft_reports(folder)
    if is_healing(folder):
        return {"report": healing_report(folder)}
    if (folder / DIAGNOSIS).is_file():
        written = {"report": diagnosis_report(folder, texts=texts)}
    elif is_sweep(folder):
        written = {"report": sweep_report(folder)}
    elif study is None and is_single(folder):
        return {"report": single_report(folder)}
    else:
        written = {}
        more = [*more, *(report.parent for report in further_reports(folder))]
    source = read_source(folder, more=more, seed=seed, study=study, texts=texts)
    if not written:
        written["report"] = study_report(folder, source)
    return written | {"page": write_page(folder, source)}


def study_reports(folder: Path, study: StudyResults | None) -> dict[str, Path]:
    """Write all reports of a study, also those of its sweep, diagnosis and healings; gives them by name.

    ``study``: its results; None where nothing can be compared.

    Raises:
        InputError: see ``write_reports``.
    """
    _healing_reports(folder)
    further = {path.parent.name: path for path in further_reports(folder)}
    for path in further.values():
        write_reports(path.parent)
    return further if study is None else write_reports(folder, seed=study.seed, study=study) | further


def prune_reports(folder: Path, *, seed: int) -> None:
    """Write the reports of a prune and of the healings that its folder keeps, unless they are there."""
    _healing_reports(folder)
    if not (folder / PAGE).is_file():
        write_reports(folder, seed=seed)


def _healing_reports(folder: Path) -> None:
    """Write those that are missing in a folder with healings."""
    for healing in healings_in(folder):
        if not (healing / REPORT).is_file():
            healing_report(healing)


def is_single(folder: Path) -> bool:
    """Return True for a folder with one finished evaluation, and no study."""
    evaluated = (folder / METRICS).is_file() and not is_run(folder / UNCUT)
    return evaluated and bool(RunFolder.open(folder).metrics()["rows"])


def single_report(folder: Path) -> Path:
    """Write ``report.md`` of an evaluation from its folder alone; gives its path.

    Raises:
        InputError: no run folder, or one that is not finished.
    """
    run = RunFolder.open(folder)
    rows = run.metrics()["rows"]
    seed = run.settings.get("seed")
    scope = f"{words.removal(arm_of(run))}, {words.items([row['n'] for row in rows], [row['limit'] for row in rows])}."
    lines: list[Part] = [f"# {escape(run.name)}", "", escape(scope), "", "## Scores", "", scores_table(rows), ""]
    lines += [scores_legend(rows), ""]
    lines += answer_sections(diagnose_runs([run], seed=seed if isinstance(seed, int) else 0, cache=run.path))
    return write_report(run, REPORT, lines)
