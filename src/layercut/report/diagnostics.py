"""The diagnostics in a report: title, question, figure and text of each, with their plots."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from layercut.evidence.diagnosis import Diagnosis, MeasureRow
from layercut.evidence.program_classes import FINE
from layercut.report import charts
from layercut.report.elements import Block, Figure, Key, Panel, bullets
from layercut.report.table import Column, Table
from layercut.text.counting import counted
from layercut.text.markup import escape
from layercut.text.numbers import number, p_value, with_interval


class DiagnosticSection(NamedTuple):
    """One diagnostic in a report."""

    title: str
    question: str
    figure: Callable[[Diagnosis, Sequence[str]], Figure | None]
    """Draws the diagnosis of the named pruned models; None where there is nothing to draw."""
    lines: Callable[[Diagnosis], list[Block]]
    """Text and tables beside the table of measures."""


_WORDS = {
    "never_closed": "bracket never closed",
    "unmatched": "bracket closes nothing",
    "mismatched": "bracket of another kind",
    "no_code": "no code",
    "cut": "cut by the length limit",
}
PROGRAM_SHARES = "Outcomes of the generated programs: number (% of all; % of those that fail)."
_PLACES = (10, 30, 50, 70, 90)
"""Middles of the fifths of an answer, in percent."""
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
        f"{escape(arm)}: " + ", ".join(f"{count} by {reason}" for reason, count in sorted(counts.items()))
        for arm, counts in diagnosis["data"].get("finish", {}).items()
    ]
    return [f"How answers ended. {'; '.join(ended)}."] if ended else []


def _propagation_blocks(diagnosis: Diagnosis) -> list[Block]:
    """Places where answers first go wrong."""
    lines = []
    for arm, where in diagnosis["data"].get("first_wrong", {}).items():
        differ = counted(where["traces"], "answer")
        line = f"{escape(arm)}: {where['parted']} of {differ} differ from the original model's"
        if where["parted"]:
            kinds = sorted(where["kinds"].items(), key=lambda kind: -kind[1])
            line += (
                f". First difference: {', '.join(f'{kind} {count}' for kind, count in kinds)}; "
                f"{where['at_first_token']} at the very first token. In {where['wrong_when_forced']} of them the "
                "original token is not the first choice under teacher forcing either"
            )
        lines.append(f"{line}.")
    return [bullets(lines)] if lines else []


def _demoted_blocks(diagnosis: Diagnosis) -> list[Block]:
    """Outcomes of the items that were lost."""
    verdicts = diagnosis["data"].get("verdicts", {})
    lines = []
    for arm, counts in verdicts.items():
        line = f"{escape(arm)}: of {counted(counts['lost'], 'item')} lost under greedy decoding, "
        line += f"{counts['demoted']} demoted and {counts['erased']} erased."
        if counts["lost"]:
            line += (
                f" Their right numbers are {number(counts['times'], share=False)} times as likely as by guessing the "
                f"digits (geometric mean). {counts['drawn']} come right in at least one sampled answer, "
                f"{counts['guessed']:.1f} would by guessing. One more worked example recovers {counts['helped']}."
            )
        lines.append(line)
    if any("times" in counts for counts in verdicts.values()):
        lines.append(
            "Demoted: the right number is at least four times as likely as by guessing its digits. A model that knows "
            "nothing of the result reaches that for one item in four at most."
        )
    return [bullets(lines)] if lines else []


def model_colours(arms: Sequence[str]) -> dict[str, str]:
    """A colour for the uncut and each pruned model."""
    return {"uncut": charts.UNCUT} | charts.colours(arms)


def share_rows(diagnosis: Diagnosis) -> list[MeasureRow]:
    """The measures that are shares of items, of groups that are not too small for a picture."""
    return [row for row in diagnosis["rows"] if row.unit == "share" and (not row.group or row.n >= FEWEST)]


def shares(diagnosis: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """A line for each measure that is a share of items."""
    rows = share_rows(diagnosis)
    return _shares_figure(arms, [_forest(rows, arms, "% of items", "")], rows) if rows else None


def _bracket_figure(diagnosis: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """Shares of items; sequences of brackets by their depth."""
    rows = [row for row in share_rows(diagnosis) if not row.group]
    if not rows:
        return None
    panels = [_forest(rows, arms, "% of items", "")]
    for measure, what in (("closed", "all brackets closed"), ("next bracket", "next bracket right")):
        own = [row for row in diagnosis["rows"] if row.metric == measure and row.group.startswith("depth ")]
        if own:
            panels.append(_by_depth(own, arms, what))
    return _shares_figure(arms, panels, rows)


def _propagation_figure(diagnosis: Diagnosis, arms: Sequence[str]) -> Figure | None:
    """First choices by kind of token; right tokens along the answer; answers that come right with a start given."""
    if not diagnosis["rows"]:
        return None
    panels = []
    kinds = [row for row in diagnosis["rows"] if row.metric == "first choice"]
    if kinds:
        panels.append(_forest(kinds, arms, "first choice is right, %", "By kind of token, the right start given", True))
    points: list[dict[str, Any]] = []
    colours, dashes = {}, {}
    for arm in arms:
        for way, key, dash in (("given", "teacher_forced", (1, 0)), ("alone", "free_running", (6, 3))):
            series = f"{arm}, {way}"
            colours[series], dashes[series] = model_colours(arms)[arm], dash
            for x, value in zip(_PLACES, diagnosis["data"]["places"][arm][key], strict=True):
                if value is not None:
                    place = f"{x - 10} to {x + 10} % of the answer"
                    about = {"model": arm, "place": place, "right start": way, "right": f"{number(value)} %"}
                    points.append(charts.point((value, None, None), series, 100, about=about, x=x))
    if points:
        spec = charts.curves(
            points, x_title="place in the answer, %", y_title="right tokens, %", x=(0, 100), y=(-4, 104),
            colours=colours, dashes=dashes,
        )  # fmt: skip
        where = "Right tokens along the answer; solid: the right start given, dashed: the model alone"
        panels.append(Panel(spec=spec, title=where, label=f"Line plot. {where}. Numbers are in the table or hover."))
    clamped = [row for row in diagnosis["rows"] if row.metric == "clamped"]
    if clamped:
        groups = list(dict.fromkeys(row.group for row in clamped))
        step = 100 / max(1, len(groups) - 1)
        points = []
        for row in clamped:
            right = f"{with_interval(row.values.cut)} %"
            about = {"model": row.arm, "given": row.group, "come right": right, "n": f"{row.n} items"}
            points.append(_point(row.values.cut, row.arm, about, x=step * groups.index(row.group)))
        spec = charts.curves(
            points, x_title="of the right answer given, %", y_title="answers that come right, %", x=(-3, 103),
            y=(-4, 104), colours=charts.colours(arms),
        )  # fmt: skip
        where = "Answers that come right when a part is given"
        panels.append(Panel(spec=spec, title=where, label=f"Line plot. {where}: {_values(clamped)}."))
    return Figure(
        name="propagation",
        title="Propagation",
        panels=panels,
        caption=f"Bars and bands: 95 % intervals where they are known (n {charts.num_items(diagnosis['rows'])}).",
        legend=_keys(arms),
    )


def _shares_figure(arms: Sequence[str], panels: Sequence[Panel], rows: Sequence[MeasureRow]) -> Figure:
    caption = f"Points: uncut (open) and {', '.join(arms)} (filled); bars: 95 % intervals (n {charts.num_items(rows)})."
    caption += " Grey ticks: guessing." if any(row.chance is not None for row in rows) else ""
    return Figure(name="shares", title="Shares of items", panels=panels, caption=caption, legend=_keys(arms), columns=1)


def _keys(arms: Sequence[str]) -> list[Key]:
    return [Key(label=name, colour=colour, hollow=name == "uncut") for name, colour in model_colours(arms).items()]


def _by_depth(rows: Sequence[MeasureRow], arms: Sequence[str], what: str) -> Panel:
    depths = [int(row.group.removeprefix("depth ")) for row in rows]
    points = []
    for row, depth in zip(rows, depths, strict=True):
        about = {"depth": str(depth), "n": f"{row.n} items"}
        values = {"uncut": row.values.uncut} if row.arm == arms[0] else {}
        for name, value in (values | {row.arm: row.values.cut}).items():
            label = "uncut" if name == "uncut" else "cut"
            points.append(_point(value, name, about | {label: f"{with_interval(value)} %"}, x=depth))
    spec = charts.curves(
        points, x_title="brackets open", y_title=f"{what}, %", x=(min(depths) - 0.5, max(depths) + 0.5), y=(-4, 104),
        colours=model_colours(arms),
    )  # fmt: skip
    title = f"{what[0].upper()}{what[1:]}, by depth"
    return Panel(spec=spec, title=title, label=f"Line plot. {what}: {_values(rows)}.")


def _forest(rows: Sequence[MeasureRow], arms: Sequence[str], x_title: str, title: str, groups: bool = False) -> Panel:
    points: list[dict[str, Any]] = []
    ticks = {}
    for row in rows:
        name = row.group if groups else row.label
        uncut, cut, difference = row.values[:3]
        about = {"measure": row.label, "n": f"{row.n} items"}
        if not any(point["name"] == name and point["series"] == "uncut" for point in points):
            points.append(_point(uncut, "uncut", about | {"uncut": f"{with_interval(uncut)} %"}, name=name))
            if row.chance is not None:
                ticks[name] = round(100 * row.chance, 2)
        change = {"cut": f"{with_interval(cut)} %", "difference": with_interval(difference, sign=True)}
        about = {"model": row.arm, **about, **change, "p": p_value(row.values.p_value)}
        points.append(_point(cut, row.arm, about, name=name))
    spec = charts.forest(points, x_title=x_title, x=(-2, 102), colours=model_colours(arms), ticks=ticks)
    return Panel(spec=spec, title=title, label=f"Plot of points with intervals. {title}: {_values(rows)}.")


def _point(value: Sequence[Any], series: str, about: Mapping[str, str], **place: Any) -> dict[str, Any]:
    return charts.point(value, series, 100, hollow=series == "uncut", about=about, **place)


def _values(rows: Sequence[MeasureRow]) -> str:
    return "; ".join(
        f"{row.label}: uncut {number(row.values.uncut.value)} %, {row.arm} {number(row.values.cut.value)} %"
        for row in rows
    )


SECTIONS: Mapping[str, DiagnosticSection] = {
    "arithmetic": DiagnosticSection(
        "Arithmetic",
        "Is the result of an expression still written, ranked first among near misses, and likely?",
        shares,
        lambda diagnosis: [],
    ),
    "brackets": DiagnosticSection(
        "Brackets and syntax",
        "Does the model still close brackets, in sequences of growing depth and in programs?",
        _bracket_figure,
        _bracket_blocks,
    ),
    "degeneration": DiagnosticSection(
        "Degeneration",
        "Does the model repeat itself, run on without an end, or say nothing?",
        shares,
        _degeneration_blocks,
    ),
    "propagation": DiagnosticSection(
        "Propagation",
        "Does damage occur at single tokens, or does it grow along the answer?",
        _propagation_figure,
        _propagation_blocks,
    ),
    "demoted": DiagnosticSection(
        "Demoted or erased",
        "Is the right answer still likely, but no longer the first choice?",
        shares,
        _demoted_blocks,
    ),
}
