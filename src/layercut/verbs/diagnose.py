"""``diagnose``: which pruned models are compared with the original one, and by which questions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from layercut.base_settings import Names
from layercut.diagnostics import DiagnoseSettings, chosen_diagnostics, is_plan
from layercut.diagnostics.diagnose import Diagnosed, PlannedDiagnosis
from layercut.errors import InputError
from layercut.selection.specs import LayerSpec, check_fits
from layercut.settings import ModelSettings
from layercut.surgery.plan import parse_layers
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline


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
