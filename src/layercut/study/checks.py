"""Early checks: names and layers are checked before torch, lm-eval or any weights are read.

    check_tasks(tasks)
    check_plans(model, ["reverse:3", "20-24"])

Every check is repeated where the value is used; nothing here decides a number. All of them raise InputError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from layercut.diagnostics import known
from layercut.engines import ENGINES
from layercut.errors import InputError, unknown
from layercut.models.depth import depth_of
from layercut.selection import criterion_row
from layercut.selection.base import Context, no_objective
from layercut.selection.protect import parse_protected
from layercut.selection.specs import check_spec, plan_from_spec
from layercut.settings import ModelSettings, TaskSettings
from layercut.surgery.plan import parse_layers
from layercut.tasks import check_task
from layercut.tasks.base import GENERATED

if TYPE_CHECKING:
    from layercut.study.settings import StudySettings

_TASK = "task:"
"""Prefix of a task among sources of prompts."""


def check_tasks(tasks: Iterable[TaskSettings]) -> None:
    """Refuse tasks, readouts and options that do not exist."""
    for one in tasks:
        check_task(one.task, one.readouts, data=one.data, max_new_tokens=one.max_new_tokens)


def check_names(tasks: Iterable[str]) -> None:
    """Refuse names of tasks that do not exist."""
    check_tasks(TaskSettings(task=name) for name in tasks)


def check_prompts(sources: Iterable[tuple[str, str | None]]) -> None:
    """Refuse ``task:NAME`` of an unknown task, or with a readout that does not generate; ``sources`` have both."""
    for source, readout in sources:
        if source.startswith(_TASK):
            check_task(source.removeprefix(_TASK))
            if readout is not None and readout not in GENERATED:
                raise unknown(f"generated readout of {source}", readout, GENERATED)


def check_plans(model: ModelSettings, specs: Iterable[str | None], seed: int = 0) -> None:
    """Refuse text that is no plan, and plans with layers that the model does not have."""
    given = [spec for spec in specs if spec is not None]
    for spec in given:
        check_spec(spec)
    depth = _depth(model) if given else None
    for spec in given if depth is not None else ():
        assert depth is not None
        plan_from_spec(spec, num_layers=depth, model=model.model, seed=seed)


def check_layers(model: ModelSettings, layers: str | None) -> None:
    """Refuse text that is no layer list, and lists with layers that the model does not have."""
    if layers is None:
        return
    last, depth = max(parse_layers(layers)), _depth(model)
    if depth is not None and last >= depth:
        raise InputError(f"layer {last} is not in {model.model}, which has {depth} decoder layers (0-{depth - 1}).")


def check_selection(
    model: ModelSettings, criterion: str, num_remove: int, *, protect: str | None = None, has_tasks: bool = True
) -> None:
    """Refuse an unknown criterion, one without its objective, too many layers, or protected layers that are missing."""
    if criterion_row(criterion).needs_objective and not has_tasks:
        raise no_objective(criterion)
    if (depth := _depth(model)) is not None:
        stays = parse_protected(protect, depth) if protect else None
        Context(num_layers=depth, num_remove=num_remove, protect=stays)


def check_study_names(study: StudySettings) -> None:
    """Refuse unknown tasks, readouts, options and criteria of a study. No file is read."""
    swept = study.sweep.objective if study.sweep else ()
    check_tasks((*study.tasks, *(task for one in study.criteria for task in one.objective), *swept))
    known(study.diagnose.only if study.diagnose else ())
    for arm in study.healing:
        check_prompts((spec.source, spec.readout) for spec in arm.prompts)
        check_names((*arm.decontaminate, *arm.train.guard))


def check_study_layers(study: StudySettings) -> None:
    """Refuse plans, depths and protected layers that do not fit the model of a study.

    A study of several models skips one that cannot be used, so nothing is checked there.
    """
    if len(study.models) > 1:
        return
    (model,) = study.models
    check_plans(model, study.plans.values(), study.seed)
    check_layers(model, study.sweep.layers if study.sweep else None)
    depth = _depth(model) if study.criteria else None
    for wanted in study.depths if depth is not None else ():
        assert depth is not None
        num_remove = wanted.layers(depth)
        if num_remove >= depth:
            raise InputError(f"depth {wanted.text} leaves no layer of {depth}; choose 1 to {depth - 1}.")
        for one in study.criteria:
            check_selection(model, one.criterion, num_remove, protect=one.protect)


def _depth(model: ModelSettings) -> int | None:
    """Decoder layers of a model; None for a served one, which cannot be pruned."""
    return None if ENGINES[model.engine].is_served else depth_of(model.model, model.revision)
