"""report.md of one run without a comparison: its scores, how its answers ended, and what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layercut.evidence.comparison import arm_of
from layercut.evidence.completions import diagnose_runs
from layercut.report import words
from layercut.report.answers import answer_sections
from layercut.report.provenance import provenance
from layercut.report.runs import scores_table
from layercut.report.study import UNCUT
from layercut.report.table import markdown
from layercut.runs.atomic import write_text
from layercut.runs.directory import METRICS, REPORT, RunFolder, is_run
from layercut.text.markup import escape

if TYPE_CHECKING:
    from layercut.report.table import Part


def is_single(folder: Path) -> bool:
    """Whether a folder holds one finished evaluation, and no study."""
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
    unit = words.scores_in(0 <= row["value"] <= 1 for row in rows)
    lines += [f"{unit} with 95 % intervals. right ... cut: answers; cut by the length limit.", ""]
    lines += answer_sections(diagnose_runs([run], seed=seed if isinstance(seed, int) else 0, cache=run.path))
    lines += ["## How this was made", "", *provenance([run])]
    write_text(run.path / REPORT, "\n".join(markdown(lines)).rstrip("\n") + "\n")
    return run.path / REPORT
