"""Side effects: what the checkpoint of a run of prune does worse outside the goal, on the suite ``side_effects``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from layercut.engine.rows import Reader, generation_row
from layercut.errors import InputError
from layercut.evidence.calibration import compare_calibration
from layercut.evidence.multiplicity import ALPHA, holm
from layercut.evidence.two_runs import compare_two
from layercut.pruning.path import measured
from layercut.runs.directory import RunFolder
from layercut.runs.prune import SideEffect
from layercut.tasks.cells import Cell, make_cells
from layercut.tasks.suites import suite

SIDE_EFFECTS = "side effects"
"""Name of the stage."""
FOLDER = "side_effects"
"""Folder of the run folders of both models, inside the folder of prune."""
ITEMS = 24
"""Items of each check."""
_LONG = "needle"
"""Checks of long texts, of which one costs as much as twenty others, so that too few to show anything fit in."""


def checks_for(reader: Reader, seed: int) -> list[Cell]:
    """The checks whose requests a model can be asked: none without a chat template, and no long texts."""
    cells = []
    for cell in make_cells(suite("side_effects", limit=ITEMS), seed):
        if cell.task.name.startswith(_LONG):
            continue
        requests = [cell.task.request(sample, cell.readout) for sample in cell.samples]
        try:
            for request in requests:
                generation_row(reader, request)  # type: ignore[arg-type]
        except InputError:
            continue
        cells.append(cell)
    return cells


def side_effects(
    checked: tuple[Path, Path], goal: tuple[Path, Path], ranked: Sequence[str], seed: int
) -> tuple[SideEffect, ...]:
    """Each check of both models, paired by item, and the calibration of their ranked answers to the goal's tasks.

    Args:
        checked: run folders of the original model and the checkpoint, with their answers to the checks.
        goal: the same with their answers to report items of the goal.
        ranked: tasks of the goal whose options are ranked.
    """
    rows = compare_two(*map(RunFolder.open, checked), seed=seed)
    found = [(row.task, row.values[:3], row.values.p_value) for row in rows if row.is_headline]
    for task in ranked:
        uncut, cut = ({one["id"]: one for one in RunFolder.open(run).records(task, "rank")} for run in goal)
        compared = compare_calibration([uncut[item] for item in cut], list(cut.values()), seed=seed)
        found.append((f"calibration of {task} (1 - ECE)", compared[:3], compared.p))
    adjusted = holm([p for _, _, p in found])
    return tuple(
        SideEffect(
            task=name,
            uncut=measured(values[0]),
            cut=measured(values[1]),
            difference=measured(values[2]),
            p=p,
            is_shown=p < ALPHA,
        )
        for (name, values, _), p in zip(found, adjusted, strict=True)
    )
