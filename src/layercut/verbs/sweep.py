"""``sweep``: each layer skipped alone, and what is asked then."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import Field

from layercut.base_settings import Names
from layercut.selection.specs import LayerSpec, check_fits
from layercut.selection.sweep import PlannedSweep, Swept, plan_sweep
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import parse_layers
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline


class SweepVerb(Verb):
    """Skip each layer of MODEL alone and measure what tasks keep.

    Retention comes with paired intervals, a picture, and the rank correlation between tasks. Answers are kept item by
    item: the same command again goes on where it was stopped, and a search by task scores in the same folder is not
    asked again.

    Example: layercut sweep bundled:smollm2-135m --objective arithmetic,brackets --limit 64 --out runs/sweep
    """

    VERB = "sweep"
    POSITIONAL = ("model", "objective")
    RETURNS = "sweep, with a row for each layer and task, and folder."
    RUNS_PROGRAMS = True

    model: Annotated[ModelSettings, fields.SHOWN_OF_MODEL]
    objective: Annotated[fields.TaskList, Flag("TASK,TASK")] = Field(description=fields.OBJECTIVE)
    readouts: Names | None = Field(None, description=fields.READOUTS)
    limit: int = Field(100, ge=1, description="At most this many items of each task; shown in every table.")
    data: fields.Data
    data_dir: Annotated[fields.DataDir, Flag("DIR", hidden=True)]
    layers: str | None = Field(
        None, description="Layers to skip, one at a time, ranges inclusive: 0-9,20. All if left out."
    )
    out: fields.Out = Field(None, description="Run folder; runs/<model>-sweep if left out.")
    seed: fields.RandomSeed = 0
    report_to: fields.ReportTo
    decoding: Annotated[DecodingSettings, Fields("Decoding")] = DecodingSettings()

    def check(self) -> None:
        _ = self.tasks

    @cached_property
    def tasks(self) -> tuple[TaskSettings, ...]:
        """The objective's. Raises InputError: an unknown one, or an option that it does not have."""
        return fields.read_named_tasks(self, self.objective, self.limit)

    def fit(self) -> None:
        if self.layers is not None:
            last = max(parse_layers(self.layers))
            check_fits(self.model, [LayerSpec(text=str(last), layers=(last,))])

    def run(self, io: Io) -> Swept:
        """Skip each layer alone.

        Raises:
            InputError: a model, task or layer that cannot be used, or a run folder that holds another run.
        """
        from layercut.report.reports import write_reports

        done = self._planned(io).run(io.console, io.say)
        write_reports(done.folder)
        return done

    def rehearse(self, io: Io) -> Shown:
        return shown_outline(self._planned(io).outline())

    def _planned(self, io: Io) -> PlannedSweep:
        return plan_sweep(
            self.model,
            objective=self.tasks,
            layers=self.layers,
            out=self.out,
            seed=self.seed,
            decoding=self.decoding,
            say=io.say,
        )

    def show(self, done: Swept, io: Io) -> Shown:
        from layercut.report import sweep
        from layercut.report.reports import KINDS
        from layercut.runs.directory import PAGE

        files = {"report": KINDS["sweep"].file, "page": PAGE}
        lines = [f"{name}: {done.folder / file}" for name, file in files.items() if (done.folder / file).is_file()]
        return Shown(done.sweep.to_dict(), sweep.sweep_tables(done.sweep), lines)
