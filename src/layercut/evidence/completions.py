"""Stored answers beside their scores: degeneration of what models wrote, and classes of programs.

    diagnose_runs([RunFolder.open(Path("runs/q/uncut")), RunFolder.open(Path("runs/q/reverse-3"))], seed=0)

Experiments E2, E4 and E9 of arXiv:2602.01997 on the answers of any run, from its folder alone: no model is asked and no
program is run. The measures are those of the diagnostics ``degeneration`` and ``brackets``, by the same functions.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypedDict, cast

from layercut.errors import InputError
from layercut.evidence.degeneration import FEWEST_WORDS, NAME, measure_texts, words_of
from layercut.evidence.diagnosis import Diagnosis, with_rows
from layercut.evidence.intervals import clusters_of
from layercut.evidence.program_classes import CLASS, measure_programs
from layercut.evidence.sweep import Sweep
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.runs.settings import FORMAT_VERSION, read_format
from layercut.surgery.plan import CutPlan
from layercut.text import count_of

FILE = "completions.json"
PROGRAMS = "programs"
MEASURES_VERSION = 2
"""Raised with every change of the measures: what a folder holds is then measured again."""
_READ = ("id", "completion", "finish_reason", "answer", CLASS, "cluster")
"""Fields of a record that the measures read."""

_PIECE = re.compile(r"\s*(?:[0-9]|[^\W\d]+|[^\w\s])|\s+")
"""A digit, a word or a sign, with the white space before it."""

Record = Mapping[str, Any]


class DiagnosedAnswers(TypedDict):
    """The answers to one task and readout by the original model and pruned ones, on the items that all have."""

    task: str
    readout: str
    key: str  # hash of the answers and the seed
    diagnostics: dict[str, Diagnosis]
    """``degeneration`` where answers are texts, ``programs`` where they are programs; both may be missing."""


def diagnose_runs(runs: Sequence[RunFolder], *, seed: int, cache: Path | None = None) -> list[DiagnosedAnswers]:
    """Measure the written answers of finished runs, paired item by item with the first one.

    Args:
        runs: the original model's first; of a single run, its own values.
        seed: of the resampling.
        cache: folder that keeps what was measured, in ``completions.json``; the same answers are measured once.

    Raises:
        InputError: a run that is not finished, or damaged records.
    """
    finish = [{(row["task"], row["readout"]): row["finish"] for row in run.metrics()["rows"]} for run in runs]
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.path) for run in runs]
    parts = [
        (*cell, {names[i]: run.records(*cell) for i, run in enumerate(runs) if cell in finish[i]})
        for cell, ended in finish[0].items()
        if ended is not None
    ]
    return _measured(parts, cache, seed)


def diagnose_sweep(run: RunFolder, sweep: Sweep) -> list[DiagnosedAnswers]:
    """Measure the written answers of a sweep: the model without each layer (``layer-3``) beside the original one.

    Raises:
        InputError: damaged records.
    """
    names = {CutPlan(num_layers=sweep.num_layers, removed=(layer,)).key: f"layer-{layer}" for layer in sweep.layers}
    names = {CutPlan(num_layers=sweep.num_layers).key: "uncut", **names}
    parts = []
    for curve in sweep.curves:
        arms: dict[str, dict[str, Record]] = {name: {} for name in names.values()}
        # sweep.json alone makes the rest of the report.
        records = run.records(curve.task, curve.readout) if run.has_records(curve.task, curve.readout) else []
        for record in records:
            # A search in the same folder has other plans, and answers that ended early.
            plan = CutPlan(num_layers=sweep.num_layers, removed=tuple(record["key"]["removed"])).key
            if plan in names and "completion" in record and record["finish_reason"] != "settled":
                arms[names[plan]][record["id"]] = record
        if arms["uncut"]:
            answers = {name: list(of_arm.values()) for name, of_arm in arms.items()}
            parts.append((curve.task, curve.readout, answers))
    return _measured(parts, run.path, sweep.rows[0].seed)


def diagnose_answers(records: Mapping[str, Sequence[Record]], *, seed: int) -> dict[str, Diagnosis]:
    """The measures of the written answers to one task.

    Answers count as texts where at least half of those of one model have four words. Of several answers to an item,
    the first is measured.

    Args:
        records: by model, the original one first; the same items in the same order.
        seed: of the resampling.
    """
    first = next(iter(records.values()))
    diagnoses: dict[str, Diagnosis] = {}
    texts = {
        name: [(record["completion"], record["finish_reason"]) for record in of_arm] for name, of_arm in records.items()
    }
    if any(2 * sum(len(words_of(text)) >= FEWEST_WORDS for text, _ in own) >= len(own) for own in texts.values()):
        measured = measure_texts(texts, seed=seed, clusters=clusters_of(first))
        notes = [f"{count_of(len(first), 'answer')} of each model.", *measured["notes"]]
        diagnoses[NAME] = {**measured, "notes": notes}
    every = {name: [record.get(CLASS) for record in of_arm] for name, of_arm in records.items()}
    known = [place for place in range(len(first)) if all(of_arm[place] is not None for of_arm in every.values())]
    if known:
        classes = {name: [kind for place in known if (kind := of_arm[place])] for name, of_arm in every.items()}
        clusters = clusters_of([first[place] for place in known])
        notes = [f"{count_of(len(known), 'program')} of each model."]
        diagnoses[PROGRAMS] = {**measure_programs(PROGRAMS, classes, seed=seed, clusters=clusters), "notes": notes}
    return diagnoses


def first_difference(uncut: str, cut: str) -> tuple[int, int]:
    """Begin and end of the first wrong digit, word or sign of the cut answer; one place twice where there is none.

    >>> first_difference("7 + 5 = 12", "7 + 5 = 17")
    (9, 10)
    """
    same = next((i for i, (a, b) in enumerate(zip(uncut, cut, strict=False)) if a != b), min(len(uncut), len(cut)))
    start = 0
    for piece in _PIECE.findall(uncut):
        if start + len(piece) > same:
            break
        start += len(piece)
    wrong = _PIECE.match(cut, start)
    return start, max(wrong.end() if wrong else start, min(same + 1, len(cut)))


def _measured(
    parts: Sequence[tuple[str, str, Mapping[str, Sequence[Record]]]], folder: Path | None, seed: int
) -> list[DiagnosedAnswers]:
    """Measure the answers of tasks and readouts by model, the original one first, unless the folder holds that."""
    known: dict[str, DiagnosedAnswers] = {}
    if folder is not None and (folder / FILE).is_file():
        # A file that is damaged, or of another version, is made again.
        with suppress(InputError, KeyError, TypeError, ValueError):
            cells = read_format(folder / FILE, "report")["cells"]
            known = {cell["key"]: cast("DiagnosedAnswers", with_rows(cell)) for cell in cells}
    measured: list[DiagnosedAnswers] = []
    for task, readout, records in parts:
        by_id = {name: {record["id"]: record for record in of_arm} for name, of_arm in records.items()}
        first = next(iter(by_id.values()))
        shared = [item for item in first if all(item in of_arm for of_arm in by_id.values())]
        answers = {name: [of_arm[item] for item in shared] for name, of_arm in by_id.items()}
        if not shared:
            continue
        read = {name: [[record.get(field) for field in _READ] for record in own] for name, own in answers.items()}
        text = json.dumps([MEASURES_VERSION, task, readout, seed, read], ensure_ascii=True)
        key = hashlib.sha256(text.encode()).hexdigest()
        if key in known:
            measured.append(known[key])
            continue
        diagnoses = {name: _plain(diagnosis) for name, diagnosis in diagnose_answers(answers, seed=seed).items()}
        # The same form that the file gives, so that both are equal.
        cell = with_rows({"task": task, "readout": readout, "key": key, "diagnostics": diagnoses})
        measured.append(cast("DiagnosedAnswers", cell))
        if folder is not None:
            done = {(cell["task"], cell["readout"]) for cell in measured}
            later = [cell for cell in known.values() if (cell["task"], cell["readout"]) not in done]
            cells = as_plain_cells([*measured, *later])
            write_json(folder / FILE, {"format_version": FORMAT_VERSION, "cells": cells})
    return measured


def as_plain_cells(cells: Sequence[DiagnosedAnswers]) -> list[dict[str, Any]]:
    """The same, JSON-able."""
    return [
        {**cell, "diagnostics": {name: _plain(diagnosis) for name, diagnosis in cell["diagnostics"].items()}}
        for cell in cells
    ]


def _plain(diagnosis: Diagnosis) -> dict[str, Any]:
    return {**diagnosis, "rows": [row.to_dict() for row in diagnosis["rows"]]}
