"""diagnose.md: for each pruned model what broke first, with examples, and all diagnostics."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from layercut.evidence.completions import first_difference
from layercut.evidence.diagnosis import (
    Damage,
    Diagnosis,
    DiagnosisExample,
    MeasureRow,
    damages,
    likely_kind,
    load,
    with_rows,
)
from layercut.evidence.intervals import ALPHA, Estimate
from layercut.report.diagnosis.sections import SECTIONS
from layercut.report.figures.picture import save
from layercut.report.provenance import write_report
from layercut.report.table import Cell, Column, Part, Styled, Table, raw_estimates, raw_values
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home
from layercut.text.counting import counted
from layercut.text.markup import code, escape, fenced
from layercut.text.numbers import number, p_value, with_interval

REPORT = "diagnose.md"
NUM_EXAMPLES = 2
"""Examples of each diagnostic and pruned model."""


def diagnosis_report(folder: Path, *, texts: bool = True) -> Path:
    """Write diagnose.md and its pictures again from what the run folder holds; gives the path of diagnose.md.

    ``texts``: whether examples of questions and answers are shown.

    Raises:
        InputError: no run folder, or no diagnosis in it.
    """
    run = RunFolder.open(folder)
    data = load(run.path)
    diagnoses: dict[str, Diagnosis] = data["diagnostics"]
    arms = data["arms"]
    names = [arm["name"] for arm in arms[1:]]
    lines: list[Part] = [
        f"# What broke in {escape(hide_home(data['model']))}",
        "",
        f"At most {counted(data['limit'], 'item')} of each kind (--limit {data['limit']}), seed {data['seed']}. All "
        "pruned models answer the items of the original model. Intervals are 95 %.",
        "",
    ]
    lines += [f"- uncut: {escape(arms[0]['describe'])}"]
    lines += [f"- {escape(arm['name'])}: {escape(arm['describe'])}" for arm in arms[1:]]
    lines.append("")
    for arm in arms[1:]:
        lines += [f"## {escape(arm['name'])}: what broke first", "", *summary(diagnoses, arm["name"]), ""]
        lines += _examples(diagnoses, arm["name"]) if texts else []
    for name, found in diagnoses.items():
        section = SECTIONS[name]
        lines += [f"## {section.title}", "", section.question, ""]
        picture = f"diagnose-{name}.png"
        if save(section.figure(found, names), run.path / picture):
            lines += [f"![{section.title}]({picture})", ""]
        if found["rows"]:
            lines += [measure_table(found["rows"]), ""]
        lines += section.lines(found)
        lines += [*(f"- {escape(note)}" for note in found["notes"]), ""]
    return write_report(run, REPORT, [*lines, *how_made(data)])


def summary(diagnoses: Mapping[str, Diagnosis], arm: str) -> list[str]:
    """List the diagnostics with significant damage in one pruned model, the largest loss first, and those without."""
    found = damages(diagnoses, arm)
    judged = [name for name, one in diagnoses.items() if any(row.arm == arm and row.headline for row in one["rows"])]
    if not judged:
        return ["None of the chosen diagnostics tests for damage."]
    if not found:
        return [f"No significant damage in {', '.join(judged)}. Damage may still exist: see the intervals."]
    first, rest = found[0], found[1:]
    lines = [f"**Broke first: {_words(first)}.**"]
    if rest:
        lines += ["", "Also significant, the largest loss first:", "", *(f"- {_words(one)}" for one in rest)]
    propagation = diagnoses.get("propagation")
    where = propagation["data"].get("first_wrong", {}).get(arm) if propagation else None
    if where and (kind := likely_kind(where)):
        lines.append("")
        lines.append(
            f"Its own answers differ from {where['parted']} of {where['traces']} right answers of the original model. "
            f"The first difference is most often a token of the kind *{kind}* ({where['kinds'][kind]})."
        )
    damaged = {one.row.diagnostic for one in found}
    undamaged = [name for name in judged if name not in damaged]
    if undamaged:
        lines += ["", f"No significant damage in {', '.join(undamaged)}."]
    return lines


def summary_lines(data: Mapping[str, Any]) -> list[str]:
    """Return what broke first in each pruned model as plain text; ``data`` is what diagnose.json holds."""
    diagnoses, lines = with_rows(data)["diagnostics"], []
    for arm in data["arms"][1:]:
        found = (re.sub(r"[*\\]", "", line) for line in summary(diagnoses, arm["name"]) if line)
        lines += [arm["name"], *(f"  {line}" for line in found)]
    return lines


def _words(found: Damage) -> str:
    row = found.row
    share = row.unit == "share"
    before, after = (number(level.value, share=share) for level in row.values[:2])
    unit = " %" if share else ""
    text = f"{row.diagnostic}, {row.label}: {before}{unit} uncut, {after}{unit} cut"
    if row.kept_share is not None:
        above = "" if row.chance is None else " above chance"
        text += f", {with_interval(row.kept_share)} % kept{above}"
    return f"{escape(text)} (n {row.n}, p {p_value(found.p_adjusted)})"


def _examples(diagnoses: Mapping[str, Diagnosis], arm: str) -> list[str]:
    """Two items of each diagnostic, picked by the hash of their id, with the first wrong token marked."""
    lines = []
    for found in diagnoses.values():
        for one in picked(found["examples"], arm):
            gold = f", right answer {code(one['gold'])}" if one["gold"] else ""
            lines += [f"{one['diagnostic'].capitalize()}, item {code(one['id'])}{gold}:", ""]
            lines += [*fenced(_side_by_side(one)), ""]
    if lines:
        lines[:0] = ["### Examples", "", "⟦ ⟧ mark the first token that differs from the original model's answer.", ""]
    return lines


def picked(examples: Sequence[DiagnosisExample], arm: str) -> list[DiagnosisExample]:
    """Those of one pruned model that are shown, by the hash of their id."""
    mine = [one for one in examples if one["arm"] == arm]
    return sorted(mine, key=lambda one: hashlib.sha256(one["id"].encode()).digest())[:NUM_EXAMPLES]


def _side_by_side(one: DiagnosisExample) -> str:
    """Question and answers, long ones around the first difference."""
    start, _ = first_difference(one["uncut"], one["cut"], one["tokens"])
    question = one["question"] if len(one["question"]) <= 160 else "[...] " + one["question"][-150:]
    uncut, cut = _around(one["uncut"], start), _around(marked(one), start)
    return f"{question}\n--- uncut:\n{uncut}\n--- {one['arm']}:\n{cut}"


def _around(text: str, place: int) -> str:
    first, last = max(0, place - 60), place + 120
    return "[...] " * (first > 0) + text[first:last] + " [...]" * (last < len(text))


def marked(example: DiagnosisExample) -> str:
    """The cut answer, its first token that differs from the uncut answer between ⟦ and ⟧.

    Tokens are those of the uncut answer where they are known, else digits, words and signs. An answer that only ends
    too early has no mark, or an empty one.
    """
    start, end = first_difference(example["uncut"], example["cut"], example["tokens"])
    cut = example["cut"]
    return cut if start == end else f"{cut[:start]}⟦{cut[start:end]}⟧{cut[end:]}"


def measure_table(rows: Sequence[MeasureRow], diagnostic: str = "", caption: str = "") -> Table:
    """The measures of one diagnostic; the CSV has every number unrounded."""
    columns = _COLUMNS if rows else [Column("measure", _measure)]
    return Table(name=f"diagnosis-{diagnostic}", caption=caption, columns=columns, rows=rows)


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


def _chance(row: MeasureRow) -> str:
    return "-" if row.chance is None else number(row.chance, share=row.unit == "share")


def _kept(row: MeasureRow) -> str:
    return "-" if row.kept_share is None else with_interval(row.kept_share)


def _level(level: Estimate, row: MeasureRow) -> str:
    return with_interval(level, share=row.unit == "share")


def _difference(row: MeasureRow) -> str:
    return with_interval(row.values.difference, share=row.unit == "share", sign=True)


_COLUMNS = [
    Column("measure", _measure, raw=raw_values(diagnostic="diagnostic", measure="metric", group="group")),
    Column("model", attrgetter("arm"), raw=raw_values(model="arm", unit="unit")),
    Column("n", lambda row: str(row.n), numeric=True),
    Column("chance", _chance, numeric=True, raw=raw_values(chance="chance")),
    Column("uncut", lambda row: _level(row.values.uncut, row), raw=raw_estimates(uncut="values.uncut")),
    Column("cut", lambda row: _level(row.values.cut, row), raw=raw_estimates(cut="values.cut")),
    Column("difference", _difference, raw=raw_estimates(difference="values.difference")),
    Column("kept", _kept, raw=raw_estimates(kept="kept_share")),
    Column(
        "p",
        lambda row: p_value(row.values.p_value),
        numeric=True,
        raw=raw_values(p_value="values.p_value", test="values.test", headline="headline", seed="seed"),
    ),
]


def how_made(data: Mapping[str, Any]) -> list[str]:
    """Meaning of shares, intervals, p-values and *first*."""
    return [
        "## How to read this",
        "",
        "- Shares in %. kept: cut / uncut, or (cut - chance) / (uncut - chance) where guessing has a score. Intervals: "
        "Wilson for right and wrong, BCa otherwise, a Bayesian bootstrap over paired items for differences.",
        "- p: McNemar's exact test for right and wrong, else sign flips. Bold: a headline measure that is worse with "
        f"p < {ALPHA} before correction. *What broke first* lists only measures that stay significant after Holm's "
        "correction over all headline measures of a model.",
        "- *First* means the largest share lost of the original model's value, not the first in time. Where an answer "
        "first goes wrong is reported beside it.",
        "- Kinds of tokens, depths, sizes and demotion explain damage; they do not test for it.",
        f"- Items and resampling come from seed {data['seed']}. Items are report items: no plan was chosen on them.",
        "",
    ]
