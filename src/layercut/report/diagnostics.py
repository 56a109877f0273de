"""The diagnostics in a report: title, question, figure and text of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from layercut.evidence.diagnosis import Diagnosis, MeasureRow
from layercut.evidence.program_classes import FINE
from layercut.report import charts
from layercut.report.elements import Block, Figure, Key, Panel, bullet_list
from layercut.report.table import Column, Table
from layercut.text import count_of, escape_inline, number_text, p_value, with_interval

_WORDS = {
    "never_closed": "bracket never closed",
    "unmatched": "bracket closes nothing",
    "mismatched": "bracket of another kind",
    "no_code": "no code",
    "cut": "cut by the length limit",
}
PROGRAM_SHARES = "Outcomes of the generated programs: number (% of all; % of those that fail)."
UNCUT = "uncut"
FEWEST = 5
"""Items of a group that has a line of its own, or intervals, in a picture; smaller ones are in the table alone."""


def program_table(classes: Mapping[str, Mapping[str, int]], *, name: str, caption: str, model: str = "model") -> Table:
    """A line for each model: how many of its programs end in each way, with shares of all and of those that fail.

    Args:
        classes: by model, how often each class occurs.
        model: what the models differ in.
    """

    def cell(kind: str, variant: str) -> str:
        counts = classes[variant]
        count, total = counts.get(kind, 0), sum(counts.values())
        failed = sum(count for of, count in counts.items() if of not in FINE)
        shares = f"{100 * count / total:.0f} %"
        if failed and kind not in FINE:
            shares += f"; {100 * count / failed:.0f} %"
        return f"{count} ({shares})"

    kinds = dict.fromkeys(kind for counts in classes.values() for kind in counts)
    columns = [Column(_WORDS.get(kind, kind.replace("_", " ")), partial(cell, kind)) for kind in kinds]
    return Table(name=name, caption=caption, columns=[model_column(model), *columns], rows=list(classes))


def model_column(name: str) -> Column:
    """The names of the models, of which a single skipped layer is shown by its number."""
    return Column(name, lambda variant: variant.removeprefix("layer-"))


def _bracket_blocks(diagnosis: Diagnosis) -> list[Block]:
    """How programs end."""
    classes = diagnosis["data"].get("classes")
    return [program_table(classes, name="diagnosis-brackets-more", caption=PROGRAM_SHARES)] if classes else []


def _propagation_blocks(diagnosis: Diagnosis) -> list[Block]:
    """Places where answers first go wrong."""
    lines = []
    for arm, where in diagnosis["data"].get("first_wrong", {}).items():
        differ = count_of(where["traces"], "answer")
        line = f"{escape_inline(arm)}: {where['parted']} of {differ} differ from the original model's"
        if where["parted"]:
            kinds = sorted(where["kinds"].items(), key=lambda kind: -kind[1])
            line += (
                f". First difference: {', '.join(f'{kind} {count}' for kind, count in kinds)}; "
                f"{where['at_first_token']} at the very first token. In {where['wrong_when_forced']} of them the "
                "original token is not the first choice under teacher forcing either"
            )
        lines.append(f"{line}.")
    return [bullet_list(lines)] if lines else []


def _demoted_blocks(diagnosis: Diagnosis) -> list[Block]:
    """Outcomes of the items that were lost."""
    verdicts = diagnosis["data"].get("verdicts", {})
    lines = []
    for arm, counts in verdicts.items():
        line = f"{escape_inline(arm)}: of {count_of(counts['lost'], 'item')} lost under greedy decoding, "
        line += f"{counts['demoted']} demoted and {counts['erased']} erased."
        if counts["lost"]:
            line += (
                f" Their right numbers are {number_text(counts['times'], share=False)} times as likely as by guessing "
                f"the digits (geometric mean). {counts['drawn']} come right in at least one sampled answer, "
                f"{counts['guessed']:.1f} would by guessing. One more worked example recovers {counts['helped']}."
            )
        lines.append(line)
    if any("times" in counts for counts in verdicts.values()):
        lines.append(
            "Demoted: the right number is at least four times as likely as by guessing its digits. A model that knows "
            "nothing of the result reaches that for one item in four at most."
        )
    return [bullet_list(lines)] if lines else []


def share_rows(diagnosis: Diagnosis) -> list[MeasureRow]:
    """The measures that are shares of items, of groups that are not too small for a picture."""
    return [row for row in diagnosis["rows"] if row.unit == "share" and (not row.group or row.n >= FEWEST)]


def share_table(diagnosis: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """A line for each measure that is a share of items; none where the models are more than the colours."""
    rows = share_rows(diagnosis)
    if not rows or len(arms) > len(charts.SERIES):
        return None
    points: list[dict[str, Any]] = []
    ticks = {}
    for row in rows:
        uncut, cut, difference = row.values[:3]
        about = {"measure": row.label, "n": f"{row.n} items"}
        if not any(point["name"] == row.label and point["series"] == UNCUT for point in points):
            points.append(_point(uncut, UNCUT, {**about, UNCUT: f"{with_interval(uncut)} %"}, row.label))
            if row.chance is not None:
                ticks[row.label] = round(100 * row.chance, 2)
        change = {"cut": f"{with_interval(cut)} %", "difference": with_interval(difference, sign=True)}
        about = {"model": row.arm, **about, **change, "p": p_value(row.values.p_value)}
        points.append(_point(cut, row.arm, about, row.label))
    colours = {UNCUT: charts.UNCUT} | charts.series_colours(arms)
    values = "; ".join(
        f"{row.label}: uncut {number_text(row.values.uncut.value)} %, {row.arm} {number_text(row.values.cut.value)} %"
        for row in rows
    )
    spec = charts.forest_chart(points, x_title="% of items", x=(-2, 102), colours=colours, ticks=ticks)
    caption = f"Points: uncut (open) and {', '.join(arms)} (filled); bars: 95 % intervals (n {charts.num_items(rows)})."
    return Figure(
        name="shares",
        title="Shares of items",
        panels=[Panel(spec=spec, label=f"Plot of points with intervals. {values}.")],
        caption=caption + (" Grey ticks: guessing." if ticks else ""),
        legend=[Key(label=name, colour=colour, hollow=name == UNCUT) for name, colour in colours.items()],
        columns=1,
    )


def _point(value: Sequence[Any], series: str, about: Mapping[str, str], name: str) -> dict[str, Any]:
    return charts.chart_point(value, series, 100, hollow=series == UNCUT, about=about, name=name)


class DiagnosticSection(NamedTuple):
    """One diagnostic in a report."""

    title: str
    question: str
    figure: Callable[[Diagnosis, Sequence[str]], Figure | None] = share_table
    """Draws the diagnosis of the named pruned models; None where there is nothing to draw."""
    lines: Callable[[Diagnosis], list[Block]] = lambda diagnosis: []  # text and tables beside the table of measures


SECTIONS: Mapping[str, DiagnosticSection] = {
    "arithmetic": DiagnosticSection(
        "Arithmetic", "Is the result of an expression still written, ranked first among near misses, and likely?"
    ),
    "brackets": DiagnosticSection(
        "Brackets and syntax",
        "Does the model still close brackets, in sequences of growing depth and in programs?",
        lines=_bracket_blocks,
    ),
    "degeneration": DiagnosticSection(
        "Degeneration", "Does the model repeat itself, run on without an end, or say nothing?"
    ),
    "propagation": DiagnosticSection(
        "Propagation",
        "Does damage occur at single tokens, or does it grow along the answer?",
        lines=_propagation_blocks,
    ),
    "demoted": DiagnosticSection(
        "Demoted or erased", "Is the right answer still likely, but no longer the first choice?", lines=_demoted_blocks
    ),
}
