"""``prune``: the goal, and where the checkpoint of the smallest model that keeps it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from layercut.pruning.settings import PruneSettings
from layercut.settings import ModelSettings
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline

if TYPE_CHECKING:
    from layercut.pruning.job import Pruned


class PruneVerb(fields.HasGoal, Verb):
    """Make MODEL smaller for a use, and write the smallest that is shown to keep it.

    Measures the original model, removes layers and MLP channels step by step, and confirms the plans on items that
    were never used before, each at 95 %.

    Exits with 1 where no plan passed and no checkpoint was written.

    Example: layercut prune bundled:smollm2-135m --use math --keep 80%
    """

    VERB = "prune"
    POSITIONAL = ("model", "tokenizer")
    RETURNS = (
        "model (loaded on first use), plan, kept by task, report, checkpoint and result, all that result.json holds."
    )
    RUNS_PROGRAMS = True
    HIDDEN = "json unsafe_exec"

    model: Annotated[ModelSettings, Fields("Model", without="quantize")]
    goal: Annotated[
        PruneSettings,
        Fields(shown="use tasks keep smaller one_size faster serve heal versus items goal_alone no_side_effects"),
    ]
    out: fields.Out = Field(None, description="Folder to write to; runs/prune-<model> if left out.")
    anyway: bool = Field(False, description="Write the best plan's checkpoint even if none passed.")
    data: Annotated[fields.Data, Flag("TASK=PATH", hidden=True, repeated=True)]
    data_dir: Annotated[fields.DataDir, Flag("DIR", hidden=True)]
    seed: Annotated[fields.RandomSeed, Flag("INTEGER", hidden=True)] = 0
    report_to: fields.ReportTo

    def run(self, io: Io) -> Pruned:
        from layercut.pruning.job import prune_model
        from layercut.report.reports import write_reports
        from layercut.runs.directory import PAGE

        done = prune_model(
            io.handle(self.model),
            self.goal,
            goal=self.tasks,
            out=self.run_folder,
            seed=self.seed,
            anyway=self.anyway,
            console=io.console,
            say=io.say,
        )
        if not (done.folder / PAGE).is_file():
            write_reports(done.folder)
        return done

    def rehearse(self, io: Io) -> Shown:
        from layercut.pruning.budget import prune_outline

        return shown_outline(prune_outline(self.model, self.goal, self.tasks, out=self.run_folder, seed=self.seed))

    def show(self, done: Pruned, io: Io) -> Shown:
        from layercut.report.first import answer_lines, result_tables

        lines = answer_lines(done.result, done.folder)
        return Shown(done.result.to_dict(), result_tables(done.result), lines, failed=done.checkpoint is None)
