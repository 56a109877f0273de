"""Cells by content: the key of the answers of one task and readout is the hash of everything that determines them.

The engine, the batch size and the number of items are no part of it: within a cell, answers are found by item. So a
study reuses the answers of another study of the same model in the same folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.weights import read_config
from layercut.runs.directory import RunFolder, runs_in
from layercut.runs.environment import shown_path
from layercut.runs.notes import Notes
from layercut.runs.records import MetricRow
from layercut.runs.settings import settings_hash
from layercut.surgery.plan import CutPlan
from layercut.tasks.evaluate import Records

CELL, CHOSEN = "cell: ", "chosen: "
"""Begin the names of the notes of a run's finished cells, and of the plans that a study's searches chose."""
_DEPTH = 3  # most folders between the folder of the studies and a run: study, model, run


Reused = tuple[str, int]  # a run folder whose records are reused, and the number of items


class Measured(NamedTuple):
    """A finished cell."""

    rows: list[MetricRow]
    reused: tuple[Reused, ...]


def model_identity(model: ModelHandle) -> dict[str, str]:
    """The properties of a model that decide its answers: weights and dtype."""
    dtype = model.dtype
    if dtype == "auto":
        config = read_config(model.source.path)
        dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return {"model_hash": model.metadata.model_hash, "dtype": dtype}


def read_notes(folder: Path) -> Mapping[str, Any]:
    """The notes of a run of this or another study; none of a file that was edited."""
    try:
        return Notes(folder)
    except InputError:
        return {}


class CellStore:
    """The finished cells and searches of all studies right below one folder."""

    def __init__(self, root: Path) -> None:
        """``root``: the folder that holds the studies, such as ``runs``."""
        self._root = root

    def add(self, run: Path, identity: Mapping[str, Any]) -> None:
        """Add a finished cell of this study."""
        self._by_key[settings_hash(identity)].append(run)

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
            taken = [
                record
                for record in records
                if record.get("id") in left and record.get("version") == identity["version"]
            ]
            if taken:
                left -= {record["id"] for record in taken}
                yield (shown_path(run), len(taken)), taken

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

    def plan(self, key: str, study: Path) -> tuple[CutPlan, str] | None:
        """The plan that a search with this key has chosen, and its study: this one before all others."""
        others = (folder for near in runs_in(self._root) for folder in (near, *runs_in(near)))  # also of several models
        for folder in (study, *others):
            if (plan := read_notes(folder).get(CHOSEN + key)) is not None:
                return CutPlan.from_dict(plan), shown_path(folder)
        return None

    @cached_property
    def _by_key(self) -> defaultdict[str, list[Path]]:
        """Run folders of finished cells, by what decides their answers."""
        runs = defaultdict[str, list[Path]](list)
        level = [self._root]
        for _ in range(_DEPTH):
            level = [run for folder in level for run in runs_in(folder)]
            for run in level:
                for name, note in read_notes(run).items():
                    if name.startswith(CELL):
                        runs[note["key"]].append(run)
        return runs
