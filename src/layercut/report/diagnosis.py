"""Diagnostics of pruned models: what broke first, all measures, and examples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from layercut.evidence.diagnosis import Damage, Diagnosis, MeasureRow, layer_damages, with_rows
from layercut.evidence.intervals import ALPHA, Estimate
from layercut.report.answers import program_table
from layercut.report.elements import Block, Cell, Column, Details, Lead, Section, Styled, Table, bullet_list
from layercut.report.source import Source
from layercut.text import count_of, escape_inline, number_text, p_value, with_interval


def damage_answer(source: Source) -> Section:
    """Make the section of the first damage of each pruned model."""
    data = source.value
    lines = (
        f"What broke first in {escape_inline(arm['name'])}: {damage_summary(data['diagnostics'], arm['name'])}"
        for arm in data["arms"][1:]
    )
    return Section(name="answer", title="What broke first?", short="Answer", blocks=[Lead(bullet_list(lines))])


def broken_section(source: Source) -> Section:
    """Make the section of diagnostics."""
    data = source.value
    diagnoses: Mapping[str, Diagnosis] = data["diagnostics"]
    lines = (f"{escape_inline(arm['name'])}: {escape_inline(arm['describe'])}" for arm in data["arms"])
    blocks: list[Block] = [bullet_list(lines)]
    for name, diagnosis in diagnoses.items():
        blocks.append(f"**{name}**")
        if rows := diagnosis["rows"]:
            caption = f"{name}: all measures, shares in %"
            blocks.append(Table(name=f"diagnosis-{name}", caption=caption, columns=_COLUMNS, rows=rows))
        if classes := diagnosis["data"].get("classes"):
            blocks.append(program_table(classes, f"diagnosis-{name}-more", "", "model"))
        blocks.append(bullet_list(map(escape_inline, diagnosis["notes"])))
    blocks.append(Details(summary="How to read this", blocks=[bullet_list([*_HOW_MADE, _ITEMS.format(data["seed"])])]))
    return Section(
        name="broken",
        title="What exactly broke",
        short="Damage",
        lead="Each diagnostic asks the original and the pruned models the same questions: at most "
        f"{count_of(data['limit'], 'item')} of each kind (--limit {data['limit']}), seed {data['seed']}. Intervals are "
        "95 %.",
        blocks=blocks,
    )


def damage_summary(diagnoses: Mapping[str, Diagnosis], arm: str) -> str:
    """What broke first in a pruned model, all other significant damage, and the diagnostics without, in a line."""
    judged = [
        name
        for name, diagnosis in diagnoses.items()
        if any(row.arm == arm and row.headline for row in diagnosis["rows"])
    ]
    if not judged:
        return "None of the chosen diagnostics tests for damage."
    significant = layer_damages(diagnoses, arm)
    if not significant:
        return f"No significant damage in {', '.join(judged)}. Damage may still exist: see the intervals."
    first, *rest = map(_words, significant)
    text = f"**Broke first: {first}.**"
    if rest:
        text += f" Also significant, the largest loss first: {'; '.join(rest)}."
    undamaged = [name for name in judged if name not in {damage.row.diagnostic for damage in significant}]
    return f"{text} No significant damage in {', '.join(undamaged)}." if undamaged else text


def summary_lines(data: Mapping[str, Any]) -> list[str]:
    """Return what broke first in each pruned model as plain text; ``data`` is what diagnose.json holds."""
    diagnoses = with_rows(data)["diagnostics"]
    lines = []
    for arm in (arm["name"] for arm in data["arms"][1:]):
        lines += [arm, "  " + re.sub(r"[*\\]", "", damage_summary(diagnoses, arm))]
    return lines


def _words(damage: Damage) -> str:
    row = damage.row
    unit = " %" if row.unit == "share" else ""
    before, after = (f"{number_text(level.value, share=row.unit == 'share')}{unit}" for level in row.values[:2])
    text = f"{row.diagnostic}, {row.label}: {before} uncut, {after} cut"
    if row.kept_share is not None:
        text += f", {with_interval(row.kept_share)} % kept{'' if row.chance is None else ' above chance'}"
    return f"{escape_inline(text)} (n {row.n}, p {p_value(damage.p_adjusted)})"


def _measure(row: MeasureRow) -> Cell:
    name = row.label if row.unit == "share" else f"{row.label} ({row.unit})"
    return Styled(name, "strong") if row.headline and row.is_worse and row.values.p_value < ALPHA else name


def _level(level: Estimate, row: MeasureRow, *, sign: bool = False) -> str:
    return with_interval(level, share=row.unit == "share", sign=sign)


def _chance(row: MeasureRow) -> str:
    return "-" if row.chance is None else number_text(row.chance, share=row.unit == "share")


def _kept(row: MeasureRow) -> str:
    return "-" if row.kept_share is None else with_interval(row.kept_share)


_COLUMNS = [
    Column("measure", _measure),
    Column("model", attrgetter("arm")),
    Column("n", lambda row: str(row.n), numeric=True),
    Column("chance", _chance, numeric=True),
    Column("uncut", lambda row: _level(row.values.uncut, row)),
    Column("cut", lambda row: _level(row.values.cut, row)),
    Column("difference", lambda row: _level(row.values.difference, row, sign=True)),
    Column("kept", _kept),
    Column("p", lambda row: p_value(row.values.p_value), numeric=True),
]
_HOW_MADE = (
    "Shares in %. kept: cut / uncut, or (cut - chance) / (uncut - chance) where guessing has a score.",
    "p: McNemar's exact test for right and wrong, else sign flips. Bold: a headline measure that is worse with "
    f"p < {ALPHA} before correction. *What broke first* lists only measures that stay significant after Holm's "
    "correction over all headline measures of a model, the largest share lost first.",
    "Kinds of tokens, depths and sizes explain damage; they do not test for it.",
)
_ITEMS = "Items and resampling come from seed {}. Items are report items: no plan was chosen on them."
"""Meaning of shares, intervals, p-values and *first*."""
