"""Cells by content: the key of the answers of one task and readout, where they are found, and how they are computed.

A cell's key is the hash of everything that determines its answers: the model's weights and dtype, the *set* of removed
layers, the healing, the task's version, data and settings, the readout and the decoding. The engine, the batch size and
the number of items are not part of it: within a cell, answers are found by item. So a study reuses the answers of
another study of the same model beside it. It copies the records into its own folder, which alone still rebuilds its
report.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

from layercut.engine.base import Decoding, Engine
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.weights import read_config
from layercut.progress import OnProgress
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder, runs_in
from layercut.runs.environment import shown
from layercut.runs.json_text import load
from layercut.runs.records import MetricRow
from layercut.runs.settings import FORMAT_VERSION, settings_hash
from layercut.selection.search_journal import JournalQuestion
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell
from layercut.tasks.evaluate import Records

CELLS, SEARCHES = "cells", "searches"
_DEPTH = 3  # most folders between the folder of the studies and a run: study, model, run


class Reused(NamedTuple):
    """Reused records."""

    source: str
    num_items: int


def model_identity(model: ModelHandle) -> dict[str, str]:
    """The properties of a model that decide its answers: weights and dtype."""
    dtype = model.dtype
    if dtype == "auto":
        config = read_config(model.source.path)
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return {"model_hash": model.metadata.model_hash, "dtype": dtype}


def cell_identity(
    model: ModelHandle, plan: CutPlan, cell: Cell, decoding: Decoding, healing: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Settings that decide the answers of a cell. The decoding's seed counts only where answers are sampled."""
    asked = JournalQuestion.of(cell.task, cell.readout, model.metadata.model_hash, decoding).key(plan)
    return {
        **model_identity(model),
        **asked,
        "healing": None if healing is None else dict(healing),
        "task": cell.task.name,
        "readout": cell.readout,
        **({} if cell.num_samples == 1 else {"num_samples": cell.num_samples}),
    }


def cell_file(run: Path, cell: Cell) -> Path:
    """The file of a finished cell in its run."""
    return run / CELLS / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', cell.task.name)}.{cell.readout}.json"


class CellStore:
    """The finished cells and searches of all studies right below one folder."""

    def __init__(self, root: Path) -> None:
        """``root``: the folder that holds the studies, such as ``runs``."""
        self._root = root

    @cached_property
    def cells(self) -> list[tuple[Path, dict[str, Any]]]:
        """Run folder and content of every cell file."""
        return [(run, data) for run in self._runs() for data in _read_all((run / CELLS).glob("*.json"))]

    @cached_property
    def _by_key(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for run, data in self.cells:
            found.setdefault(str(data.get("key")), []).append(run)
        return found

    def add(self, run: Path, identity: Mapping[str, Any]) -> None:
        self._by_key.setdefault(settings_hash(identity), []).append(run)

    def records(
        self, identity: Mapping[str, Any], ids: Collection[str], *, exclude: Path
    ) -> Iterator[tuple[Reused, list[dict[str, Any]]]]:
        """Records of these items in other runs than ``exclude``, each item once."""
        left = set(ids)
        for run in self._by_key.get(settings_hash(identity), ()):
            if not left:
                return
            if run.resolve() == exclude.resolve():
                continue
            try:
                records = RunFolder.open(run).records(identity["task"], identity["readout"])
            except InputError:  # a user deleted files; then the items are asked again
                continue
            taken = [one for one in records if one.get("id") in left and one.get("version") == identity["version"]]
            if taken:
                left -= {one["id"] for one in taken}
                yield Reused(shown(run), len(taken)), taken

    def fill(
        self, journal: Records, identity: Mapping[str, Any], ids: Collection[str], *, exclude: Path
    ) -> tuple[Reused, ...]:
        """Append what other runs hold of the items that a journal lacks."""
        missing = set(ids) - {record["id"] for record in journal.records}
        reused = []
        for source, records in self.records(identity, missing, exclude=exclude):
            journal.append(records)
            reused.append(source)
        return tuple(reused)

    def covers(self, identity: Mapping[str, Any], ids: Collection[str], *, exclude: Path) -> bool:
        """True if other runs hold records of all these items."""
        found = {one["id"] for _, records in self.records(identity, ids, exclude=exclude) for one in records}
        return set(ids) <= found

    def plan(self, key: str) -> tuple[CutPlan, str] | None:
        """The plan that a search with this key has chosen, and its study."""
        for study in self.studies():
            for data in _read_all((study / SEARCHES).glob("*/chosen-*.json")):
                if data.get("key") == key:
                    return CutPlan.from_dict(data["plan"]), shown(study)
        return None

    def studies(self) -> Iterator[Path]:
        """Folders of studies, also those of single models in a study of several."""
        for study in runs_in(self._root):
            yield study
            yield from runs_in(study)

    def _runs(self) -> Iterator[Path]:
        def below(folder: Path, depth: int) -> Iterator[Path]:
            for run in runs_in(folder):
                yield run
                if depth < _DEPTH:
                    yield from below(run, depth + 1)

        return below(self._root, 1)


def write_chosen(folder: Path, key: str, plan: CutPlan) -> None:
    """Save the plan that a search chose, under its key."""
    write_json(folder / f"chosen-{len(plan.removed)}.json", {"key": key, "plan": plan.to_dict()})


def read_chosen(folder: Path, key: str, depth: int) -> CutPlan | None:
    """The plan that this search has chosen; None without one."""
    for data in _read_all([folder / f"chosen-{depth}.json"]):
        if data.get("key") == key:
            return CutPlan.from_dict(data["plan"])
    return None


def _read_all(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for file in sorted(files):
        try:
            data = load(file)
        except (OSError, ValueError):
            continue
        if isinstance(data, dict):
            yield data


class Answered(NamedTuple):
    """How the answers of a cell came about."""

    reused: tuple[Reused, ...] = ()
    num_items: int = 0  # items that were asked
    seconds: float = 0.0


class Measured(NamedTuple):
    """A finished cell."""

    rows: list[MetricRow]
    reused: tuple[Reused, ...]
    num_asked: int


def finished_cell(run: Path, cell: Cell, identity: Mapping[str, Any]) -> Measured | None:
    """The cell as this run folder holds it; None where it is not finished, or answers were lost since."""
    try:
        data = load(cell_file(run, cell))
    except (OSError, ValueError):
        return None
    asked = (data.get("limit"), data.get("split", "report"))
    if data.get("key") != settings_hash(identity) or asked != (cell.limit, cell.split) or not cell.is_whole(run):
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
    on_progress: OnProgress,
    before: Answered,
) -> Measured:
    """Finish a cell: missing items are taken from other studies, and the rest is asked.

    Args:
        run: the folder of the arm, begun.
        identity: what decides the answers; see ``cell_identity``.
        engine: gives the engine of the arm's model; called only if something has to be asked.
        selection_items: number of items that the plan was selected on.
        where: the machine; the speed is recorded with it.
        on_progress: called with (items done, items in all), first with the items that were known.
        before: what was reused and asked before, together with other arms.
    """
    ids = [sample.id for sample in cell.samples]
    with run.journal(cell.task.name, cell.readout) as journal:
        reused = (*before.reused, *store.fill(journal, identity, ids, exclude=run.path))
        missing = len(set(ids) - {record["id"] for record in journal.records})
        # Without missing items there is no engine, so a finished study loads no model.
        answers = engine() if missing else cast("Engine", None)
        began = time.monotonic()
        outcome = cell.evaluate(answers, plan, decoding, journal, on_progress)
        asked = before.num_items + missing
        seconds = before.seconds + (time.monotonic() - began if missing else 0.0)
    rows = [cast("MetricRow", {**row, "selection_items": selection_items}) for row in outcome.metrics]
    write_json(
        cell_file(run.path, cell),
        {
            "format_version": FORMAT_VERSION,
            "key": settings_hash(identity),
            "identity": dict(identity),
            "limit": cell.limit,
            "split": cell.split,
            "num_items": len(ids),
            "reused": [list(one) for one in reused],
            "speed": {"items": asked, "seconds": round(seconds, 3), "where": where, **_tokens(outcome.records)},
            "rows": rows,
        },
    )
    store.add(run.path, identity)
    return Measured(rows, reused, asked)


def _tokens(records: list[dict[str, Any]]) -> dict[str, float]:
    """Mean tokens of an item: of the prompt, and of the answer."""
    return {
        f"{name}_tokens": round(sum(record.get(f"num_{name}_tokens", 0) for record in records) / len(records), 1)
        for name in ("prompt", "new")
    }
