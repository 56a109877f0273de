"""``sweep``: each layer skipped alone, and what is asked then."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from layercut.base_settings import Names
from layercut.diagnostics import LAYER_FORMS, chosen_diagnostics
from layercut.errors import InputError
from layercut.selection.specs import check_fits
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Shown, Verb, shown_outlines
from layercut.verbs.io import Io

if TYPE_CHECKING:
    from layercut.diagnostics.diagnose import Diagnosed, PlannedDiagnosis
    from layercut.selection.sweep import PlannedSweep, Swept


class SweepVerb(Verb):
    """Skip each layer of MODEL alone and measure what every task keeps.

    Retention comes with paired intervals, a picture, and the rank correlation between tasks. Answers are kept item by
    item: the same command again goes on where it was stopped, and a search by task scores in the same folder is not
    asked again.

    With --diagnose it reports what each layer is needed for: arithmetic, brackets and programs, texts without loops,
    the tokens of the original model's own right answers. One page, layers.md, with a picture
    over the depth.

    Example: layercut sweep bundled:smollm2-135m --objective arithmetic,brackets --limit 64 --out runs/sweep
    """

    VERB = "sweep"
    POSITIONAL = ("model", "objective")
    RETURNS = "sweep, with a row for each layer and task, and folder; with diagnose, report and data."
    RUNS_PROGRAMS = True

    model: Annotated[ModelSettings, fields.SHOWN_OF_MODEL]
    objective: Annotated[fields.TaskList, Flag("TASK,TASK")] = Field((), description=fields.OBJECTIVE)
    diagnose: bool = Field(
        False, description=f"In place of an objective: what breaks without each layer ({', '.join(LAYER_FORMS)})."
    )
    only: Names = Field((), description="Some of the diagnostics of diagnose.")
    readouts: Names | None = Field(None, description=fields.READOUTS)
    limit: int | None = Field(
        None,
        ge=1,
        description="At most this many items of each task or kind; shown in every table. 100 if left out, 16 to "
        "diagnose.",
    )
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
        if self.diagnose == bool(self.objective):
            raise InputError("say what is asked: `objective` arithmetic,copy, or `diagnose`; one of the two.")
        if self.only and not self.diagnose:
            raise InputError("`only` has no effect without `diagnose`; leave it out.")
        chosen_diagnostics(self.only, LAYER_FORMS)
        _ = self.tasks

    @cached_property
    def tasks(self) -> tuple[TaskSettings, ...]:
        """The objective's. Raises InputError: an unknown one, or an option that it does not have."""
        return fields.read_tasks(self, self.objective, self.limit or 100, first_readouts=True)

    def fit(self) -> None:
        """Check that the model has the layers. Raises InputError."""
        check_fits(self.model, layers=self.layers)

    def run(self, io: Io) -> Swept | Diagnosed:
        """Skip each layer alone.

        Raises:
            InputError: a model, task or layer that cannot be used, or a run folder that holds another run.
        """
        from layercut.report.reports import write_reports

        done = self._planned(io).run(io.console, io.say)
        write_reports(done.folder)
        return done

    def rehearse(self, io: Io) -> Shown:
        return shown_outlines(self._planned(io).outline())

    def _planned(self, io: Io) -> PlannedSweep | PlannedDiagnosis:
        shared: dict[str, Any] = {"layers": self.layers, "out": self.out, "seed": self.seed, "say": io.say}
        if self.diagnose:
            from layercut.diagnostics.diagnose import LIMIT, plan_layers

            return plan_layers(self.model, only=self.only, limit=self.limit or LIMIT, **shared)
        from layercut.selection.sweep import plan_sweep

        return plan_sweep(
            self.model,
            objective=self.tasks,
            decoding=self.decoding,
            **shared,
        )

    def show(self, done: Swept | Diagnosed, io: Io) -> Shown:
        from layercut.evidence.diagnosis import with_rows
        from layercut.report import layers, sweep
        from layercut.report.reports import KINDS
        from layercut.runs.directory import PAGE
        from layercut.selection.sweep import Swept

        if isinstance(done, Swept):
            files = {"report": KINDS["sweep"].file, "picture": sweep.PLOT, "page": PAGE}
            lines = [f"{name}: {done.folder / file}" for name, file in files.items() if (done.folder / file).is_file()]
            return Shown(done.sweep.to_dict(), sweep.sweep_tables(done.sweep), lines)
        lines = [f"report: {done.report}", f"picture: {done.report.with_name(layers.PLOT)}"]
        return Shown(done.data, layers.layers_table(with_rows(done.data)), lines)
