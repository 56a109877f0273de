"""Diagnostics of pruned models: what broke first, all measures, and examples."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from layercut.evidence.completions import first_difference
from layercut.evidence.diagnosis import (
    Damage,
    Diagnosis,
    DiagnosisExample,
    MeasureRow,
    layer_damages,
    with_rows,
)
from layercut.evidence.intervals import ALPHA, Estimate
from layercut.report.diagnostics import SECTIONS
from layercut.report.elements import Block, Details, Example, Facts, Lead, Section, Side, bullet_list
from layercut.report.table import Cell, Column, Styled, Table, raw_estimates, raw_values
from layercut.text import count_of, escape_inline, number_text, p_value, with_interval

if TYPE_CHECKING:
    from layercut.report.source import Source

NUM_EXAMPLES = 2
"""Examples of each diagnostic and pruned model."""


def damage_answer(source: Source) -> Section:
    """Make the section of the first damage of each pruned model."""
    data = source.value
    lines = [
        (f"What broke first in {arm['name']}", damage_summary(data["diagnostics"], arm["name"])[0])
        for arm in data["arms"][1:]
    ]
    diagnosed = f"at most {count_of(data['limit'], 'item')} of each kind"
    scope = [("model", escape_inline(source.model)), ("diagnosed", diagnosed)]
    blocks: list[Block] = [Lead(lines=lines), Facts(facts=scope)]
    return Section(name="answer", title="What broke first?", short="Answer", blocks=blocks)


def broken_section(source: Source) -> Section:
    """Make the section of diagnostics."""
    data = source.value
    diagnoses: Mapping[str, Diagnosis] = data["diagnostics"]
    arms = [arm["name"] for arm in data["arms"][1:]]
    blocks: list[Block] = [
        bullet_list(f"{escape_inline(arm['name'])}: {escape_inline(arm['describe'])}" for arm in data["arms"])
    ]
    for arm in arms:
        first, *rest = damage_summary(diagnoses, arm)
        blocks.append("\n".join([f"**{escape_inline(arm)}.** {first}", *rest]))
    for name, diagnosis in diagnoses.items():
        section = SECTIONS[name]
        table = measure_table(diagnosis["rows"], f"diagnosis-{name}", f"{section.title}: all measures, shares in %")
        blocks.append(f"**{section.title}.** {section.question}")
        if figure := section.figure(diagnosis, arms):
            caption, file = f"{figure.caption} Seed {data['seed']}.", f"diagnose-{name}.png"
            blocks.append(replace(figure, name=table.name, caption=caption, picture=file, table=table))
        elif table.rows:
            blocks.append(table)
        blocks += [*section.lines(diagnosis), bullet_list(map(escape_inline, diagnosis["notes"]))]
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


def damage_summary(diagnoses: Mapping[str, Diagnosis], arm: str) -> list[str]:
    """List the diagnostics with significant damage in one pruned model, the largest loss first, and those without."""
    judged = [
        name
        for name, diagnosis in diagnoses.items()
        if any(row.arm == arm and row.headline for row in diagnosis["rows"])
    ]
    if not judged:
        return ["None of the chosen diagnostics tests for damage."]
    significant = layer_damages(diagnoses, arm)
    if not significant:
        return [f"No significant damage in {', '.join(judged)}. Damage may still exist: see the intervals."]
    first, *rest = map(_words, significant)
    lines = [f"**Broke first: {first}.**"]
    if rest:
        lines += ["", "Also significant, the largest loss first:", "", *(f"- {words}" for words in rest)]
    where = diagnoses["propagation"]["data"].get("first_wrong", {}).get(arm) if "propagation" in diagnoses else None
    if where and (kinds := where["kinds"]):
        kind = max(sorted(kinds), key=kinds.__getitem__)
        lines += [
            "",
            f"Its own answers differ from {where['parted']} of {where['traces']} right answers of the original model. "
            f"The first difference is most often a token of the kind *{kind}* ({kinds[kind]}).",
        ]
    undamaged = [name for name in judged if name not in {damage.row.diagnostic for damage in significant}]
    if undamaged:
        lines += ["", f"No significant damage in {', '.join(undamaged)}."]
    return lines


def summary_lines(data: Mapping[str, Any]) -> list[str]:
    """Return what broke first in each pruned model as plain text; ``data`` is what diagnose.json holds."""
    diagnoses, lines = with_rows(data)["diagnostics"], []
    for arm in data["arms"][1:]:
        found = (re.sub(r"[*\\]", "", line) for line in damage_summary(diagnoses, arm["name"]) if line)
        lines += [arm["name"], *(f"  {line}" for line in found)]
    return lines


def _words(damage: Damage) -> str:
    row = damage.row
    unit = " %" if row.unit == "share" else ""
    before, after = (f"{number_text(level.value, share=row.unit == 'share')}{unit}" for level in row.values[:2])
    text = f"{row.diagnostic}, {row.label}: {before} uncut, {after} cut"
    if row.kept_share is not None:
        text += f", {with_interval(row.kept_share)} % kept{'' if row.chance is None else ' above chance'}"
    return f"{escape_inline(text)} (n {row.n}, p {p_value(damage.p_adjusted)})"


def diagnosis_examples(data: Mapping[str, Any]) -> dict[str, list[Example]]:
    """By diagnostic, two items for each pruned model, picked by the hash of their id; none for one without examples."""
    examples = {}
    for name, diagnosis in data["diagnostics"].items():
        items = sorted(diagnosis["examples"], key=lambda item: hashlib.sha256(item["id"].encode()).digest())
        picked = [
            item
            for arm in data["arms"][1:]
            for item in [item for item in items if item["arm"] == arm["name"]][:NUM_EXAMPLES]
        ]
        if picked:
            examples[name] = [_example(item) for item in picked]
    return examples


def _example(item: DiagnosisExample) -> Example:
    uncut = Side(name="uncut", text=item["uncut"], ended="right")
    cut = different_side(item["arm"], item["cut"], item["uncut"], tokens=item["tokens"])
    return Example(item=item["id"], question=item["question"], gold=item["gold"], texts=[("", [uncut, cut])])


def different_side(name: str, text: str, uncut: str, *, ended: str = "", tokens: Sequence[str] = ()) -> Side:
    """A pruned model's answer with its first difference from the original model's.

    ``tokens``: those of the original model's answer where they are known, else digits, words and signs are compared.
    """
    difference = None if text == uncut else first_difference(uncut, text, tokens)
    return Side(name=name, text=text, ended=ended, difference=difference)


def measure_table(rows: Sequence[MeasureRow], name: str, caption: str = "") -> Table:
    """The measures of one diagnostic; the CSV has every number unrounded."""
    columns = _COLUMNS if rows else [Column("measure", _measure)]
    return Table(name=name, caption=caption, columns=columns, rows=rows)


def measure_column(
    name: str,
    rows: Mapping[str, tuple[MeasureRow, bool]],
    shown: Callable[[Estimate, MeasureRow], str],
    *,
    numeric: bool = False,
) -> Column:
    """The values of every model, with a star for a significant loss; a model without a row is the original one."""

    def value(arm: str) -> str:
        if arm not in rows:
            first, _ = next(iter(rows.values()))
            return shown(first.values.uncut, first)
        row, stands = rows[arm]
        return shown(row.values.cut, row) + "*" * stands

    return Column(name, value, numeric=numeric)


def _measure(row: MeasureRow) -> Cell:
    name = row.label + ("" if row.unit in ("share", "score") else f" ({row.unit})")
    return Styled(name, "strong") if row.headline and row.is_worse and row.values.p_value < ALPHA else name


def _level(level: Estimate, row: MeasureRow, *, sign: bool = False) -> str:
    return with_interval(level, share=row.unit == "share", sign=sign)


def _chance(row: MeasureRow) -> str:
    return "-" if row.chance is None else number_text(row.chance, share=row.unit == "share")


def _kept(row: MeasureRow) -> str:
    return "-" if row.kept_share is None else with_interval(row.kept_share)


_COLUMNS = [
    Column("measure", _measure, raw=raw_values(diagnostic="diagnostic", measure="metric", group="group")),
    Column("model", attrgetter("arm"), raw=raw_values(model="arm", unit="unit")),
    Column("n", lambda row: str(row.n), numeric=True),
    Column("chance", _chance, numeric=True, raw=raw_values(chance="chance")),
    Column("uncut", lambda row: _level(row.values.uncut, row), raw=raw_estimates(uncut="values.uncut")),
    Column("cut", lambda row: _level(row.values.cut, row), raw=raw_estimates(cut="values.cut")),
    Column(
        "difference",
        lambda row: _level(row.values.difference, row, sign=True),
        raw=raw_estimates(difference="values.difference"),
    ),
    Column("kept", _kept, raw=raw_estimates(kept="kept_share")),
    Column(
        "p",
        lambda row: p_value(row.values.p_value),
        numeric=True,
        raw=raw_values(p_value="values.p_value", test="values.test", headline="headline", seed="seed"),
    ),
]


_HOW_MADE = (
    "Shares in %. kept: cut / uncut, or (cut - chance) / (uncut - chance) where guessing has a score. Intervals: "
    "Wilson for right and wrong, BCa otherwise, a Bayesian bootstrap over paired items for differences.",
    "p: McNemar's exact test for right and wrong, else sign flips. Bold: a headline measure that is worse with "
    f"p < {ALPHA} before correction. *What broke first* lists only measures that stay significant after Holm's "
    "correction over all headline measures of a model.",
    "*First* means the largest share lost of the original model's value, not the first in time. Where an answer "
    "first goes wrong is reported beside it.",
    "Kinds of tokens, depths, sizes and demotion explain damage; they do not test for it.",
)
_ITEMS = "Items and resampling come from seed {}. Items are report items: no plan was chosen on them."
"""Meaning of shares, intervals, p-values and *first*."""
