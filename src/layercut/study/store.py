"""Cells by content: the key of the answers of one task and readout, and where they are found.

A cell's key is the hash of everything that determines its answers: the model's weights and dtype, the *set* of removed
layers, the healing, the task's version, data and settings, the readout and the decoding. The engine, the batch size and
the number of items are not part of it: within a cell, answers are found by item. So a study reuses the answers of
another study of the same model in the same folder. It copies the records into its own folder, which alone still
rebuilds its report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

from layercut.engine.base import Decoding, Engine
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.weights import read_config
from layercut.progress import OnProgress
from layercut.runs.directory import RunFolder, runs_in
from layercut.runs.environment import shown_path
from layercut.runs.notes import Notes
from layercut.runs.records import MetricRow
from layercut.runs.settings import settings_hash
from layercut.selection.search_journal import JournalQuestion
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell
from layercut.tasks.evaluate import Records

CELL, CHOSEN = "cell: ", "chosen: "
"""Begin the names of the notes of a run's finished cells, and of the plans that a study's searches chose."""
_DEPTH = 3  # most folders between the folder of the studies and a run: study, model, run


Reused = tuple[str, int]  # a run folder whose records are reused, and the number of items


class Measured(NamedTuple):
    """A finished cell."""

    rows: list[MetricRow]
    reused: tuple[Reused, ...]


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
    on_progress: OnProgress,
    reused: tuple[Reused, ...] = (),
) -> Measured:
    """Finish a cell: missing items are taken from other studies, and the rest is asked.

    Args:
        run: the folder of the variant, begun.
        identity: what decides the answers; see ``cell_identity``.
        engine: gives the engine of the variant's model; called only if something has to be asked.
        selection_items: number of items that the plan was selected on.
        on_progress: called with (items done, items in all), first with the items that were known.
        reused: what was taken from other studies before.
    """
    ids = [sample.id for sample in cell.samples]
    with run.journal(cell.task.name, cell.readout) as journal:
        reused = (*reused, *store.fill(journal, identity, ids, exclude=run.path))
        is_complete = {*ids} <= {record["id"] for record in journal.records}
        # Without missing items there is no engine, so a finished study loads no model.
        answers = cast("Engine", None) if is_complete else engine()
        metrics = cell.evaluate(answers, plan, decoding, journal, on_progress).metrics
    rows = [cast("MetricRow", {**row, "selection_items": selection_items}) for row in metrics]
    run.notes.put(
        CELL + cell.label,
        {
            "key": settings_hash(identity),
            "identity": dict(identity),
            "limit": cell.limit,
            "split": cell.split,
            "num_items": len(ids),
            "reused": [list(source) for source in reused],
            "rows": rows,
        },
    )
    store.add(run.path, identity)
    return Measured(rows, reused)


def finished_cell(run: Path, cell: Cell, identity: Mapping[str, Any]) -> Measured | None:
    """The cell as this run folder holds it; None where it is not finished, or answers were lost since."""
    note = read_notes(run).get(CELL + cell.label)
    wanted = {"key": settings_hash(identity), "limit": cell.limit, "split": cell.split}
    if note is None or {name: note[name] for name in wanted} != wanted or not cell.is_whole(run):
        return None
    return Measured(note["rows"], tuple((source, number) for source, number in note["reused"]))


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
    return {
        **model_identity(model),
        **JournalQuestion.of(cell.task, cell.readout, model.metadata.model_hash, decoding).key(plan),
        "healing": None if healing is None else dict(healing),
        "task": cell.task.name,
        "readout": cell.readout,
        **({} if cell.num_samples == 1 else {"num_samples": cell.num_samples}),
    }


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
