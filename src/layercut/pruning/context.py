"""The context that all stages of one run of prune share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.progress.bars import StageProgress
from layercut.pruning.goal import GoalTasks
from layercut.pruning.profile import Profile
from layercut.pruning.settings import PruneSettings
from layercut.runs.directory import RunFolder
from layercut.runs.notes import Notes
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import SearchJournal


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
    state: Notes  # what was decided. It is never decided again.
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
