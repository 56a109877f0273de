"""Every report of a run folder at once: Markdown with its pictures, and the page for a browser.

layercut report runs/quickstart
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layercut.evidence.sweep import is_sweep
from layercut.report.diagnosis.layers import LAYERS_FILE, layers_report
from layercut.report.diagnosis.page import diagnosis_report
from layercut.report.diagnosis.verdict import FILE
from layercut.report.first import FirstScreen, first_screen
from layercut.report.healing import healing_report, is_healing
from layercut.report.html.page import write_page
from layercut.report.markdown import study_report
from layercut.report.prediction import PREDICTION, prediction_report
from layercut.report.single_run import is_single, single_report
from layercut.report.study import StudyResults, further_reports, study_results
from layercut.report.sweep_text import sweep_report


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
        ``report``, the Markdown file, and ``page``, report.html; no page of a sweep that diagnoses or
        predicts, nor of a healing or an evaluation. ``prediction`` where there is one.
    Raises:
        InputError: no finished run of these kinds (see study_results, sweep_report, diagnosis_report).
    """
    folder = Path(folder)
    if (folder / LAYERS_FILE).is_file():
        return {"report": layers_report(folder)}
    if is_healing(folder):
        return {"report": healing_report(folder)}
    first: FirstScreen | None = None
    predicted = {"prediction": prediction_report(folder)} if (folder / PREDICTION).is_file() else {}
    if predicted and not is_sweep(folder):
        return predicted
    if (folder / FILE).is_file():
        written = {"report": diagnosis_report(folder, texts=texts)}
    elif is_sweep(folder):
        written = {"report": sweep_report(folder)}
    elif study is None and is_single(folder):
        return {"report": single_report(folder)}
    else:
        study = study or study_results(folder, seed=seed)
        first = first_screen(folder, study)
        written = {"report": study_report(folder, study=study, first=first, texts=texts)}
        more = [*more, *(report.parent for report in further_reports(folder))]
    written["page"] = write_page(folder, more=more, seed=seed, study=study, first=first, texts=texts)
    return predicted | written
