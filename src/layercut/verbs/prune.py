"""``prune`` and ``draft``: the use of a model, and where the smallest that keeps it, or its best draft, is written."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from layercut.drafting import DraftSettings
from layercut.errors import install_command
from layercut.models.make_gguf import can_make_gguf
from layercut.pruning.settings import PruneSettings
from layercut.selection.goal import GoalTasks, goal_tasks
from layercut.selection.specs import check_fits
from layercut.settings import ModelSettings
from layercut.tasks.suites import check_tasks
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline

if TYPE_CHECKING:
    from layercut.drafting.job import DraftDone
    from layercut.pruning.job import Pruned


class _GoalVerb(Verb):
    """Base of verbs whose tasks decide, by name or by use."""

    def check(self: Any) -> None:
        check_tasks(self.tasks.tasks)

    @cached_property
    def tasks(self: Any) -> GoalTasks:
        return goal_tasks(self.goal, self.data, self.data_dir)


class PruneVerb(_GoalVerb):
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
        Fields(
            shown="use tasks keep smaller one_size faster serve heal smallest formats versus items goal_alone "
            "no_side_effects"
        ),
    ]
    out: fields.Out = Field(None, description="Folder to write to; runs/prune-<model> if left out.")
    anyway: bool = Field(False, description="Write the best plan's checkpoint even if none passed.")
    data: Annotated[fields.Data, Flag("TASK=PATH", hidden=True, repeated=True)]
    data_dir: Annotated[fields.DataDir, Flag("DIR", hidden=True)]
    seed: Annotated[fields.RandomSeed, Flag("INTEGER", hidden=True)] = 0
    report_to: fields.ReportTo
    verbose: Annotated[bool, Flag(spelled="--verbose,-v")] = Field(False, description="Print which items choose, too.")

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
            detail=io.say if self.verbose else lambda text: None,
        )
        if not (done.folder / PAGE).is_file():
            write_reports(done.folder)
        return done

    def rehearse(self, io: Io) -> Shown:
        from layercut.pruning.budget import prune_outline

        return shown_outline(prune_outline(self.model, self.goal, self.tasks, out=self.run_folder, seed=self.seed))

    def show(self, done: Pruned, io: Io) -> Shown:
        from layercut.report.first import answer_lines, result_tables

        install = "" if can_make_gguf(converts=True) else install_command("gguf")
        lines = answer_lines(done.result, done.folder, install)
        return Shown(done.result.to_dict(), result_tables(done.result), lines, failed=done.checkpoint is None)


class DraftVerb(_GoalVerb):
    """Find a pruned MODEL that drafts for MODEL and makes it write faster.

    Speculative decoding: the draft proposes some tokens, the original model checks them in one pass and writes what it
    would have written alone. Plans are searched for speed: the original's own answers say exactly how many tokens of
    each plan would be accepted, and steps are timed on this machine. Other answers are then written with and without
    the draft, by turns, and judge it.

    Exits with 1 where MODEL gets slower.

    Example: layercut draft bundled:smollm2-135m --use copy --out runs/draft
    """

    VERB = "draft"
    POSITIONAL = ("model", "tokenizer")
    RETURNS = "result, all that draft.json holds, and folder."
    RUNS_PROGRAMS = True
    HIDDEN = "unsafe_exec"

    model: Annotated[ModelSettings, fields.SHOWN_OF_MODEL]
    goal: Annotated[DraftSettings, Fields(shown="use tasks remove items window")]
    out: fields.Out = Field(None, description="Folder to write to; runs/draft-<model> if left out.")
    data: Annotated[fields.Data, Flag("TASK=PATH", hidden=True, repeated=True)]
    data_dir: Annotated[fields.DataDir, Flag("DIR", hidden=True)]
    seed: Annotated[fields.RandomSeed, Flag("INTEGER", hidden=True)] = 0

    def fit(self) -> None:
        check_fits(self.model, [self.goal.remove], self.seed)

    def run(self, io: Io) -> DraftDone:
        from layercut.drafting.job import run_draft

        return run_draft(
            io.handle(self.model),
            self.goal,
            self.tasks,
            out=self.run_folder,
            seed=self.seed,
            console=io.console,
            say=io.say,
        )

    def show(self, done: DraftDone, io: Io) -> Shown:
        from layercut.report.elements import terminal_table
        from layercut.report.runs import draft_tables

        checkpoint = done.result.checkpoint and done.folder / done.result.checkpoint
        lines = [
            done.result.why,
            *((f"{engine}: {command}" for engine, command in done.result.commands.items()) if checkpoint else ()),
            f"draft: {checkpoint or 'not written, because it does not pay'}",
        ]
        tables = map(terminal_table, draft_tables(done.result))
        return Shown(done.result.to_dict(), tables, lines, failed=done.result.verdict == "slower")
