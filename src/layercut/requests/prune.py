"""``prune``: the goal, and where the checkpoint of the smallest model that keeps it is written."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import Field, model_validator

from layercut.models.depth import depth_of
from layercut.pruning.goal import GoalTasks, goal_tasks
from layercut.pruning.settings import LAYER, PruneSettings
from layercut.requests.base import ASeed, Data, DataDir, Fields, Flag, Out, ReportTo, Request
from layercut.requests.io import Io
from layercut.settings import ModelSettings
from layercut.tasks.suites import check_tasks

if TYPE_CHECKING:
    from layercut.pruning.pruned import Pruned
    from layercut.runs.dry_run import Outline


class PruneRequest(Request):
    """Make MODEL smaller for a use, and write the checkpoint of the smallest plan that is shown to keep it.

    Measures the original model, removes layers and MLP channels step by step, and confirms the plans on items that
    were never used before, each at 95 %.

    Exits with 1 where no plan passed and no checkpoint was written.

    Example: layercut prune bundled:smollm2-135m --use math --keep 80%
    """

    VERB = "prune"

    model: Annotated[ModelSettings, Fields("Model", without="quantize")]
    goal: Annotated[
        PruneSettings,
        Fields(shown="use tasks keep smaller one_size faster serve heal versus time items goal_alone no_side_effects"),
    ]
    out: Out = Field(None, description="Folder to write to; runs/prune-<model> if left out.")
    anyway: bool = Field(False, description="Write the best plan's checkpoint even if none passed.")
    strict: Annotated[bool, Flag(hidden=True)] = Field(
        False, description="Stop before the search where the report items are too few for the goal."
    )
    data: Annotated[Data, Flag("TASK=PATH", hidden=True, repeated=True)]
    data_dir: Annotated[DataDir, Flag("DIR", hidden=True)]
    seed: Annotated[ASeed, Flag("INTEGER", hidden=True)] = 0
    report_to: ReportTo

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_tasks(self.tasks.tasks)
        return self

    @cached_property
    def tasks(self) -> GoalTasks:
        """The tasks that decide."""
        return goal_tasks(self.goal, self.data, self.data_dir)

    @property
    def folder(self) -> Path:
        """The run folder."""
        from layercut.tasks.run import slug

        return self.out or Path("runs", slug(f"prune-{self.model.model}"))

    def fit(self) -> None:
        """Check that the model is deep enough for the goal. Raises InputError."""
        num_layers = depth_of(self.model.model, self.model.revision)
        if num_layers is not None and self.goal.wanted_units == LAYER:
            self.goal.depth(num_layers)

    def run(self, io: Io) -> Pruned:
        """Search, confirm and write the checkpoint, or go on with it."""
        from layercut.pruning.job import prune_model

        return prune_model(
            io.handle(self.model),
            self.goal,
            goal=self.tasks,
            out=self.folder,
            seed=self.seed,
            anyway=self.anyway,
            strict=self.strict,
            console=io.console,
            say=io.say,
        )

    def outline(self) -> Outline:
        """What pruning would do; nothing is written."""
        from layercut.pruning.outline import prune_outline

        return prune_outline(self.model, self.goal, self.tasks, out=self.folder, seed=self.seed)
