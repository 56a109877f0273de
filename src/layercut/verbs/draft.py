"""``draft``: a model, what it writes, and where its draft is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from layercut.drafting import DraftSettings
from layercut.selection.specs import check_fits
from layercut.settings import ModelSettings
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb

if TYPE_CHECKING:
    from layercut.drafting.job import DraftDone


class DraftVerb(fields.HasGoal, Verb):
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
