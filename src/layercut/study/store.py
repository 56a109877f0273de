"""Cells by content: the key of the answers of one task and readout, where they are found, and how they are computed.

A cell's key is the hash of everything that determines its answers: the model's weights and dtype, the *set* of removed
layers, the healing, the task's version, data and settings, the readout and the decoding. The engine, the batch size and
the number of items are not part of it: within a cell, answers are found by item. So a study reuses the answers of
another study of the same model beside it. It copies the records into its own folder, which alone still rebuilds its
report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

from layercut.engine.base import Decoding, Engine
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.models.weights import read_config
from layercut.progress import OnProgress
from layercut.runs.directory import RunFolder, runs_in
from layercut.runs.environment import shown
from layercut.runs.notes import Notes
from layercut.runs.records import MetricRow
from layercut.runs.settings import settings_hash
from layercut.selection.search_journal import JournalQuestion
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell
from layercut.tasks.evaluate import Questions, Records, ask_under

SEARCHES = "searches"
CELL, CHOSEN = "cell: ", "chosen: "
"""Begin the names of the notes of a run's finished cells, and of the plans that a study's searches chose."""
_DEPTH = 3  # most folders between the folder of the studies and a run: study, model, run


Reused = tuple[str, int]  # a run folder whose records are reused, and the number of items


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


def notes_of(folder: Path) -> Mapping[str, Any]:
    """The notes of a run of this or another study; none of a file that was edited."""
    try:
        return Notes(folder)
    except InputError:
        return {}


def chosen_in(study: Path, key: str) -> CutPlan | None:
    """The plan that a search with this key has chosen in a study; None without one."""
    plan = notes_of(study).get(CHOSEN + key)
    return None if plan is None else CutPlan.from_dict(plan)


class CellStore:
    """The finished cells and searches of all studies right below one folder."""

    def __init__(self, root: Path) -> None:
        """``root``: the folder that holds the studies, such as ``runs``."""
        self._root = root

    @cached_property
    def cells(self) -> list[tuple[Path, dict[str, Any]]]:
        """Run folder and note of every finished cell."""
        return [(run, note) for run in self._runs() for name, note in notes_of(run).items() if name.startswith(CELL)]

    @cached_property
    def _by_key(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = {}
        for run, data in self.cells:
            found.setdefault(data["key"], []).append(run)
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
                yield (shown(run), len(taken)), taken

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

    def plan(self, key: str) -> tuple[CutPlan, str] | None:
        """The plan that a search with this key has chosen, and its study."""
        plans = ((chosen_in(study, key), shown(study)) for study in self.studies())
        return next(((plan, source) for plan, source in plans if plan is not None), None)

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


class Answered(NamedTuple):
    """How the answers of a cell came about."""

    reused: tuple[Reused, ...] = ()
    num_items: int = 0  # items that were asked
    seconds: float = 0.0


class Measured(NamedTuple):
    """A finished cell."""

    rows: list[MetricRow]
    reused: tuple[Reused, ...]


def finished_cell(run: Path, cell: Cell, identity: Mapping[str, Any]) -> Measured | None:
    """The cell as this run folder holds it; None where it is not finished, or answers were lost since."""
    note = notes_of(run).get(CELL + cell.label)
    wanted = {"key": settings_hash(identity), "limit": cell.limit, "split": cell.split}
    if note is None or {name: note[name] for name in wanted} != wanted or not cell.is_whole(run):
        return None
    return Measured(note["rows"], tuple((source, number) for source, number in note["reused"]))


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
    tokens = {
        f"{name}_tokens": round(
            sum(record.get(f"num_{name}_tokens", 0) for record in outcome.records) / len(outcome.records), 1
        )
        for name in ("prompt", "new")
    }
    run.notes.put(
        CELL + cell.label,
        {
            "key": settings_hash(identity),
            "identity": dict(identity),
            "limit": cell.limit,
            "split": cell.split,
            "num_items": len(ids),
            "reused": [list(source) for source in reused],
            "speed": {"items": asked, "seconds": round(seconds, 3), "where": where, **tokens},
            "rows": rows,
        },
    )
    store.add(run.path, identity)
    return Measured(rows, reused)


class Peer(NamedTuple):
    """A cut that answers a cell with others."""

    place: int  # number of the cell among the study's pieces
    run: RunFolder
    plan: CutPlan
    identity: Mapping[str, Any]  # what decides its answers


def answer_together(
    cell: Cell,
    peers: Sequence[Peer],
    engine: Engine,
    decoding: Decoding,
    store: CellStore,
    counted: Callable[[int, int], None],
) -> Mapping[int, Answered]:
    """Have cuts answer in one call of the engine what neither their journals nor other studies hold.

    Args:
        peers: of different layers.
        counted: called with a peer's place and the number of its new answers.

    Returns:
        By place, what was reused and asked; a peer's time is its share of the answers.
    """
    place_of = {peer.plan.key: peer.place for peer in peers}
    new = dict.fromkeys(place_of.values(), 0)

    def answered(plan: CutPlan, _: object, fresh: Sequence[Mapping[str, Any]]) -> None:
        place = place_of[plan.key]
        new[place] += len(fresh)
        counted(place, len(fresh))

    with ExitStack() as held:
        journals = [held.enter_context(peer.run.journal(cell.task.name, cell.readout)) for peer in peers]
        ids = [sample.id for sample in cell.samples]
        reused = {
            peer.place: store.fill(journal, peer.identity, ids, exclude=peer.run.path)
            for peer, journal in zip(peers, journals, strict=True)
        }
        began = time.monotonic()
        questions = Questions(cell.task, cell.samples, {cell.readout: journals}, answered)
        ask_under(engine, [peer.plan for peer in peers], [questions], decoding=decoding, early=False)
    each = (time.monotonic() - began) / max(1, sum(new.values()))
    return {place: Answered(reused[place], num, each * num) for place, num in new.items()}
