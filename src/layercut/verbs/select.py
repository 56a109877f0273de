"""``select``: how many layers go, and by what they are chosen."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from layercut.base_settings import Names, one_of
from layercut.errors import InputError
from layercut.models.sources import depth_of
from layercut.selection import CRITERIA, criterion_row
from layercut.selection.base import Context, SearchSettings, no_objective
from layercut.selection.select import Selected, SelectionRequest, select_layers, selection_outline
from layercut.selection.specs import LayerSpec, Units, parse_protected
from layercut.settings import CalibrationSettings, DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.channels import CHANNEL_CRITERIA
from layercut.surgery.plan import CutPlan
from layercut.verbs import fields
from layercut.verbs.base import Fields, Flag, Io, Shown, Verb, shown_outline


def _those(fact: str) -> str:
    """The criteria of which a fact is true."""
    *names, last = [name for name, row in CRITERIA.items() if getattr(row, fact)]
    return f"{', '.join(names)} and {last}" if names else last


def _named(entries: Any) -> Any:
    """Values by name, of a mapping or of ``NAME=VALUE`` entries, where whole numbers become numbers."""
    pairs = fields.read_pairs(entries, "NAME=VALUE, such as search=greedy")
    is_number = re.compile(r"-?\d{1,18}").fullmatch
    return {name: int(value) if isinstance(value, str) and is_number(value) else value for name, value in pairs.items()}


_TEXT = {"source": "calibration", "num_texts": "calibration_texts", "max_tokens": "calibration_tokens"}


class SelectVerb(Verb):
    """Choose the layers of MODEL that go, and write plan.json.

    All that is measured is kept in the run folder: a search that was killed goes on, and another criterion or a deeper
    cut on the same objective uses it again. The scores of the chosen plan on the items that it was chosen on are too
    good by construction, so its scores on held-out items stand beside them.

    Example: layercut select bundled:smollm2-135m --criterion task_accuracy --objective arithmetic --remove '2 layers'
    """

    VERB = "select"
    FUNCTION = "select_layers"
    POSITIONAL = ("model", "criterion", "remove")
    RETURNS = (
        "The plan, its layers in order of removal, with scores per layer (higher means keep) under "
        'scores["importance"].'
    )
    RUNS_PROGRAMS = True

    model: Annotated[ModelSettings, fields.SHOWN_OF_MODEL]
    criterion: str | None = Field(
        None, description=f"How layers are ranked: {', '.join(CRITERIA)}; or your own my.module:function."
    )
    remove: Annotated[Units, Flag("COUNT")] = Field(
        LayerSpec.parse("25%"),
        description="How many layers are removed, or which share: '3 layers' or 25%. Also a share of the channels of "
        "every MLP: mlp:0.28, or 'mlp:0.1' behind layers or their count.",
    )
    channels: Annotated[str, one_of(CHANNEL_CRITERIA), Flag(hidden=True)] = Field(
        "rms",
        description=f"How MLP channels are ranked: {', '.join(CHANNEL_CRITERIA)}; on the model's right answers to the "
        "objective, or on the calibration text.",
    )
    out: fields.Out = Field(None, description="Run folder; runs/select-<model> if left out.")
    objective: Annotated[fields.TaskList, Flag("TASK,TASK")] = Field(
        (), description=f"{fields.OBJECTIVE} Their selection items judge a plan, for {_those('needs_objective')}."
    )
    readouts: Names | None = Field(
        None, description="How the objective's tasks are read out; each task's first if left out."
    )
    limit: int | None = Field(None, ge=1, description="Selection items of each task; 100 if left out.")
    data: fields.Data
    data_dir: fields.DataDir
    held_out: Annotated[int | None, Flag("N")] = Field(
        None,
        ge=0,
        description="Items of each task that the search never sees and the chosen plan is then scored on; as many as "
        "limit if left out, 0 for none.",
    )
    protect: Annotated[str | None, Flag("LAYERS")] = Field(
        None,
        description="Layers that must stay: first:4,last:2,0,7-9, or none. If left out, layer 0 for "
        f"{_those('protects_first_layer')}.",
    )
    settings: Annotated[
        Mapping[str, Any], BeforeValidator(_named), Flag("NAME=VALUE", spelled="--set", repeated=True)
    ] = Field({}, description="A setting of the criterion. May be repeated.")
    seed: fields.RandomSeed = 0
    report_to: fields.ReportTo
    search: Annotated[SearchSettings, Fields(shown="race")] = SearchSettings()
    calibration: Annotated[CalibrationSettings, Fields(shown="source", names=_TEXT)] = CalibrationSettings()
    decoding: Annotated[DecodingSettings, Fields("Decoding")] = DecodingSettings()

    def check(self) -> None:
        if (self.limit or self.readouts or self.held_out) and not self.objective:
            raise InputError(
                "`limit`, `readouts` and `held_out` have no effect without `objective`; name its tasks, or leave them "
                "out."
            )
        if self.criterion is None:
            if self.remove.count is not None:
                raise InputError(f"say by what the layers are chosen: `criterion` {', '.join(CRITERIA)}.")
        elif self.remove.layers is not None:
            raise InputError(
                f"`remove` {self.remove} names the layers itself, so `criterion` {self.criterion} has nothing to "
                "choose; leave it out, or write '3 layers mlp:0.1'."
            )
        elif criterion_row(self.criterion).needs_objective and not self.tasks:
            raise no_objective(self.criterion)
        if self.remove.mlp is None and "channels" in self.model_fields_set:
            raise InputError("`channels` ranks MLP channels, and `remove` names none; write `remove` mlp:0.28.")

    @cached_property
    def tasks(self) -> tuple[TaskSettings, ...]:
        return fields.read_named_tasks(self, self.objective, self.limit)

    def fit(self) -> None:
        depth = depth_of(self.model.model, self.model.revision)
        if depth is None:
            raise InputError(f"the config of {self.model.model} does not say how many decoder layers it has.")
        stays = parse_protected(self.protect, depth) if self.protect else None
        if self.remove.count is not None:
            Context(num_layers=depth, num_remove=self.remove.count.layers(depth), protect=stays)
        else:
            CutPlan(num_layers=depth, removed=self.remove.layers or ())

    def _request(self) -> SelectionRequest:
        names = [field.name for field in dataclasses.fields(SelectionRequest)]
        return SelectionRequest(**{name: getattr(self, name) for name in names})

    def run(self, io: Io) -> Selected:
        from layercut.progress.bars import RunProgress

        with RunProgress(io.console, stage="Choosing layers").running() as progress:
            return select_layers(
                io.handle(self.model), self._request(), out=self.run_folder, progress=progress, say=io.say
            )

    def show(self, done: Selected, io: Io) -> Shown:
        from layercut.report.runs import held_out_line, ranking_table

        chosen, held = done.plan.to_dict(), held_out_line(done.plan.scores)
        lines = [*([held] if held else []), f"{done.plan.criterion}: {done.plan.describe()}", f"plan: {done.path}"]
        return Shown(chosen, [ranking_table(chosen)], lines)

    def returned(self, done: Selected) -> CutPlan:
        return done.plan

    def rehearse(self, io: Io) -> Shown:
        if self.criterion is None:
            raise InputError("a dry run counts what choosing layers asks; MLP channels take one pass over the texts.")
        return shown_outline(selection_outline(self.model, self._request(), out=self.run_folder))
