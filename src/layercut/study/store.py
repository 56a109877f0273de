"""Cells by content: the key of the answers of one task and readout, and the folders that already hold them.

A cell's key is the hash of everything that determines its answers: the model's weights and dtype, the *set* of removed
layers, how it was healed, the task's version, data and settings, the readout and the decoding. The engine, the batch
size and the number of items are not part of it: within a cell, answers are found by item. So a study reuses the answers
of another study of the same model beside it. It copies the records into its own folder, which alone still rebuilds its
report.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.weights import read_config
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder, runs_in
from layercut.runs.json_text import load
from layercut.runs.settings import settings_hash, shown
from layercut.selection.search_journal import JournalQuestion
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell

CELLS, SEARCHES = "cells", "searches"
FORMAT_VERSION = 1
_DEPTH = 3
"""How far below the folder that holds the studies a run may lie: study, model, run."""


class Reused(NamedTuple):
    """Records that were taken over."""

    source: str
    """The run folder that they come from."""
    num_items: int


def model_identity(model: ModelHandle) -> dict[str, str]:
    """What of a model decides its answers: weights and dtype."""
    dtype = model.dtype
    if dtype == "auto":
        config = read_config(model.source.path)
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return {"model_hash": model.metadata.model_hash, "dtype": dtype}


def cell_identity(
    model: ModelHandle, plan: CutPlan, cell: Cell, decoding: Decoding, healing: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What decides the answers of a cell. The decoding's seed counts only where answers are sampled.

    Args:
        model: the original one.
        plan: which of its layers are gone.
        cell: task and readout.
        decoding: how answers are drawn.
        healing: what decided the healed weights; None for a cut that was not healed.
    """
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
    """Where a run records a cell; it is there once the cell is finished."""
    return run / CELLS / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', cell.task.name)}.{cell.readout}.json"


class CellStore:
    """The finished cells and searches of all studies right below one folder."""

    def __init__(self, root: Path) -> None:
        """Nothing is read yet.

        Args:
            root: the folder that holds the studies, such as ``runs``.
        """
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
        """A cell was finished just now."""
        self._by_key.setdefault(settings_hash(identity), []).append(run)

    def records(
        self, identity: Mapping[str, Any], ids: Collection[str], *, exclude: Path
    ) -> Iterator[tuple[Reused, list[dict[str, Any]]]]:
        """Records of these items in other runs, each item once.

        Args:
            identity: of the cell.
            ids: the items that are wanted.
            exclude: the run that asks.
        """
        left = set(ids)
        for run in self._by_key.get(settings_hash(identity), ()):
            if not left:
                return
            if run.resolve() == exclude.resolve():
                continue
            try:
                records = RunFolder.open(run).records(identity["task"], identity["readout"])
            except InputError:  # somebody tidied up; then it is asked again
                continue
            taken = [one for one in records if one.get("id") in left and one.get("version") == identity["version"]]
            if taken:
                left -= {one["id"] for one in taken}
                yield Reused(shown(run), len(taken)), taken

    def covers(self, identity: Mapping[str, Any], ids: Collection[str], *, exclude: Path) -> bool:
        """Whether other runs hold records of all these items."""
        found = {one["id"] for _, records in self.records(identity, ids, exclude=exclude) for one in records}
        return set(ids) <= found

    def plan(self, key: str) -> tuple[CutPlan, str] | None:
        """A plan that a search with this key has chosen, and the study that it stands in."""
        for study in self.studies():
            for data in _read_all((study / SEARCHES).glob("*/chosen-*.json")):
                if data.get("key") == key:
                    return CutPlan.from_dict(data["plan"]), shown(study)
        return None

    def studies(self) -> Iterator[Path]:
        """Folders of studies, those of single models in a study of several too."""
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
    """Keep what a search chose, to be found by its key."""
    write_json(folder / f"chosen-{len(plan.removed)}.json", {"key": key, "plan": plan.to_dict()})


def read_chosen(folder: Path, key: str, depth: int) -> CutPlan | None:
    """What this very search has chosen, if it has."""
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
