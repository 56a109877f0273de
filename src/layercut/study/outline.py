"""What a study would still do: ``run --dry-run``."""

from __future__ import annotations

from layercut.healing.memory import training_disk
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.study.steps_beside import planned
from layercut.study.work import StudyWork
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell


def study_outline(work: StudyWork) -> Outline:
    """Count the work that is left of one model's part of a study."""
    left: dict[str, list[Cell]] = {arm.name: [] for arm in work.arms}
    for arm, cell in work.order:
        if not work.is_known(arm, cell):
            left[arm.name].append(cell)
    searches = [name for name in work.searches if any(arm.name not in work.plans for arm in work.arms_chosen_by(name))]
    trainings = [
        name for name in work.trainings if any(left[arm.name] for arm in work.arms if name in (arm.name, arm.training))
    ]
    steps = [PlannedStep(f"choosing layers by {name}", 1, "search") for name in searches]
    steps += [PlannedStep(f"healing {name}", 1, "training") for name in trainings]
    for arm in work.arms:
        done = len(work.cells) - len(left[arm.name])
        items = sum(len(cell.samples) for cell in left[arm.name])
        steps.append(PlannedStep(f"{arm.name}, {done} of {len(work.cells)} cells done", items))
    written = [num_bytes for arm in work.arms if (num_bytes := _checkpoint_bytes(work, arm.name))]
    counts = work.model.counts
    healers = [work.healers[name].arm.train for name in trainings if name in work.healers]
    # Counted on the original model, which is a little larger.
    training = max((training_disk(counts, train) for train in healers), default=0)
    return Outline(
        steps=tuple(steps),
        checkpoints=len(written) if work.settings.checkpoints else 0,
        disk_bytes=sum(written) + training,
        stays_bytes=sum(written) if work.settings.checkpoints else 0,
        memory_bytes=counts.in_memory(work.model.dtype) + round(work.model.settings.cache_gib * 2**30),
        folder=work.folder,
        more=(work.model.settings.model, *work.shortfalls(), *planned(work)),
    )


def _checkpoint_bytes(work: StudyWork, name: str) -> int:
    arm = next(one for one in work.arms if one.name == name)
    is_needed = work.settings.checkpoints or arm.healing or any(one.cut == name for one in work.arms)
    if arm.is_uncut or not is_needed:
        return 0
    plan = work.plans.get(arm.cut or name)
    if plan is None:  # not chosen yet: layers are of about one size
        last = range(work.model.num_layers - arm.depth, work.model.num_layers)
        plan = CutPlan(num_layers=work.model.num_layers, removed=tuple(last))
    return plan_cut(work.model.source.path, plan).bytes_after
