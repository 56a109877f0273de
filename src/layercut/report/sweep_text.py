"""A sweep in words and tables, for the terminal and for sweep.md. The same folder gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from layercut.evidence.completions import diagnose_sweep
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.sweep import Agreement, Curve, Sweep
from layercut.report import words
from layercut.report.answers import answer_sections
from layercut.report.figures.picture import save
from layercut.report.figures.scores import layers
from layercut.report.provenance import write_report
from layercut.report.table import Cell, Column, Part, Styled, Table, raw_estimates, raw_values, terminal
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home
from layercut.text.counting import counted
from layercut.text.markup import escape
from layercut.text.numbers import number, p_value, two_decimals, with_interval
from layercut.text.removal import format_layers
from layercut.text.tables import bare_table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

REPORT, PLOT = "sweep.md", "sweep.png"
BOLD = "Bold: a significant loss; the whole interval of the difference is below 0."


def sweep_report(folder: Path) -> Path:
    """Write sweep.md and sweep.png again from what the run folder holds; gives the path of sweep.md.

    Raises:
        InputError: no run folder, or no finished sweep in it.
    """
    run = RunFolder.open(folder)
    sweep = Sweep.load(run.path)
    lines: list[Part] = [f"# What {escape(hide_home(sweep.model))} loses without each of its layers", ""]
    lines += [f"{escape(scope(sweep))}.", "", *(f"- {escape(line)}" for line in findings(sweep)), ""]
    if save(layers(sweep), run.path / PLOT):
        lines += [f"![Retention of every task and readout without each layer]({PLOT})", ""]
    lines += ["## Retention", "", overview_table(sweep), "", BOLD, "", *(f"- {line}" for line in how_made(sweep)), ""]
    lines += ["## Do tasks and criteria agree on the layers?", "", *agreement_parts(sweep), ""]
    lines += answer_sections(diagnose_sweep(run, sweep), model="layer")
    unit = words.scores_in(map(_is_share, sweep.curves))
    lines += ["## Every layer in full", "", f"{unit}. -/+: items lost and gained. p: of no change, McNemar's exact"]
    lines += [
        "test or, for scores that are not 0/1, sign-flip permutation; Holm: corrected for the number of layers.",
        "",
    ]
    for curve in sweep.curves:
        lines += [f"### {escape(curve.label)}", "", *layer_parts(curve), ""]
    return write_report(run, REPORT, lines)


def scope(sweep: Sweep) -> str:
    """Name the skipped layers and the items, in one line."""
    curves = sweep.curves
    return ", ".join(
        [
            f"{counted(len(sweep.layers), 'decoder layer')} of {sweep.num_layers} skipped alone "
            f"({format_layers(sweep.layers)})",
            words.items([curve.rows[0].values.uncut.n for curve in curves], [curve.rows[0].limit for curve in curves]),
            f"{sweep.split} items",
        ]
    )


def findings(sweep: Sweep) -> list[str]:
    """A sentence on each task and readout: where a loss is significant, and how small a loss the items can detect."""
    lines = []
    for curve in sweep.curves:
        uncut = curve.rows[0].values.uncut
        start = f"{curve.label}, uncut {_score(uncut.value, curve)}"
        if curve.refused:
            lines.append(f"{start}: no retention, because {curve.refused}.")
            continue
        shown = [row.layer for row in curve.rows if row.shows_loss]
        if shown:
            text = f"significant loss at {len(shown)} of {counted(len(curve.rows), 'layer')} ({format_layers(shown)})"
            text += _lowest(curve)
            sure = sorted(curve.significant)
            if sure == shown:
                text += "; all of it stays significant over all layers (*)"
            else:
                where = f"at {len(sure)} ({format_layers(sure)})" if sure else "at none"
                text += f"; {where} it stays significant over all layers (*)"
        else:
            text = f"no significant loss at any of {counted(len(curve.rows), 'layer')}"
        lines.append(f"{start}: {text}.{_resolution(curve)}")
    return lines


def how_made(sweep: Sweep) -> list[str]:
    """Meaning of the numbers, one sentence each."""
    first = sweep.rows[0]
    lines = [
        "Retention above chance in %: (without the layer - chance) / (uncut - chance) on the same items; 100 is uncut, "
        "0 is guessing. 95 % intervals by a Bayesian bootstrap over paired items "
        f"({NUM_RESAMPLES:,} resamples, seed {first.seed}).",
        f"{len(sweep.rows)} comparisons: about 1 in 20 intervals misses by chance, so one layer just outside the band "
        "is a hint, not a finding.",
        "*: a significant loss over all layers of a column, p < 0.05 after Holm's correction.",
    ]
    if any(row.chance is None for row in sweep.rows):
        lines.append("Where a task has no chance level, retention is without the layer / uncut.")
    if sweep.split == "report":
        lines.append(
            "These are report items. Do not choose layers by this table and then report scores on the same items."
        )
    return lines


def sweep_tables(sweep: Sweep) -> list[RenderableType]:
    """Tables and lines for the terminal, to be printed one after the other."""
    blocks: list[RenderableType] = [Text(), Text(scope(sweep)), _Retention(sweep)]
    blocks += [Text(f"- {line}") for line in findings(sweep)]
    agreements = sweep.agreements()
    if agreements:
        blocks.append(Padding(terminal(agreement_table(agreements)), (1, 0, 0, 0)))
    legend = "\n".join(how_made(sweep) + (about_agreements(sweep) if agreements else []))
    return [*blocks, Padding(Text(legend, style="dim"), (1, 0, 0, 0))]


class _Retention:
    """A line for each layer, a column for each task and readout; as many columns side by side as fit."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        left = self.sweep.curves
        while left:
            taken = 1
            while taken < len(left) and self._fits(left[: taken + 1], console, options):
                taken += 1
            yield self.table(left[:taken])
            yield Text()
            left = left[taken:]

    def _fits(self, curves: Sequence[Curve], console: Console, options: ConsoleOptions) -> bool:
        wide = options.update(max_width=10_000)
        return Measurement.get(console, wide, self.table(curves)).maximum <= options.max_width

    def table(self, curves: Sequence[Curve]) -> RichTable:
        """The bare table."""
        table = bare_table()
        table.add_column("layer", justify="right")
        for curve in curves:
            table.add_column(f"{curve.task}\n{curve.readout}")
        by_layer = [{row.layer: row for row in curve.rows} for curve in curves]
        significant = [curve.significant for curve in curves]
        for layer in self.sweep.layers:
            cells = []
            for rows, stands in zip(by_layer, significant, strict=True):
                row = rows[layer]
                style = "dim" if row.kept_share is None else "red" if row.shows_loss else ""
                cells.append(Text(words.retained(row.kept_share) + "*" * (layer in stands), style=style))
            table.add_row(str(layer), *cells)
        return table


def overview_table(sweep: Sweep) -> Table:
    """The retention without each layer, a line for each layer; the CSV has every number of every curve."""
    return Table(
        name="layers",
        caption="Kept above chance without each layer, in %",
        columns=[Column("layer", str, numeric=True), *(_of_curve(curve) for curve in sweep.curves)],
        rows=sweep.layers,
        download=_every_number(sweep),
    )


def _of_curve(curve: Curve) -> Column:
    by_layer, significant = {row.layer: row for row in curve.rows}, curve.significant

    def value(layer: int) -> Cell:
        row, star = by_layer[layer], "*" * (layer in significant)
        text = words.retained(row.kept_share)
        return Styled(text, "strong", star) if row.shows_loss and row.kept_share else text + star

    return Column(curve.label, value)


def _every_number(sweep: Sweep) -> Table:
    adjusted = {(curve.task, curve.readout): curve.p_adjusted for curve in sweep.curves}
    row = raw_values(layer="layer", task="task", readout="readout", metric="metric", n="values.cut.n", chance="chance")
    row |= raw_values(uncut="values.uncut.value", cut="values.cut.value") | raw_estimates(kept="kept_share")
    row |= raw_values(p_value="values.p_value") | {"p_holm": lambda row: adjusted[row.task, row.readout][row.layer]}
    columns = [Column(name, value) for name, value in (row | raw_values(seed="seed")).items()]
    rows = [row for curve in sweep.curves for row in curve.rows]
    return Table(name="layers", caption="", columns=columns, rows=rows)


def layer_parts(curve: Curve) -> list[Part]:
    """One task and readout in full."""
    first = curve.rows[0]
    uncut = with_interval(first.values.uncut, share=_is_share(curve), digits=1)
    chance = "none" if first.chance is None else number(first.chance, share=_is_share(curve), digits=1)
    parts: list[Part] = [f"Metric {escape(first.metric)}, n {first.values.uncut.n:,}, chance {chance}, uncut {uncut}."]
    if curve.refused:
        parts += ["", f"No retention above chance, because {escape(curve.refused)}."]
    adjusted, significant, share = curve.p_adjusted, curve.significant, _is_share(curve)
    table = Table(
        name=f"layers-{curve.task}-{curve.readout}",
        caption=f"{curve.label}: every layer in full, scores in %",
        columns=[
            Column("layer", lambda row: str(row.layer), numeric=True),
            Column("score", lambda row: with_interval(row.values.cut, share=share, digits=1)),
            Column("difference", lambda row: with_interval(row.values.difference, share=share, digits=1, sign=True)),
            Column("retention", lambda row: words.retained(row.values.retention)),
            Column("above chance", lambda row: words.retained(row.values.retention_above_chance)),
            Column("-/+", words.swapped, numeric=True),
            Column("p", lambda row: p_value(row.values.p_value), numeric=True),
            Column("Holm", lambda row: p_value(adjusted[row.layer]) + "*" * (row.layer in significant), numeric=True),
            Column("no answer", lambda row: str(row.outcomes.get("no_answer", 0)), numeric=True),
            Column("cut short", lambda row: str(row.outcomes.get("cut", 0)), numeric=True),
        ],
        rows=curve.rows,
    )
    return [*parts, "", table]


def _lowest(curve: Curve) -> str:
    least = min(row.values.cut.value for row in curve.rows)
    rows = [row for row in curve.rows if row.values.cut.value == least]
    kept = rows[0].kept_share
    if kept is None or len(rows) > 3:
        return ""
    where = "without layer " + " or ".join(str(row.layer) for row in rows)
    above = "" if rows[0].chance is None else " above chance"
    return f"; lowest {where}: {with_interval(kept)} % of the score{above} kept"


def _resolution(curve: Curve) -> str:
    """Width of the intervals; half of one is about the least loss that these items can show."""
    widths = [
        row.values.difference.high - row.values.difference.low
        for row in curve.rows
        if row.values.difference.high is not None and row.values.difference.low is not None
    ]
    if not widths:
        return ""
    half = sorted(widths)[len(widths) // 2] / 2
    reach = f"{number(half, share=_is_share(curve), digits=1)}{' points' if _is_share(curve) else ''}"
    return f" The interval of a difference typically reaches {reach} to each side."


def _score(value: float, curve: Curve) -> str:
    return f"{number(value, share=_is_share(curve))}{' %' if _is_share(curve) else ''}"


def _is_share(curve: Curve) -> bool:
    """Return True where scores are shown in percent: all of them lie between 0 and 1."""
    return all(0 <= value <= 1 for row in curve.rows for value in (row.values.uncut.value, row.values.cut.value))


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """A line for each two rankings."""
    return Table(
        name="agreement",
        caption="Do tasks and criteria agree on the layers?",
        columns=[
            Column("ranking", lambda one: one.first),
            Column("and", lambda one: "itself, on the other half of its items" if one.kind == "halves" else one.second),
            Column("layers", lambda one: "-" if one.rho[0] is None else str(one.rho[0].n), numeric=True),
            Column("Spearman's rho", _rho),
        ],
        rows=agreements,
    )


def _rho(one: Agreement) -> str:
    estimate, refused = one.rho
    return f"n/a: {refused}" if estimate is None else two_decimals(estimate)


def agreement_parts(sweep: Sweep) -> list[Part]:
    """The table, with what the numbers mean."""
    agreements = sweep.agreements()
    if not agreements:
        return ["There is nothing to compare: no task whose uncut score is above chance, and fewer than two criteria."]
    return [agreement_table(agreements), "", *(f"- {escape(line)}" for line in about_agreements(sweep))]


def about_agreements(sweep: Sweep) -> list[str]:
    """Meaning of the numbers, one sentence each."""
    lines = [
        "rho: 1 is the same order of the layers, 0 unrelated, -1 opposite; a task ranks by the loss without the "
        "layer, a criterion by its score. 95 % intervals by Fisher's z over layers. They exclude the noise of the "
        "items, which pulls rho towards 0.",
    ]
    if any(one.kind == "halves" for one in sweep.agreements()):
        lines.append(
            "A task is also compared with itself, one half of its items with the other half. Two tasks, each with all "
            "its items, cannot be expected to agree much more than that."
        )
    return [*lines, *(f"{ranking.name}: {ranking.note}." for ranking in sweep.rankings if ranking.note)]
