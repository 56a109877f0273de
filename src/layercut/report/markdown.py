"""report.md of a study: the findings in words, tables and a plot, examples, provenance.

Everything comes from the run folders, nothing from the clock or the machine that writes the report: the same folders
give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layercut.evidence.comparison import OUTCOMES, left_out
from layercut.evidence.study import further_reports, over_seeds
from layercut.report import words
from layercut.report.answers import answer_sections, examples, study_answers
from layercut.report.comparison import discordance_section, discordances, score_table
from layercut.report.figures.picture import save
from layercut.report.figures.scores import retention, scores
from layercut.report.first import title_of
from layercut.report.provenance import provenance
from layercut.report.source import Source
from layercut.report.study_tables import form_mean_table, seeds_section
from layercut.report.table import Part, Table, markdown, texts
from layercut.runs.atomic import write_text
from layercut.runs.directory import REPORT
from layercut.text.counting import counted
from layercut.text.markup import escape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layercut.evidence.comparison import ComparisonRow
    from layercut.runs.directory import RunFolder

PLOT = "report.png"
MOST_IN_PLOT = 6
"""Plans that report.png shows one by one; of more it shows the lines over depth."""


def study_report(folder: Path, source: Source) -> Path:
    """Write ``report.md`` and ``report.png`` into the folder of a study; gives the path of report.md."""
    assert source.study is not None and source.first is not None
    study, first = source.study, source.first
    uncut, cuts, rows = study.uncut, study.cuts, study.rows
    lines: list[Part] = [f"# {escape(title_of(first, source.model))}", "", first.answer, ""]
    lines += [*(f"- {name}: {text}" for name, text in first.facts), ""]
    if first.table is not None:
        lines += [f"{first.table.caption}:", "", first.table, ""]
    by_run = {run.name: [row for row in rows if row.cut.name == run.name] for run in cuts}
    lines += ["## Every plan", ""]
    for name, own in by_run.items():
        lines += headline_lines(name, own)
    many = len(cuts) > MOST_IN_PLOT
    if save(retention(cuts, rows) if many else scores(rows), folder / PLOT):
        lines += [f"![What is kept of every task and readout]({PLOT})", ""]
    lines += ["## Scores", ""]
    for name, own in by_run.items():
        lines += [f"### {escape(name)}", "", score_scope(own), "", score_table(own), ""]
    if means := form_mean_table(rows):
        lines += [f"{means.caption}.", "", means, ""]
    notes = [*study.failed, *left_out(uncut, cuts), *note_lines(rows), *refusal_lines(rows)]
    lines += [*(f"- {escape(note)}" for note in notes), ""]
    lines += [
        "-/+: items lost and gained. p: McNemar's exact test; sign-flip permutation for scores that are not 0/1, and "
        f"by context where items share one. Holm: p corrected for all {counted(len(rows), 'row')}; findings use it.",
        "",
    ]
    lines += ["Findings: " + " ".join(f"*{name}*: {meaning}." for name, meaning in words.FINDINGS.items()), ""]
    lines += seeds_section(over_seeds(cuts, rows, seed=rows[0].seed if rows else 0))
    lines += discordance_section(discordances([uncut, *cuts], rows))
    lines += ["## How the answers ended", "", "Number of answers.", "", outcome_table(rows), ""]
    lines += answer_sections(study_answers(study))
    if source.texts:
        lines += ["## Items that were right before", "", *_examples([uncut, *cuts], rows)]
    if first.behind:
        lines += ["## Evidence behind the answer", "", *first.behind, ""]
    if further := further_reports(uncut.path.parent):
        links = [f"- [{path.parent.name}]({path.parent.name}/{path.name})" for path in further]
        lines += ["## Sweep and diagnosis", "", *links, ""]
    lines += ["## How this was made", "", *(f"- {line}" for line in words.how_made(rows)), ""]
    text = _single_blanks(markdown([*lines, *provenance([uncut, *cuts])]))
    write_text(folder / REPORT, "\n".join(text) + "\n")
    return folder / REPORT


def headline_lines(name: str, rows: Sequence[ComparisonRow]) -> list[str]:
    """The layers that one plan removes, and a sentence for each finding."""
    lines = [f"**{escape(name)}**: {', '.join(words.scope(rows))}. {words.summary(rows).capitalize()}.", ""]
    return [*lines, *(f"- {line}" for line in words.headline(rows)), ""]


def score_scope(rows: Sequence[ComparisonRow]) -> str:
    """The layers that one plan removes and the number of items, in a sentence."""
    scope = [*words.scope(rows), words.items([row.n for row in rows], [row.limit for row in rows])]
    asked = f" Items: {escape(sets)}." if (sets := words.test_sets(rows)) else ""
    return ", ".join(scope) + f".{asked} {words.scores_in(row.is_share for row in rows)}."


def note_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """Notes on single rows, as plain text."""
    return list(dict.fromkeys(f"{row.cut.name}, {row.task} ({row.readout}): {row.note}" for row in rows if row.note))


def refusal_lines(rows: Sequence[ComparisonRow]) -> list[str]:
    """The reason why a metric has no retention, as plain text."""
    refused = (row for row in rows if row.values.refused)
    lines = (f"{row.task} ({row.readout}, {row.metric}): no retention, because {row.values.refused}" for row in refused)
    return list(dict.fromkeys(lines))


def outcome_table(rows: Sequence[ComparisonRow]) -> Table:
    """Number of answers that were right, wrong, missing and cut short."""
    names = list(dict.fromkeys(name for row in rows for name in [*row.uncut_outcomes, *row.cut_outcomes]))
    names = [name for name in names if name in OUTCOMES or any(row.cut_outcomes.get(name) for row in rows)]
    titles = {"no_answer": "no answer found", "cut": "cut by the length limit"}
    lines = []
    main = [row for row in rows if row.is_headline]
    for task, readout in dict.fromkeys((row.task, row.readout) for row in main):
        own = [row for row in main if (row.task, row.readout) == (task, readout)]
        for run, outcomes in [(own[0].uncut.name, own[0].uncut_outcomes), *((r.cut.name, r.cut_outcomes) for r in own)]:
            lines.append([task, readout, run, *(str(outcomes.get(name, 0)) for name in names)])
    shown = [titles.get(name, name) for name in names]
    return Table(
        name="outcomes",
        caption="Number of answers by how they ended",
        columns=texts("task", "readout", "run", *shown, numeric=shown),
        rows=lines,
    )


def _examples(runs: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> list[str]:
    lines: list[str] = []
    for task in dict.fromkeys(row.task for row in rows):
        readouts = list(dict.fromkeys(row.readout for row in rows if row.task == task))
        found = examples(runs, task, readouts)
        lines += [f"### {escape(task)}", "", *(found or ["No item was right before and is not right now.", ""])]
    return lines


def _single_blanks(lines: Sequence[str]) -> list[str]:
    """Remove doubled blank lines, except inside fences."""
    kept: list[str] = []
    fence = ""
    for line in lines:
        ticks = line[: len(line) - len(line.lstrip("`"))]
        if fence:
            fence = "" if line == fence else fence
        elif len(ticks) >= 3:
            fence = ticks
        elif not line and kept and not kept[-1]:
            continue
        kept.append(line)
    while kept and not kept[-1]:
        kept.pop()
    return kept
