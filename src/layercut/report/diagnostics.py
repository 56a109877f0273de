"""The diagnostics in a report: title, question, figure and text of each, with their plots."""

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


def program_classes(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The classes that occur in any model."""
    return list(dict.fromkeys(name for counts in classes.values() for name in counts))


def program_words(name: str) -> str:
    """A class for people."""
    return _WORDS.get(name, name.replace("_", " "))


def program_cell(counts: Mapping[str, int], name: str) -> str:
    """Number and shares of one class, given how often each occurs in one model."""
    count, total = counts.get(name, 0), sum(counts.values())
    failed = sum(count for kind, count in counts.items() if kind not in FINE)
    share = f"{100 * count / total:.0f} %"
    return f"{count} ({share})" if name in FINE or not failed else f"{count} ({share}; {100 * count / failed:.0f} %)"


def _bracket_blocks(diagnosis: Diagnosis) -> list[Block]:
    """Number of programs by how they end, share of all, share of those that fail."""
    classes = diagnosis["data"].get("classes", {})
    names = program_classes(classes)
    columns = [Column("", program_words), *(Column(arm, partial(program_cell, classes[arm])) for arm in classes)]
    table = Table(name="diagnosis-brackets-more", caption=PROGRAM_SHARES, columns=columns, rows=names)
    return [table] if names else []


def _degeneration_blocks(diagnosis: Diagnosis) -> list[Block]:
    """Endings of the answers."""
    ended = [
        f"{escape_inline(arm)}: " + ", ".join(f"{count} by {reason}" for reason, count in sorted(counts.items()))
        for arm, counts in diagnosis["data"].get("finish", {}).items()
    ]
    return [f"How answers ended. {'; '.join(ended)}."] if ended else []


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
    """A line for each measure that is a share of items."""
    rows = share_rows(diagnosis)
    if not rows:
        return None
    caption = f"Points: uncut (open) and {', '.join(arms)} (filled); bars: 95 % intervals (n {charts.num_items(rows)})."
    caption += " Grey ticks: guessing." if any(row.chance is not None for row in rows) else ""
    return _figure("Shares of items", [_forest(rows, arms, "% of items", "")], caption, arms, columns=1)


def _propagation_figure(diagnosis: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """First choices by kind of token; answers that come right with a start given."""
    rows = diagnosis["rows"]
    panels = []
    if kinds := [row for row in rows if row.metric == "first choice"]:
        panels.append(_forest(kinds, arms, "first choice is right, %", "By kind of token, the right start given", True))
    if clamped := [row for row in rows if row.metric == "clamped"]:
        points = []
        for row in clamped:
            about = {"model": row.arm, "given": row.group, "n": f"{row.n} items"}
            about["come right"] = f"{with_interval(row.values.cut)} %"
            points.append(_point(row.values.cut, row.arm, about, x=float(row.group.partition("%")[0])))
        spec = charts.curve_chart(
            points, x_title="of the right answer given, %", y_title="answers that come right, %", x=(-3, 103),
            y=(-4, 104), colours=charts.series_colours(arms),
        )  # fmt: skip
        title = "Answers that come right when a part is given"
        panels.append(Panel(spec=spec, title=title, label=f"Line plot. {title}: {_values(clamped)}."))
    if not panels:
        return None
    caption = f"Bars: 95 % intervals where they are known (n {charts.num_items(rows)})."
    return _figure("Propagation", panels, caption, arms)


def _figure(title: str, panels: Sequence[Panel], caption: str, arms: Sequence[str], columns: int = 2) -> Figure:
    legend = [Key(label=name, colour=colour, hollow=name == UNCUT) for name, colour in _colours(arms).items()]
    return Figure(name=title, title=title, panels=panels, caption=caption, legend=legend, columns=columns)


def _colours(arms: Sequence[str]) -> dict[str, str]:
    return {UNCUT: charts.UNCUT} | charts.series_colours(arms)


def _forest(rows: Sequence[MeasureRow], arms: Sequence[str], x_title: str, title: str, groups: bool = False) -> Panel:
    points: list[dict[str, Any]] = []
    ticks = {}
    for row in rows:
        name = row.group if groups else row.label
        uncut, cut, difference = row.values[:3]
        about = {"measure": row.label, "n": f"{row.n} items"}
        if not any(point["name"] == name and point["series"] == UNCUT for point in points):
            points.append(_point(uncut, UNCUT, {**about, UNCUT: f"{with_interval(uncut)} %"}, name=name))
            if row.chance is not None:
                ticks[name] = round(100 * row.chance, 2)
        change = {"cut": f"{with_interval(cut)} %", "difference": with_interval(difference, sign=True)}
        about = {"model": row.arm, **about, **change, "p": p_value(row.values.p_value)}
        points.append(_point(cut, row.arm, about, name=name))
    spec = charts.forest_chart(points, x_title=x_title, x=(-2, 102), colours=_colours(arms), ticks=ticks)
    return Panel(spec=spec, title=title, label=f"Plot of points with intervals. {title}: {_values(rows)}.")


def _point(value: Sequence[Any], series: str, about: Mapping[str, str], **place: Any) -> dict[str, Any]:
    return charts.chart_point(value, series, 100, hollow=series == UNCUT, about=about, **place)


def _values(rows: Sequence[MeasureRow]) -> str:
    return "; ".join(
        f"{row.label}: uncut {number_text(row.values.uncut.value)} %, {row.arm} {number_text(row.values.cut.value)} %"
        for row in rows
    )


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
        "Degeneration",
        "Does the model repeat itself, run on without an end, or say nothing?",
        lines=_degeneration_blocks,
    ),
    "propagation": DiagnosticSection(
        "Propagation",
        "Does damage occur at single tokens, or does it grow along the answer?",
        _propagation_figure,
        _propagation_blocks,
    ),
    "demoted": DiagnosticSection(
        "Demoted or erased", "Is the right answer still likely, but no longer the first choice?", lines=_demoted_blocks
    ),
}
