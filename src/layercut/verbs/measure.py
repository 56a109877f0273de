"""``eval``, ``sweep`` and ``diagnose``: what is asked of a model, whole, without some layers, or beside pruned ones."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from layercut.base_settings import Names
from layercut.diagnostics import DiagnoseSettings, chosen_diagnostics, is_plan
from layercut.diagnostics.diagnose import Diagnosed, PlannedDiagnosis
from layercut.engine.handle import ModelHandle, ServedModel, open_model_handle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.selection.specs import LayerSpec, Removed, check_fits, plan_of
from layercut.selection.sweep import PlannedSweep, Swept, plan_sweep
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.plan import CutPlan, parse_layers
from layercut.tasks import takes_option
from layercut.tasks.cells import Evaluated, evaluate_model, evaluation_outline, folder_name
from layercut.tasks.suites import check_tasks
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline


class EvalVerb(Verb):
    """Score MODEL on tasks, whole or without some layers.

    Every number comes with n, a 95 % interval and the score of guessing. The run folder keeps every answer; the same
    command again goes on where it was stopped.

    A suite is a list of tasks and readouts; with --data-dir it needs no hub.

    With --against, what is kept of the original model's scores is printed for every readout, with paired intervals,
    McNemar's test and the items on which two readouts disagree.

    Example: layercut eval bundled:smollm2-135m --tasks arithmetic,brackets --remove reverse:3 --limit 64
    """

    VERB = "eval"
    FUNCTION = "evaluate"
    POSITIONAL = ("model", "tasks")
    RETURNS = "folder, and metrics, all that metrics.json holds."
    RUNS_PROGRAMS = True

    model: Annotated[ModelSettings, fields.SHOWN_OF_MODEL]
    tasks: Annotated[fields.TaskList, Flag("TASK,TASK")] = Field(
        (),
        description="Task names, separated by commas; NAME:5 asks with five worked examples, suite:builtin (offline), "
        "suite:quick and suite:paper (arXiv:2602.01997) name several.",
    )
    remove: Annotated[Removed | None, Flag("LAYERS")] = Field(None, description=fields.REMOVE)
    out: fields.Out = Field(None, description="Run folder; runs/<model>-<plan> if left out.")
    readouts: Names | None = Field(None, description="rank, short, chain; all that a task has if left out.")
    limit: int | None = Field(None, ge=1, description="At most this many items of each task; shown in every table.")
    data: Annotated[fields.Data, Flag("TASK=PATH", hidden=True, repeated=True)]
    data_dir: fields.DataDir
    max_new_tokens: int | None = Field(None, ge=1, description="Longest answer, for tasks where it can be chosen.")
    samples: int = Field(1, ge=1, description="Answers drawn for each item; with a temperature above 0, gives pass@k.")
    seed: fields.RandomSeed = 0
    report_to: fields.ReportTo
    against: Annotated[Path | None, Flag("RUN")] = Field(
        None, description="Finished run of the original model on the same items: print what is kept."
    )
    decoding: Annotated[DecodingSettings, fields.SHOWN_OF_DECODING] = DecodingSettings()

    def check(self) -> None:
        if not self.tasks:
            raise InputError("say what is measured: `tasks` arithmetic,copy, or suite:builtin.")
        _ = self.asked

    @cached_property
    def asked(self) -> tuple[TaskSettings, ...]:
        """The tasks. Raises InputError: an unknown one, or an option that it does not have."""
        more: dict[str, Any] = {"samples": self.samples} if self.samples > 1 else {}
        length = {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}
        listed = fields.read_named_tasks(self, self.tasks, self.limit)
        # A suite holds tasks whose answers have a length of their own; a task that was named refuses.
        can = [task.task in self.tasks or takes_option(task.task, "max_new_tokens") for task in listed]
        tasks = tuple(task.replace(**more, **(length if may else {})) for task, may in zip(listed, can, strict=True))
        check_tasks(tasks)
        return tasks

    def fit(self) -> None:
        check_fits(self.model, [self.remove], self.seed)

    def run(self, io: Io) -> Evaluated:
        from layercut.evidence.two_runs import open_run

        if self.against is not None:
            open_run(self.against).metrics()  # says now whether it is not finished
        handle, plan, out = self._planned(io)
        return evaluate_model(
            handle,
            plan,
            tasks=self.asked,
            out=out,
            seed=self.seed,
            decoding=self.decoding,
            console=io.console,
            say=io.say,
        )

    def rehearse(self, io: Io) -> Shown:
        handle, plan, out = self._planned(io)
        return shown_outline(evaluation_outline(handle, plan, self.asked, out, self.seed, io.say))

    def show(self, done: Evaluated, io: Io) -> Shown:
        from layercut.evidence.two_runs import compare_two, comparison_notes, open_run, to_dict
        from layercut.report.comparison import comparison_tables
        from layercut.report.runs import metrics_table

        scores, folder = metrics_table(done.metrics), f"run folder: {done.folder}"
        if self.against is None:
            return Shown(done.metrics, [scores], [folder])
        runs = [open_run(self.against), open_run(done.folder)]
        rows, remarks = compare_two(*runs, seed=self.seed), comparison_notes(*runs)
        tables = [scores, *comparison_tables(rows)]
        return Shown({**done.metrics, "against": to_dict(rows, remarks)}, tables, [*remarks, folder])

    def _planned(self, io: Io) -> tuple[ModelHandle | ServedModel, CutPlan, Path]:
        """The model, what it loses, and the run folder."""
        handle = open_model_handle(self.model) if ENGINES[self.model.engine].is_served else io.handle(self.model)
        plan = plan_of(handle, self.remove, self.seed)
        named = folder_name(f"{self.model.model}-{self.remove or ('as-it-is' if plan.earlier else 'uncut')}")
        return handle, plan, self.out or Path("runs", named)


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
        return fields.read_named_tasks(self, self.objective, self.limit)

    def fit(self) -> None:
        if self.layers is not None:
            last = max(parse_layers(self.layers))
            check_fits(self.model, [LayerSpec(text=str(last), layers=(last,))])

    def run(self, io: Io) -> Swept:
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


class DiagnoseVerb(Verb):
    """Find out what exactly broke in each CUT of MODEL, item by item.

    One page, diagnose.md, says for each cut what broke first, with examples, and holds a section and a picture for each
    diagnostic. Answers are kept as they come: the same command goes on where it was stopped, and --only may add
    diagnostics later.

    Example: layercut diagnose bundled:smollm2-135m reverse:3 20-22 --limit 16 --out runs/diagnose
    """

    VERB = "diagnose"
    POSITIONAL = ("model", "cuts")
    RETURNS = "report, the path of diagnose.md, and data, what diagnose.json holds."
    RUNS_PROGRAMS = True

    model: Annotated[ModelSettings, fields.SHOWN_OF_MODEL]
    cuts: Annotated[Names, Flag("CUT...", argument=True, repeated=True)] = Field(
        description="Pruned models: layers (3,8,21-24), reverse:N or random:N, each:0-9 for every layer alone, a "
        "plan.json, or another model: the folder of a cut or healed checkpoint, or a model that others made of MODEL."
    )
    how: Annotated[DiagnoseSettings, Fields(shown="only limit")] = DiagnoseSettings()
    out: fields.Out = Field(None, description="Run folder; runs/<model>-diagnose if left out.")
    seed: fields.RandomSeed = 0

    def check(self) -> None:
        if not self.cuts:
            raise InputError("there is nothing to compare with the original model; give a cut, such as reverse:3.")
        chosen_diagnostics(self.how.only)
        _ = self.plans

    @property
    def models(self) -> list[str]:
        """The cuts, with a plan for every layer in place of ``each:0-9``."""
        models: list[str] = []
        for cut in self.cuts:
            layers = cut.removeprefix("each:")
            models += [cut] if layers == cut else map(str, parse_layers(layers))
        return models

    @property
    def plans(self) -> list[LayerSpec]:
        """Those of the cuts that are plans. Raises InputError."""
        return [LayerSpec.parse(cut) for cut in self.models if is_plan(cut)]

    def fit(self) -> None:
        check_fits(self.model, self.plans, self.seed)

    def run(self, io: Io) -> Diagnosed:
        from layercut.report.reports import write_reports

        done = self._planned(io).run(io.console, io.say)
        write_reports(done.folder)
        return done

    def rehearse(self, io: Io) -> Shown:
        return shown_outline(self._planned(io).outline())

    def show(self, done: Diagnosed, io: Io) -> Shown:
        from layercut.report.diagnosis import summary_lines
        from layercut.runs.directory import PAGE

        page = [f"page: {done.folder / PAGE}"] if (done.folder / PAGE).is_file() else []
        return Shown(done.data, lines=[*summary_lines(done.data), f"report: {done.report}", *page])

    def _planned(self, io: Io) -> PlannedDiagnosis:
        return PlannedDiagnosis(self.model, self.models, self.how, out=self.out, seed=self.seed, say=io.say)
