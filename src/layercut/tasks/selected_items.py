"""Samples from the rows of a data set: which choose layers, and which may be reported after that.

Layers that were chosen by the score on some items score well on these items by construction, so reported scores come
from others. Where selection items are part of the test set, a model that used none of them is reported on all of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, islice
from typing import Any, ClassVar, Literal, NamedTuple

from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Sample, Split, Task
from layercut.tasks.data_files import DataRow, DataSet, read_hub_data, read_local_data
from layercut.text import count_of

Half = Literal["selection", "report"]


def half_of(item_id: str) -> Half:
    """The half an item belongs to, from its id alone: the last bit of SHA-256(id), 1 for selection.

    Ids are made from the content of an item. So the halves are the same on every machine, whatever the seed, the limit
    or the order, and an item that turns up twice falls on the same side both times.
    """
    return "selection" if hashlib.sha256(item_id.encode()).digest()[-1] & 1 else "report"


def items_hash(ids: Iterable[str]) -> str:
    """SHA-256 of a set of item ids, in hex: the same for the same items, in whatever order they come."""
    return hashlib.sha256(json.dumps(sorted(set(ids))).encode()).hexdigest()


HALVES = "halves by content hash"


@dataclass(frozen=True, kw_only=True)
class RowsTask(Task):
    """Base class of tasks whose samples come from rows of a data set, on the hub or a local copy."""

    hub_splits: ClassVar[tuple[str, ...]] = ()  # the splits that are fetched; all if empty
    selection: ClassVar[tuple[str, ...]] = ("train", "validation")
    """Splits that selection items come from, the first one that is there."""

    name: str
    version: int
    dataset: str  # its name on the hub
    config: str | None = None  # which configuration of it
    published_as: str | None = None  # name, without its ending, of the file in which the benchmark is published
    sample: Callable[[DataRow], Sample]  # from a row to the sample that it holds
    data: str | None = None
    """A local file, or a folder with split files or with the published one, in place of the hub's data set."""
    max_new_tokens: int  # longest answer

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the samples; a local file counts by its content, not by its place."""
        return {
            "version": self.version,
            "max_new_tokens": self.max_new_tokens,
            "data": self._rows.sha256,
            "splits": self._split_names.describe(),
        }

    @property
    def shares_test_set(self) -> bool:
        return self._split_names.are_halves

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set."""
        rows = self._rows.splits
        return first_samples(split, self._split_names, lambda name: map(self.sample, rows[name]), limit)

    @cached_property
    def _rows(self) -> DataSet:
        if self.data is not None:
            return read_local_data(self.data, self.published_as)
        return read_hub_data(self.name, self.dataset, self.config, splits=self.hub_splits)

    @cached_property
    def _split_names(self) -> SplitNames:
        return choose_splits(self._rows.splits, selection=self.selection)


class SplitNames(NamedTuple):
    """Sources of the two kinds of items."""

    selection: str
    report: str

    @property
    def are_halves(self) -> bool:
        """True if both come from one split of the data set, which is halved by the hash of each item."""
        return self.selection == self.report

    def describe(self) -> str:
        if self.are_halves:
            return f"{self.report}, {HALVES}"
        return f"selection: {self.selection}, report: {self.report}"


def choose_splits(available: Collection[str], *, selection: Sequence[str]) -> SplitNames:
    """Report items come from the test split, else from validation; selection items from the first of ``selection`` that
    is there. One split alone is halved."""
    reported = next((name for name in ("test", "validation") if name in available), None) or min(available)
    selected = next((name for name in selection if name in available and name != reported), reported)
    return SplitNames(selected, reported)


def first_samples(
    split: Split, names: SplitNames, read: Callable[[str], Iterable[Sample]], limit: int | None
) -> list[Sample]:
    """The first samples of one kind, in the order of the data set; selection and report items share none.

    The second and later of samples with equal content get an id of their own (``...-2``): real benchmarks hold exact
    duplicates, and dropping them would change their scores.

    ``read`` gives the samples of a split of the data set; no more are taken than needed.
    """
    is_selection = split == "selection"
    reported = {sample.id for sample in read(names.report)} if is_selection and not names.are_halves else set()

    def chosen() -> Iterator[Sample]:
        copies: Counter[str] = Counter()
        for sample in read(names.selection if is_selection else names.report):
            copies[sample.id] += 1
            number = copies[sample.id]
            # Twins fall on the same side, because the id of their content decides.
            in_half = not names.are_halves or split in ("full", half_of(sample.id))
            if in_half and sample.id not in reported:
                yield sample if number == 1 else replace(sample, id=f"{sample.id}-{number}")

    return list(islice(chosen(), limit))


SELECTION_ITEMS = "selection_items"
"""Name in a selection's details, and so in a plan's ``scores``; and in the entry of a healing."""
HELD_OUT = "held_out"  # name, in a plan's ``scores``, of what the plan scored on items that its search never saw
ITEMS, FULL = "items", "full test set"
"""The entry in a run's settings for a task whose whole test set is asked; they say nothing of one where it is not."""


def record_items(items: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """A plan's entry on its selection items, all of them: a checkpoint takes its plan along but not its run."""
    unique = {task: sorted(set(ids)) for task, ids in items.items()}
    return {task: {"num_items": len(ids), "hash": items_hash(ids), "ids": ids} for task, ids in unique.items()}


def selection_items(scores: Mapping[str, Any], where: str = "the plan") -> dict[str, frozenset[str]]:
    """Ids per task from a plan's ``scores`` or a selection's details. Raises InputError: their hash is another."""
    return _checked_ids(scores.get(SELECTION_ITEMS, {}), where)


def held_out_items(scores: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """The same of the items that a plan's held-out scores were measured on."""
    return _checked_ids(scores.get(HELD_OUT, {}).get("items", {}), "the plan")


def _checked_ids(items: Mapping[str, Any], where: str) -> dict[str, frozenset[str]]:
    ids_of = {}
    for task, recorded in items.items():
        try:
            ids_of[task] = frozenset(recorded["ids"])
            is_same = items_hash(ids_of[task]) == recorded["hash"]
        except (KeyError, TypeError):
            is_same = False
        if not is_same:
            raise InputError(f"{where}: its selection items of {task} are missing or do not match their hash.")
    return ids_of


def merge_items(*parts: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """Everything that was selected on, when one search goes on from the outcome of another."""
    tasks = dict.fromkeys(chain(*parts))
    return {task: frozenset().union(*(part.get(task, ()) for part in parts)) for task in tasks}


def used_items(plans: Iterable[CutPlan], healings: Iterable[Mapping[str, Any]] = ()) -> frozenset[str] | None:
    """Ids of all items, of whatever task, that chose a model's layers, judged the choice, or healed the model.

    One problem has one id in tasks that share it, such as ``humaneval`` and ``humaneval_plus``. None where it is not
    known, because an older layercut healed the model.
    """
    parts = [read_ids(plan.scores) for plan in plans for read_ids in (selection_items, held_out_items)]
    for healing in healings:
        if SELECTION_ITEMS not in healing:
            return None
        parts.append(selection_items(healing, "a healing"))
    return frozenset(chain.from_iterable(ids for part in parts for ids in part.values()))


def check_report_items(plans: Iterable[CutPlan], task: str, ids: Collection[str]) -> None:
    """Refuse to report on items that a plan was selected on, or judged on when it was selected, in whatever task.

    Taking the best of several plans by their held-out scores has chosen by these. Raises InputError.
    """
    items, instead = f"of these {count_of(len(set(ids)), 'item')} of {task}", "Use the report split."
    for plan in plans:
        selected, judged = (
            set(ids).intersection(chain(*read_ids(plan.scores).values()))
            for read_ids in (selection_items, held_out_items)
        )
        if selected:
            raise InputError(f"the plan was selected on {len(selected)} {items}, so scores are too good. {instead}")
        if judged:
            raise InputError(f"{len(judged)} {items} are held-out items that the plan was judged on. {instead}")


def reported_split(task: Task, used: Collection[str] | None) -> Split:
    """``full`` where selection items are part of the test set and none of them was ``used``; else ``report``."""
    if not task.shares_test_set or used is None:
        return "report"
    return "full" if task.selection_part.isdisjoint(used) else "report"


def decide_split(used: Collection[str] | None, begun: Mapping[str, Any] | None) -> Callable[[Task], Split]:
    """From a task to its split: as a run was ``begun`` by its settings, or as ``reported_split`` says."""
    known: dict[str, Split] = {
        settings["task"]: "full" if settings.get(ITEMS) == FULL else "report"
        for settings in (begun or {}).get("tasks", ())
        if isinstance(settings, dict) and "task" in settings
    }
    return lambda task: known.get(task.name) or reported_split(task, used)


def describe_shortfall(task: Task, split: Split, limit: int | None) -> str:
    """``only 88 of the 100 requested selection items ...`` with the reason; empty where all come, or all are asked."""
    if limit is None or (there := len(task.samples(split, limit))) >= limit:
        return ""
    if split == "full":
        return f"{task.name}: only {there} of the {limit} requested items; its test set has no more"
    splits = task.settings().get("splits")
    source = f"its data ({splits})" if splits else "the task"
    return f"{task.name}: only {there} of the {limit} requested {split} items; {source} has no more"


def tell_shortfalls(wanted: Iterable[tuple[Task, Split, int | None]], say: Callable[[str], None]) -> None:
    """Say once of each task that it has fewer items than its limit asks for."""
    for line in dict.fromkeys(describe_shortfall(task, split, limit) for task, split, limit in wanted):
        if line:
            say(line)
