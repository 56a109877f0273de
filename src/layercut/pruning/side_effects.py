"""Side effects: what the checkpoint of a run of prune does worse outside the goal, on the suite ``side_effects``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from layercut.engine.handle import ModelHandle
from layercut.engine.rows import Reader, generation_row
from layercut.errors import InputError
from layercut.evidence.intervals import ALPHA, holm
from layercut.evidence.two_runs import compare_two
from layercut.runs.directory import RunFolder
from layercut.runs.prune import SideEffect, measured
from layercut.tasks.cells import Cell, make_cells
from layercut.tasks.suites import suite

SIDE_EFFECTS = "side effects"  # name of the stage
FOLDER = "side_effects"  # folder of the run folders of both models, inside the folder of prune
ITEMS = 24  # items of each check
_LONG = "needle"
"""Checks of long texts, of which one costs as much as twenty others, so that too few to show anything fit in."""


def checks_for(model: ModelHandle, seed: int) -> list[Cell]:
    """The checks whose requests a model can be asked: none without a chat template, and no long texts."""
    cells = make_cells(suite("side_effects", limit=ITEMS), seed)
    requests: dict[str, list[Any]] = {
        cell.label: [cell.task.request(sample, cell.readout) for sample in cell.samples]
        for cell in cells
        if not cell.task.name.startswith(_LONG)
    }

    def accepted(reader: Reader) -> list[str]:
        labels = []
        for label, asked in requests.items():
            with suppress(InputError):
                for request in asked:
                    generation_row(reader, request)
                labels.append(label)
        return labels

    given = [(label, one.prompt, one.begins, one.max_new_tokens) for label, asked in requests.items() for one in asked]
    labels = model.read("side_effects", given, accepted)
    return [cell for cell in cells if cell.label in labels]


def side_effects(uncut: Path, cut: Path, seed: int) -> tuple[SideEffect, ...]:
    """Each check of both models, paired by item, from the run folders of their answers to the checks."""
    rows = [row for row in compare_two(RunFolder.open(uncut), RunFolder.open(cut), seed=seed) if row.is_headline]
    adjusted = holm([row.values.p_value for row in rows])
    return tuple(
        SideEffect(
            task=row.task,
            uncut=measured(row.values.uncut),
            cut=measured(row.values.cut),
            difference=measured(row.values.difference),
            p=p,
            is_shown=p < ALPHA,
        )
        for row, p in zip(rows, adjusted, strict=True)
    )
