"""One cell of a study: reused from this folder or another study, or computed; then stored by content."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from layercut.engine.base import Decoding, Engine
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.runs.json_text import load
from layercut.runs.settings import settings_hash
from layercut.study.store import FORMAT_VERSION, CellStore, Reused, cell_file
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell
from layercut.tasks.evaluate import evaluate

if TYPE_CHECKING:
    from layercut.runs.records import MetricRow


class Measured(NamedTuple):
    """A finished cell."""

    rows: list[MetricRow]
    reused: tuple[Reused, ...]
    num_asked: int
    """Items that were answered now."""


def finished_cell(run: Path, cell: Cell, identity: Mapping[str, Any]) -> Measured | None:
    """The cell as this run folder holds it, or None where it has not been finished."""
    try:
        data = load(cell_file(run, cell))
    except (OSError, ValueError):
        return None
    if data.get("key") != settings_hash(identity) or data.get("limit") != cell.limit:
        return None
    return Measured(data["rows"], tuple(Reused(*one) for one in data["reused"]), 0)


def run_cell(
    run: RunFolder,
    cell: Cell,
    identity: Mapping[str, Any],
    *,
    engine: Callable[[], Engine],
    plan: CutPlan,
    decoding: Decoding,
    selection_items: int,
    store: CellStore,
    where: str,
    on_progress: Callable[[int, int], None],
) -> Measured:
    """Finish a cell: what is missing is taken from other studies, and what is missing still is asked.

    Args:
        run: the folder of the arm, begun.
        cell: task and readout.
        identity: what decides the answers; see ``cell_identity``.
        engine: gives the engine of the arm's model; called only if something has to be asked.
        plan: which layers the engine leaves out.
        decoding: how answers are drawn.
        selection_items: how many of the items the plan was selected on.
        store: where other studies lie.
        where: what the model runs on; the speed is kept with it.
        on_progress: called with (items done, items in all), first with what was there.
    """
    ids = [sample.id for sample in cell.task.samples("report", cell.limit)]
    with run.journal(cell.task.name, cell.readout) as journal:
        known = {record["id"] for record in journal.records}
        reused = []
        for source, records in store.records(identity, set(ids) - known, exclude=run.path):
            journal.append(records)
            reused.append(source)
        missing = len(set(ids) - {record["id"] for record in journal.records})
        # With nothing to ask no engine is touched, so that a finished study loads no model.
        answers = engine() if missing else cast("Engine", None)
        began = time.monotonic()
        outcome = evaluate(
            cell.task,
            answers,
            plan,
            readout=cell.readout,
            limit=cell.limit,
            decoding=decoding,
            num_samples=cell.num_samples,
            journal=journal,
            on_progress=on_progress,
        )
        seconds = time.monotonic() - began
    rows = [cast("MetricRow", {**row, "selection_items": selection_items}) for row in outcome.metrics]
    write_json(
        cell_file(run.path, cell),
        {
            "format_version": FORMAT_VERSION,
            "key": settings_hash(identity),
            "identity": dict(identity),
            "limit": cell.limit,
            "num_items": len(ids),
            "reused": [list(one) for one in reused],
            "speed": {
                "items": missing,
                "seconds": round(seconds, 3),
                "where": where,
                **_tokens(outcome.records),
            },
            "rows": rows,
        },
    )
    store.add(run.path, identity)
    return Measured(rows, tuple(reused), missing)


def _tokens(records: list[dict[str, Any]]) -> dict[str, float]:
    """Mean tokens of an item: the prompt's, and those that were written."""
    mean = {
        name: sum(record.get(f"num_{name}_tokens", 0) for record in records) / len(records)
        for name in ("prompt", "new")
    }
    return {f"{name}_tokens": round(value, 1) for name, value in mean.items()}
