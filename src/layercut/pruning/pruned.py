"""The outcome of prune in Python: the plan, what it keeps, and the pruned model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from layercut.errors import InputError
from layercut.runs.directory import PAGE
from layercut.runs.frame import data_frame
from layercut.runs.prune import RESULT, Estimated, PruneResult
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan
from layercut.text import Printed

if TYPE_CHECKING:
    from pandas import DataFrame
    from transformers import PreTrainedModel

    from layercut.models.loading import LoadedModel


@dataclass(frozen=True, repr=False)
class Pruned(Printed):
    """The result and its folder."""

    folder: Path
    result: PruneResult
    settings: ModelSettings
    """Settings that the original model was loaded with."""

    @property
    def checkpoint(self) -> Path | None:
        """The pruned model's folder; None where no plan passed."""
        return None if self.result.checkpoint is None else self.folder / self.result.checkpoint

    @property
    def plan(self) -> CutPlan:
        """The plan that passed, or the best one where none did: see ``result.verdict``."""
        return CutPlan.load(self.folder / self.result.chosen.name / "plan.json")

    @property
    def kept(self) -> dict[str, Estimated | None]:
        """Share of the score above chance that the plan keeps of each task, on report items."""
        tested = [plan for plan in self.result.tested if plan.name == self.result.chosen.name]
        return {task.task: task.kept for plan in tested for task in plan.kept}

    def to_frame(self) -> DataFrame:
        """A line for each tested plan and task, on report items."""
        return data_frame(
            [
                {"plan": plan.name, "removed": plan.words, "verdict": plan.verdict, **task.model_dump()}
                for plan in self.result.tested
                for task in plan.kept
            ]
        )

    @property
    def report(self) -> Path:
        """report.html, where it was written; else result.json."""
        page = self.folder / PAGE
        return page if page.is_file() else self.folder / RESULT

    @cached_property
    def loaded(self) -> LoadedModel:
        """The pruned model with its tokenizer, loaded from the checkpoint.

        Raises:
            InputError: no plan passed, so there is none.
        """
        from layercut.models.loading import load_model

        if self.checkpoint is None:
            raise InputError(f"{self.result.why} Use `anyway` for the checkpoint of the best plan.")
        wanted = self.settings
        return load_model(str(self.checkpoint), dtype=wanted.dtype, device=wanted.device, device_map=wanted.device_map)

    @property
    def model(self) -> PreTrainedModel:
        """The pruned model; see ``loaded``."""
        return self.loaded.model
