"""Scores: a matrix of plans and tasks, every number, retention by number of removed layers, and readouts compared."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from layercut.evidence.comparison import ComparisonRow, left_out
from layercut.evidence.study import StudyResults, are_thinner
from layercut.report import words
from layercut.report.comparison import about, discordance_table, discordances, kept, kept_table, score_table
from layercut.report.elements import Block, Details, Figure, Key, Panel, Prose, Section
from layercut.report.figures import charts
from layercut.report.figures.scores import retention as retention_figure
from layercut.report.figures.tokens import tokens
from layercut.report.markdown import note_lines, refusal_lines
from layercut.report.source import Source
from layercut.report.study_tables import form_mean_table
from layercut.report.table import Column, Styled, Table, units
from layercut.text.counting import counted
from layercut.text.numbers import number, p_value, with_interval

MOST_PANELS = 4
"""Plans that have a panel each."""


def scores(source: Source) -> Section | None:
    """Make the section of scores; None without a study."""
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
            Details(summary=f"Every number of {plans}: a line for each metric", blocks=(score_table(study.rows),)),
            Details(summary="What the findings and numbers mean", blocks=(_list(meaning),)),
        ),
    )


def _matrix(rows: Sequence[ComparisonRow], pairs: Sequence[tuple[str, str]]) -> Table:
    by_plan: dict[str, dict[tuple[str, str], ComparisonRow]] = {row.cut.name: {} for row in rows}
    for row in rows:
        if row.is_headline:
            by_plan[row.cut.name][row.task, row.readout] = row
    arms = {row.cut.name: row.cut for row in rows}

    def column(pair: tuple[str, str]) -> Column:
        def value(plan: str) -> Styled:
            row = by_plan[plan].get(pair)
            return Styled("not measured", "faint") if row is None else _cell(row)

        def kept(plan: str) -> float | None:
            row = by_plan[plan].get(pair)
            return None if row is None or row.kept_share is None else row.kept_share.value

        name = ": ".join(pair)
        return Column(name, value, raw={name: kept})

    def depth(plan: str) -> int:
        return arms[plan].depth

    gone = Column("layers", lambda plan: str(depth(plan)), numeric=True, raw={"layers": depth})
    caption = "Plans and tasks, coloured by finding; layers: how many are removed"
    if are_thinner(rows):
        gone = Column(
            "removed", lambda plan: arms[plan].label, raw={"layers": depth, "mlp": lambda plan: arms[plan].mlp}
        )
        caption = "Plans and tasks, coloured by finding"
    return Table(
        name="matrix",
        caption=caption,
        columns=[
            Column("plan", str),
            gone,
            *map(column, pairs),
        ],
        rows=list(arms),
        matrix=True,
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


def _list(lines: Sequence[str]) -> Prose:
    html = Markup("").join(Markup("<li>{}</li>").format(units(line)) for line in lines)
    return Prose(html=Markup('<ul class="notes">{}</ul>').format(html))


def retention(source: Source) -> Section | None:
    """Make the section of retention; None without a score that has one."""
    if source.study is None or (figure := retention_figure(source.study.cuts, source.study.rows)) is None:
        return None
    by_size = are_thinner(source.study.rows)
    trained = tokens(source.study.cuts, source.study.rows)
    return Section(
        name="retention",
        title="Retention by size" if by_size else "Retention by number of removed layers",
        short="Retention",
        lead="Does a model that still ranks right answers also still write them?" if figure.columns > 1 else "",
        blocks=(figure,) if trained is None else (figure, trained),
    )


def readouts(source: Source) -> Section | None:
    """Make the section that compares readouts; None where no task has two."""
    study = source.study
    if study is None:
        return None
    main = [row for row in study.rows if row.is_headline]
    several = {row.task for row in main if len({other.readout for other in main if other.task == row.task}) > 1}
    rows = [row for row in main if row.task in several]
    if not rows:
        return None
    found: list[Block] = []
    drawn = [row for row in rows if row.kept_share is not None and not row.uncut_is_at_chance]
    if drawn:
        figure = _figure(study, drawn)
        is_long = len(study.cuts) > MOST_PANELS
        found.append(Details(summary=figure.title, blocks=(figure,)) if is_long else figure)
    apart = discordances([study.uncut, *study.cuts], rows)
    if apart:
        table = discordance_table(apart)
        found.append(Details(summary=table.caption, blocks=(table,)))
    return Section(
        name="readouts",
        title="The same items, scored by likelihood and by generation",
        short="Readouts",
        lead="A likelihood benchmark ranks given answers. A user reads what the model writes.",
        blocks=tuple(found),
    )


def _figure(study: StudyResults, rows: Sequence[ComparisonRow]) -> Figure:
    names = [run.name for run in study.cuts if any(row.cut.name == run.name for row in rows)]
    used = sorted({row.readout for row in rows}, key=words.readout_order)
    colours = {words.readout_words(name): charts.readout_colour(name) for name in used}
    hollow = {name: name not in ("rank", "short", "chain") for name in used}
    by_task = len(names) > MOST_PANELS  # then a panel for each task, with a line for each plan
    tasks = list(dict.fromkeys(row.task for row in rows))
    panels = [
        _panel([row for row in rows if (row.task if by_task else row.cut.name) == name], colours, hollow, by_task)
        for name in (tasks if by_task else names)
    ]
    caption = (
        "Share of the score above chance that each readout keeps, with 95 % intervals over the same items. Blue: "
        "answers compared by likelihood. Orange: answers that the model writes. The farther orange lies left of blue, "
        "the more a likelihood benchmark overstates the pruned model."
    )
    return Figure(
        name="readouts",
        title="Kept above chance, by readout",
        panels=panels,
        caption=caption,
        legend=[
            Key(label=words.readout_words(name), colour=charts.readout_colour(name), hollow=hollow[name])
            for name in used
        ],
        table=kept_table("readouts", "What each readout keeps, with 95 % intervals", rows),
    )


def _panel(rows: Sequence[ComparisonRow], colours: dict[str, str], hollow: dict[str, bool], by_task: bool) -> Panel:
    points = [
        charts.marked(
            charts.ends(row.kept_share),
            words.readout_words(row.readout),
            hollow=hollow[row.readout],
            about=about(row),
            name=row.cut.name if by_task else row.task,
        )
        for row in rows
        if row.kept_share is not None
    ]
    spec = charts.forest(
        points,
        x_title="kept above chance, %",
        x=(charts.KEPT_LOW, charts.KEPT_HIGH),
        colours=colours,
        marks=((100, "uncut"), (0, "guessing")),
    )
    said = "; ".join(
        f"{row.cut.name}, {row.task}, {words.readout_words(row.readout)}: {kept(row.kept_share)}" for row in rows
    )
    title = rows[0].task if by_task else rows[0].cut.name
    return Panel(spec=spec, title=title, label=f"Plot of points with intervals. {said}.")
