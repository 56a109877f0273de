"""The context that all stages of one run of prune share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.progress.bars import StageProgress
from layercut.pruning.goal import GoalTasks
from layercut.pruning.profile import Profile
from layercut.pruning.settings import PruneSettings
from layercut.runs.atomic import write_json
from layercut.runs.directory import RunFolder
from layercut.runs.settings import FORMAT_VERSION, read_format
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import SearchJournal

STATE = "prune.json"


class PruneState:
    """The decisions of one run folder. What was decided is never decided again."""

    def __init__(self, folder: Path) -> None:
        """Read what is there. Raises InputError: the file is damaged, or of another format."""
        self._file = folder / STATE
        self._data: dict[str, Any] = {"format_version": FORMAT_VERSION, "seconds": {}}
        if self._file.is_file():
            self._data = read_format(self._file, "the state of layercut prune")
        self._stage, self._since = "", 0.0

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._data.get(name, default)

    def put(self, name: str, value: Any) -> None:
        """Decide: on disk when this returns."""
        self._data[name] = value
        self.save()

    def save(self) -> None:
        """Write, with the time of the present stage."""
        self._count()
        write_json(self._file, self._data)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under a stage, also where the block ends early; a killed one counts up to its
        last decision."""
        self._stage, self._since = name, time.monotonic()
        try:
            yield
        finally:
            self.save()
            self._stage = ""

    @property
    def seconds(self) -> dict[str, float]:
        """Time used so far, by stage."""
        self._count()
        return {name: round(value, 1) for name, value in self._data["seconds"].items()}

    @property
    def used(self) -> float:
        """Time used so far in all."""
        return sum(self.seconds.values())

    def _count(self) -> None:
        if self._stage:
            now = time.monotonic()
            seconds = self._data["seconds"]
            seconds[self._stage] = seconds.get(self._stage, 0.0) + now - self._since
            self._since = now


@dataclass(frozen=True)
class PruneContext:
    """One run of prune: what was asked for, what is known so far, and where progress goes."""

    run: RunFolder
    model: ModelHandle  # the original one
    settings: PruneSettings
    goal: GoalTasks
    asked: tuple[ObjectiveTask, ...]  # the tasks of the goal, each under each of its readouts
    units: str  # units to remove: ``layer``, ``width`` or ``both``
    sizes: tuple[float, ...]  # shares of the bytes or seconds that go, of a path of sizes; else empty
    unit: str  # ``bytes`` or ``seconds``
    max_depth: int  # plans of the path at most
    profile: Profile  # how models are timed
    seed: int
    anyway: bool  # True if the best plan gets a checkpoint even where none passed
    strict: bool  # True if report items that are too few for the goal stop the run before the search
    isolation: str | None
    state: PruneState
    journal: SearchJournal  # answers to selection items
    progress: StageProgress
    console: Console
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        return self.run.path

    @property
    def decoding(self) -> Decoding:
        return Decoding(seed=self.seed)
