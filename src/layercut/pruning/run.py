"""One run of prune: what was asked for, and the model, notes and search that its stages share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from rich.console import Console

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.fold import gain, last_projection, run_until, takes_maps
from layercut.healing.seam import PROJECTION
from layercut.progress.bars import StageProgress
from layercut.pruning.budget import general_tasks
from layercut.pruning.goal import GoalTasks
from layercut.pruning.path import PlanPath
from layercut.pruning.profile import Profile
from layercut.pruning.settings import PruneSettings
from layercut.runs.directory import RunFolder
from layercut.runs.notes import Notes
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import SearchJournal
from layercut.surgery.remove import decoder_layers

_PROBED = 16  # tokens on which it is measured how a layer adds what its MLP gives


@dataclass
class PruneRun:
    """What was asked for, what is known so far, and where progress goes."""

    store: RunFolder
    model: ModelHandle  # the original one
    settings: PruneSettings
    goal: GoalTasks
    asked: tuple[ObjectiveTask, ...]  # the tasks of the goal, each under each of its readouts
    sizes: tuple[float, ...]  # shares of the bytes or seconds to remove; empty on a path of whole layers
    profile: Profile  # how models are timed
    seed: int
    isolation: str | None
    journal: SearchJournal  # answers to selection items
    progress: StageProgress
    console: Console
    say: Callable[[str], None]

    @property
    def folder(self) -> Path:
        return self.store.path

    @property
    def notes(self) -> Notes:
        """What was decided. It is never decided again."""
        return self.store.notes

    @property
    def decoding(self) -> Decoding:
        return Decoding(seed=self.seed)

    @property
    def num_plans(self) -> int:
        """Plans of the path at most."""
        return self.settings.num_plans(self.sizes, self.model.num_layers)

    @property
    def parts(self) -> list[ObjectiveTask]:
        """The tasks that decide, with the number of their selection items."""
        ignored = {(row["task"], row["readout"]) for row in self.notes["ignored"]}
        limit = self.notes["selection_items"]
        return [replace(part, limit=limit) for part in self.asked if (part.task.name, part.readout) not in ignored]

    @cached_property
    def path(self) -> PlanPath:
        """The search over the original model and the tasks that decide."""
        return PlanPath(
            self.model.engine,
            self.parts,
            decoding=self.decoding,
            journal=self.journal,
            progress=self.progress,
            general=general_tasks() if self.notes.get("general") else (),
        )

    @cached_property
    def seam(self) -> str:
        """The seam that the model takes: a map, or factors where it normalises what its MLPs add; the last matrix of
        every MLP on a path of sizes.

        Raises:
            InputError: it does something with what an MLP gives that no seam is folded into.
        """
        model = self.model.loaded.model
        layer = decoder_layers(model)[0]
        ids_1T = torch.arange(_PROBED, device=model.device)[None]
        gain(layer, lambda: run_until(layer, model, ids_1T))
        if self.sizes:
            last_projection(layer)
            return PROJECTION
        return "linear" if takes_maps(layer) else "scale"

    @cached_property
    def takes_seams(self) -> bool:
        """True if a seam folds into models of this family; says why not."""
        try:
            return bool(self.seam)
        except InputError as error:
            self.say(f"not healed by a seam: {error}")
            return False

    def handle_of(self, checkpoint: Path) -> ModelHandle:
        """A checkpoint, loaded as the original model is."""
        return ModelHandle(self.model.settings.replace(model=str(checkpoint), revision=None))

    def release(self) -> None:
        """Let the weights of the original model go, and what was built on them."""
        vars(self).pop("path", None)
        self.model.release()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show a stage, and note the time that it takes."""
        self.progress.step(name)
        with self.notes.stage(name):
            yield
