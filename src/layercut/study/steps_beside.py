"""Steps of a study beside its arms: a sweep of the original model's layers, and a diagnosis of the pruned models.

They are ``layercut sweep`` and ``layercut diagnose`` in folders of their own inside the study's, ``sweep/`` and
``diagnose/``, where they resume. The study's page shows both.
"""

from __future__ import annotations

from rich.console import Console

from layercut.diagnostics import known
from layercut.diagnostics.diagnose import plan_diagnosis
from layercut.errors import InputError, unknown
from layercut.progress import Say
from layercut.runs.directory import METRICS
from layercut.runs.study import DIAGNOSE, SWEEP
from layercut.selection.sweep import PlannedSweep, plan_sweep
from layercut.study.arms import StudyArm
from layercut.study.work import StudyWork
from layercut.text.counting import counted


def sweep_step(work: StudyWork, *, console: Console, say: Say) -> None:
    """Skip each layer alone on the tasks of the step, or those of the study."""
    _planned_sweep(work, say).run(console, say)


def _planned_sweep(work: StudyWork, say: Say) -> PlannedSweep:
    step = work.settings.sweep
    assert step is not None
    limits = [task.limit or step.limit for task in step.objective]
    limits = limits or [step.limit] * len(work.settings.tasks)
    tasks = zip(step.objective or work.settings.tasks, limits, strict=True)
    return plan_sweep(
        work.model.settings,
        objective=[task.replace(limit=_lowered(work, limit)) for task, limit in tasks],
        layers=step.layers,
        split=step.split,
        out=work.folder / SWEEP,
        seed=work.settings.seed,
        decoding=work.settings.decoding,
        say=say,
    )


def diagnose_step(work: StudyWork, *, console: Console, say: Say) -> None:
    """Diagnose the arms of the study; see ``plan_diagnosis``.

    Raises:
        InputError: an arm that was asked for has no plan, or no checkpoint on disk.
    """
    step = work.settings.diagnose
    assert step is not None
    places = {
        arm.name: work.healers[arm.name].checkpoint if arm.healing else work.folder / arm.name / "plan.json"
        for arm in diagnosed(work)
    }
    missing = [name for name, place in places.items() if not place.exists()]
    left_out = [name for name in missing if name in work.healers and not step.cuts]
    for name in missing:
        if name not in left_out:
            raise InputError(f"{name} cannot be diagnosed, because {places[name]} does not exist.")
    if left_out:
        say(f"diagnose: {', '.join(left_out)} left out, because their checkpoints are not on disk")
    cuts = {name: str(place) for name, place in places.items() if name not in left_out}
    first: dict[str, str] = {}
    for arm in diagnosed(work):
        if not arm.healing and (same := first.setdefault(work.plan(arm).key, arm.name)) != arm.name:
            say(f"diagnose: {arm.name} removes the same layers as {same}")
            del cuts[arm.name]
    plan_diagnosis(
        work.model.settings,
        cuts,
        only=step.only,
        limit=_lowered(work, step.limit),
        num_samples=step.num_samples,
        out=work.folder / DIAGNOSE,
        seed=step.seed if "seed" in step.model_fields_set else work.settings.seed,
        say=say,
    ).run(console, say)


def diagnosed(work: StudyWork) -> list[StudyArm]:
    """The arms that the diagnosis is of; InputError for a name that is none of them."""
    step = work.settings.diagnose
    if step is None:
        return []
    arms = {arm.name: arm for arm in work.arms if not arm.is_uncut}
    for name in step.cuts:
        if name not in arms:
            raise unknown("arm in diagnose", name, arms)
    return [arm for arm in arms.values() if arm.name in step.cuts or not step.cuts]


def planned(work: StudyWork) -> list[str]:
    """A line for each of these steps that is left; for ``--dry-run``."""
    sweep, step = work.settings.sweep, work.settings.diagnose
    lines: list[str] = []
    if sweep is not None and not (work.folder / SWEEP / METRICS).is_file():
        said: list[str] = []
        outline = _planned_sweep(work, said.append).outline()
        lines += [f"sweep: {line}" for line in (*said, *(step.describe() for step in outline.steps))]
    if step is not None and not (work.folder / DIAGNOSE / METRICS).is_file():
        models = counted(len(diagnosed(work)) + 1, "model")
        items = counted(_lowered(work, step.limit), "item")
        lines.append(f"diagnose: {', '.join(known(step.only))} of {models}, at most {items} of each kind")
    return lines


def _lowered(work: StudyWork, limit: int) -> int:
    return min(limit, work.limit or limit)
