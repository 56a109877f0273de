"""A sweep in words, tables and a plot: the loss of every task without each layer, for reports and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.text import Text

from layercut.evidence.completions import diagnose_sweep
from layercut.evidence.intervals import NUM_RESAMPLES
from layercut.evidence.sweep import Agreement, Curve, Sweep, SweepRow
from layercut.report import charts, words
from layercut.report.answers import answer_details
from layercut.report.elements import Block, Details, Figure, Key, Panel, Section, bullets
from layercut.report.table import (
    Cell,
    Column,
    Styled,
    Surface,
    Table,
    plain,
    raw_estimates,
    raw_values,
    terminal,
)
from layercut.text.counting import counted
from layercut.text.markup import escape
from layercut.text.numbers import number, p_value, two_decimals, with_interval
from layercut.text.removal import format_layers

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.report.source import Source

PLOT = "sweep.png"


def sensitivity(source: Source) -> Section | None:
    """A panel for each task, the agreement of tasks and criteria, and every layer in full; None without a sweep."""
    sweep = source.sweep
    if sweep is None:
        return None
    is_own = source.kind == "sweep"  # its findings are then the answer of the report
    blocks: list[Block] = [] if is_own else [f"{escape(scope(sweep))}.", bullets(map(escape, findings(sweep)))]
    blocks.append(layers_figure(sweep) or overview_table(sweep))
    blocks.append(bullets(map(escape, how_made(sweep))))
    blocks.append(Details(summary="Do tasks and criteria agree on the layers?", blocks=_agreement_blocks(sweep)))
    blocks += answer_details(diagnose_sweep(source.own_runs["sweep"], sweep), model="layer")
    for curve in sweep.curves:
        blocks.append(Details(summary=f"Every layer in full: {curve.label}", blocks=_curve_blocks(curve)))
    return Section(
        name="sensitivity",
        title="Each layer alone",
        short="Layers",
        lead="Retained score when one layer is skipped and all others are kept.",
        blocks=blocks,
        on=Surface.REPORTS if is_own else Surface.PAGE,
    )


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
        is_share = _is_share(curve)
        start = f"{curve.label}, uncut {number(uncut.value, share=is_share)}{' %' if is_share else ''}"
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
    blocks: list[RenderableType] = [Text(), Text(scope(sweep)), terminal(overview_table(sweep), in_parts=True)]
    blocks += [Text(f"- {line}") for line in findings(sweep)]
    agreements = sweep.agreements()
    if agreements:
        blocks.append(Padding(terminal(agreement_table(agreements)), (1, 0, 0, 0)))
    legend = "\n".join(how_made(sweep) + (about_agreements(sweep) if agreements else []))
    return [*blocks, Padding(Text(legend, style="dim"), (1, 0, 0, 0))]


def overview_table(sweep: Sweep) -> Table:
    """The retention without each layer, a line for each layer; the CSV has every number of every curve."""
    return Table(
        name="layers",
        caption="Kept above chance without each layer, in %; bold: a loss whose whole interval lies below 0; *: a "
        "significant loss over all layers",
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

    def brief(layer: int) -> Cell:
        row, cell = by_layer[layer], plain(value(layer))
        return Styled(cell, "faint" if row.kept_share is None else "wrong" if row.shows_loss else "plain")

    return Column(curve.label, value, brief=brief)


def _every_number(sweep: Sweep) -> Table:
    adjusted = {(curve.task, curve.readout): curve.p_adjusted for curve in sweep.curves}
    row = raw_values(layer="layer", task="task", readout="readout", metric="metric", n="values.cut.n", chance="chance")
    row |= raw_values(uncut="values.uncut.value", cut="values.cut.value") | raw_estimates(kept="kept_share")
    row |= raw_values(p_value="values.p_value") | {"p_holm": lambda row: adjusted[row.task, row.readout][row.layer]}
    columns = [Column(name, value) for name, value in (row | raw_values(seed="seed")).items()]
    rows = [row for curve in sweep.curves for row in curve.rows]
    return Table(name="layers", caption="", columns=columns, rows=rows)


def _curve_blocks(curve: Curve) -> list[Block]:
    """One task and readout in full."""
    first = curve.rows[0]
    adjusted, significant, share = curve.p_adjusted, curve.significant, _is_share(curve)
    uncut = with_interval(first.values.uncut, share=share, digits=1)
    chance = "none" if first.chance is None else number(first.chance, share=share, digits=1)
    text = f"Metric {escape(first.metric)}, n {first.values.uncut.n:,}, chance {chance}, uncut {uncut}. "
    text += f"No retention above chance, because {escape(curve.refused)}. " if curve.refused else ""
    text += (
        f"{words.scores_in([share])}. -/+: items lost and gained. p: of no change, McNemar's exact test or, for scores "
        "that are not 0/1, sign-flip permutation; Holm: corrected for the number of layers."
    )
    table = Table(
        name=f"layers-{curve.task}-{curve.readout}",
        caption=curve.label,
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
    return [text, table]


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


def _is_share(curve: Curve) -> bool:
    """Return True where scores are shown in percent: all of them lie between 0 and 1."""
    return all(0 <= value <= 1 for row in curve.rows for value in (row.values.uncut.value, row.values.cut.value))


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """A line for each two rankings."""

    def rho(agreement: Agreement) -> str:
        estimate, refused = agreement.rho
        return f"n/a: {refused}" if estimate is None else two_decimals(estimate)

    return Table(
        name="agreement",
        caption="Spearman's rank correlation of every two rankings of the layers",
        columns=[
            Column("ranking", lambda one: one.first),
            Column("and", lambda one: "itself, on the other half of its items" if one.kind == "halves" else one.second),
            Column("layers", lambda one: "-" if one.rho[0] is None else str(one.rho[0].n), numeric=True),
            Column("Spearman's rho", rho),
        ],
        rows=agreements,
    )


def _agreement_blocks(sweep: Sweep) -> list[Block]:
    agreements = sweep.agreements()
    if not agreements:
        return ["There is nothing to compare: no task whose uncut score is above chance, and fewer than two criteria."]
    return [agreement_table(agreements), bullets(map(escape, about_agreements(sweep)))]


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


def layers_figure(sweep: Sweep) -> Figure | None:
    """A panel for each task and a line for each readout; None where no task is above chance."""
    drawn = [curve for curve in sweep.curves if not curve.refused]
    if not drawn:
        return None
    tasks = list(dict.fromkeys(curve.task for curve in drawn))
    used = list(dict.fromkeys(curve.readout for curve in drawn))
    n = sorted({curve.rows[0].values.uncut.n for curve in drawn})
    return Figure(
        name="layers",
        title="Score kept above chance without one layer",
        panels=[_layers_panel([curve for curve in drawn if curve.task == task], sweep) for task in tasks],
        caption=(
            "Every point is the model without this one layer. 100 % is the original model, 0 % is guessing. Bands: "
            f"95 % intervals over the same {sweep.split} items (n {', '.join(map(str, n))}, seed "
            f"{sweep.rows[0].seed}). Filled points: a significant loss over all layers (p < 0.05 after Holm's "
            "correction). Open points: no significant loss."
        ),
        legend=[
            *(
                Key(
                    label=words.readout_words(name),
                    colour=charts.readout_colour(name),
                    dash=" ".join(map(str, charts.readout_dash(name))),
                )
                for name in used
            ),
            Key(label="significant loss", colour="var(--soft)", line=False),
            Key(label="not significant", colour="var(--soft)", line=False, hollow=True),
        ],
        columns=1,
        table=overview_table(sweep),
        picture=PLOT,
    )


def _layers_panel(curves: Sequence[Curve], sweep: Sweep) -> Panel:
    points: list[dict[str, Any]] = []
    for curve in curves:
        adjusted, stands = curve.p_adjusted, curve.significant
        name = words.readout_words(curve.readout)
        for number_of_part, part in enumerate(unbroken(curve.rows)):
            for row in part:
                assert row.kept_share is not None
                tooltip = {"without layer": str(row.layer), **_about_layer(row, adjusted[row.layer])}
                look: dict[str, Any] = {"part": f"{name} {number_of_part}", "hollow": row.layer not in stands}
                points.append(charts.marked(charts.ends(row.kept_share), name, **look, about=tooltip, x=row.layer))
    names = {curve.readout: words.readout_words(curve.readout) for curve in curves}
    spec = charts.curves(
        points,
        x_title="skipped decoder layer",
        y_title="kept, %",
        x=(sweep.layers[0] - 0.5, sweep.layers[-1] + 0.5),
        y=(charts.KEPT_LOW, charts.KEPT_HIGH),
        colours={name: charts.readout_colour(readout) for readout, name in names.items()},
        dashes={name: charts.readout_dash(readout) for readout, name in names.items()},
        marks=((100, "uncut"), (0, "guessing")),
        bands=True,
    )
    labels = []
    for curve in curves:
        least = min((row for row in curve.rows if row.kept_share), key=lambda row: row.values.cut.value)
        labels.append(
            f"{curve.label}: a loss stands at {len(curve.significant)} of {counted(len(curve.rows), 'layer')}; the "
            f"least is kept without layer {least.layer}: {words.kept(least.kept_share)}"
        )
    return Panel(spec=spec, title=curves[0].task, label=f"Line plot over layers. {'; '.join(labels)}.")


def _about_layer(row: SweepRow, p: float) -> dict[str, str]:
    share = all(0 <= value <= 1 for value in (row.values.uncut.value, row.values.cut.value))
    before, after = (number(one.value, share=share, digits=1) for one in (row.values.uncut, row.values.cut))
    unit = " %" if share else ""
    swapped = "" if row.values.lost is None else f"; lost/gained {row.values.lost}/{row.values.gained}"
    return {
        "task": f"{row.task}, {words.readout_words(row.readout)}",
        "kept": words.kept(row.kept_share),
        "score": f"{before}{unit} uncut, {after}{unit} without it",
        "items": f"n {row.values.cut.n:,}{swapped}",
        "p (Holm)": p_value(p),
    }


def unbroken(rows: Sequence[SweepRow]) -> list[list[SweepRow]]:
    """Neighbouring layers that have a value; a line must not run over layers that were not skipped."""
    runs: list[list[SweepRow]] = []
    for row in rows:
        if row.kept_share is None:
            continue
        if runs and row.layer == runs[-1][-1].layer + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return runs
