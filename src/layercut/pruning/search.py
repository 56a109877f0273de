"""Grow the path of plans: the next size, healed in closed form where that may pay, all on selection items."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.healing.data import BUILT_IN
from layercut.healing.heal import heal_model
from layercut.healing.prompt_sources import Answering, PromptGroup, PromptSource
from layercut.healing.prompts import AnswerRecord, NamedPrompt, plain_prompt
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.pruning.confirm import Arm, share_words
from layercut.pruning.path import PlanPath, SizePath
from layercut.pruning.run import PruneRun, healed_checkpoint, removal_of
from layercut.pruning.settings import AUTO, BOTH, SEAM, PruneSettings
from layercut.runs.prune import PathStep, Tried, least_kept
from layercut.selection.objective import TaskRecords
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import is_generated

PLANS = "plans"  # folder of the plans of a path of sizes
_SHOWN = 5  # repairs of a plan that are named one by one; healing.json has all of them


def grow_path(run: PruneRun) -> None:
    """Add one plan after the other, until nothing is left to be shown."""
    for step in load_steps(run):
        _show_step(run, step)
    size_path = SizePath(run.model, run.sizes, layers=run.settings.removed_units.kind == BOTH)
    while "path_ended" not in run.notes:
        steps = load_steps(run)
        if (place := next_size(run.shares, run.settings, steps)) is None:
            run.notes.put("path_ended", _why_ended(run, steps))
            break
        step = _choose_plan(run, steps, place, size_path)
        tried = [Tried(kept=run.path.kept(load_plan(run, step), run.seed))]
        may_pay = run.settings.heal == AUTO and least_kept(tried[0].kept) != 1
        if run.settings.heal == SEAM or (may_pay and run.takes_seams):
            tried.append(_heal_step(run, step))
        step = step.model_copy(update={"tried": tuple(tried), "healing": choose_way(tried).healing})
        steps = sorted([*steps, step], key=lambda step: step.size)
        run.notes.put("path", [step.model_dump(mode="json") for step in steps])
        _show_step(run, step)


def tested_arms(run: PruneRun) -> list[Arm]:
    """The models to test on report items, in order: the sizes that keep the goal on selection items, or else the
    least.
    """
    steps = load_steps(run)
    steps = [step for step in steps if least_kept(step.chosen.kept) >= run.settings.keep] or steps[:1]
    return [Arm(step.run, load_plan(run, step), step.healing, step.stage) for step in steps]


def load_steps(run: PruneRun) -> list[PathStep]:
    """The plans of the path so far, by size."""
    return [PathStep.model_validate(step) for step in run.notes.get("path", [])]


def load_plan(run: PruneRun, step: PathStep) -> CutPlan:
    """The plan of a step; its channels are those of the file that was written with it."""
    channels = CutPlan.load(_plan_file(run, step)).channels if step.mlp else None
    return run.path.plan(step.removed, run.model.plan(), channels)


def _plan_file(run: PruneRun, step: PathStep) -> Path:
    return run.folder / PLANS / f"{step.name}.json"


def _show_step(run: PruneRun, step: PathStep) -> None:
    healed = f", healed by {step.healing}" if step.healing else ""
    run.progress.end(step.stage, note=f"without {step.label}{healed}", chosen=share_words(step.chosen.kept))


def _choose_plan(run: PruneRun, steps: Sequence[PathStep], place: int, size_path: SizePath) -> PathStep:
    """The plan of the size at a place, not judged yet; the channels of its MLPs are on disk when this returns."""
    sizes = run.shares
    before = [step for step in steps if step.size < sizes[place]]
    removed, start = (before[-1].removed, sizes.index(before[-1].size) + 1) if before else ((), 0)
    run.progress.begin(f"size -{100 * sizes[place]:.0f} %", "choosing what goes")
    for size in sizes[start : place + 1]:  # each plan removes the layers of the one before
        plan = size_path.next_plan(run.path, removed, size)
        removed = plan.removed
    step = PathStep(size=sizes[place], tried=(), **removal_of(plan))
    _plan_file(run, step).parent.mkdir(exist_ok=True)
    plan.save(_plan_file(run, step))
    return step


def next_size(sizes: Sequence[float], settings: PruneSettings, steps: Sequence[PathStep]) -> int | None:
    """Place of the size to try next, by halving: a plan that keeps the goal on selection items is followed by a
    smaller one, another by a larger one. Where two neighbours enclose the goal, half the least size that keeps it
    comes last, so that the test on report items begins with a plan that is safer. None where nothing is left.
    """
    if settings.one_size:
        return None if steps else len(sizes) - 1
    keeps = {sizes.index(step.size): least_kept(step.chosen.kept) >= settings.keep for step in steps}
    largest = max((place for place, is_kept in keeps.items() if is_kept), default=-1)
    least = min((place for place, is_kept in keeps.items() if not is_kept), default=len(sizes))
    if least - largest > 1:
        return (largest + least) // 2
    first = min((place for place, is_kept in keeps.items() if is_kept), default=0)
    return first // 2 if first > 1 and least > first else None


def _why_ended(run: PruneRun, steps: Sequence[PathStep]) -> str:
    keep = run.settings.keep
    if run.settings.one_size or least_kept(steps[-1].chosen.kept) >= keep:
        most = f"{100 * run.sizes.most_bytes(run.settings):.0f} %"
        was_asked = run.settings.smaller is not None
        limit = f"You asked for {most} at most" if was_asked else f"{most} fewer bytes was the most that was tried"
        return f"{limit}; a smaller model may pass too"
    weak = next(step for step in steps if least_kept(step.chosen.kept) < keep)
    return f"The search ended at {weak.stage}, which keeps {least_kept(weak.chosen.kept):.0%} on selection items"


# Healing


def _heal_step(run: PruneRun, step: PathStep) -> Tried:
    """Heal the plan in closed form, and judge it on selection items."""
    plan = load_plan(run, step)
    run.progress.begin(step.stage, "healing in closed form")
    source = healing_prompts(run.path, run.model.metadata.model_hash)
    _ = run.seam  # measured, as the source is asked, while the original model is in memory
    run.release_if_large()
    checkpoint = heal_plan(run, plan, source)
    run.progress.begin(step.stage, "scoring the healed model")
    healed = run.handle_of(checkpoint)
    kept = run.path.kept(plan, run.seed, healed.engine)
    healed.release()
    return Tried(healing=SEAM, kept=kept)


def choose_way(tried: Sequence[Tried]) -> Tried:
    """The closed form, unless it keeps less of its worst task than the interval of the plan itself allows.

    A hundred items order ways by luck: SmolLM2 at -15 % kept 103 [81, 130] % of sums unhealed, and 82 [69, 96] % of the
    report items.
    """
    closed = next((way for way in tried if way.healing == SEAM), tried[0])
    lows = [task.kept.low for task in tried[0].kept if task.kept is not None and task.kept.low is not None]
    return closed if least_kept(closed.kept) >= min(lows, default=float("-inf")) else tried[0]


def heal_plan(run: PruneRun, plan: CutPlan, source: PromptSource) -> Path:
    """Heal a plan in closed form, and return the checkpoint's folder; the same call goes on where it was stopped.

    Prompts are selection items of the goal's tasks; report items are filtered out.

    Raises:
        InputError: a model or prompts that cannot be healed with.
    """
    made = healed_checkpoint(run, plan)
    cut = made.parents[1] / "checkpoint"
    if not made.exists():
        if not cut.exists():
            cut_model(run.model.source, plan, cut, uncut=None)
        train = TrainSettings(
            method=SEAM,
            seam=run.seam,
            precision="bfloat16" if run.model.dtype == "bfloat16" else "auto",  # as the model itself computes
            seed=run.seed,
        )
        healed = heal_model(
            run.model.settings.replace(model=str(cut), revision=None),
            run.model.settings,
            source,
            HealSettings(
                train=train,
                responses="self" if source.records or source.tasks else "original",  # answers, or right options
                decontaminate=tuple(sorted(task.task for task in run.goal.tasks if task.task not in BUILT_IN)),
                data={task.task: task.data for task in run.goal.tasks if task.data is not None},
            ),
            Answering(),
            out=made.parent,
            console=run.console,
            say=lambda text: None,
        )
        assert healed is not None, "prune runs in one process"
        places = healed.healing.get("seams", [])
        for line in places if len(places) <= _SHOWN else [f"{len(places)} layers repaired in closed form"]:
            run.say(f"{plan.label}: {line}")
    shutil.rmtree(cut, ignore_errors=True)
    return made


def healing_prompts(path: PlanPath, model_hash: str) -> PromptSource:
    """Data of seams: the original model's answers where a task is written, else the right options. Its answers to
    general requests come with either.
    """
    is_written = any(is_generated(part.readout) for part in path.parts)
    records: list[AnswerRecord] = []
    with_answers: list[NamedPrompt] = []
    items: dict[str, list[str]] = {}
    for answered in (*path.healing_answers(), *path.general):
        part = answered.task
        if is_written and is_generated(part.readout):
            records += _answer_records(answered, model_hash)
            continue
        for sample, record in zip(answered.samples, answered.records, strict=True):
            request = part.task.request(sample, part.readout)
            if isinstance(request, LikelihoodRequest) and not request.prompts:
                answer = request.continuations[sample.gold_index if sample.options else 0]
            elif is_generated(part.readout) and record["outcome"] == "right":
                answer = record["completion"]
            else:
                continue
            with_answers.append(NamedPrompt(f"{part.task.name} {sample.id}", request.prompt, answer))
            items.setdefault(part.task.name, []).append(sample.id)
    return PromptSource(records=records) if records else PromptSource(parts=(PromptGroup(with_answers, made_of=items),))


def _answer_records(answered: TaskRecords, model_hash: str) -> list[AnswerRecord]:
    """A model's answers to a task that is written, as records of training."""
    part, records = answered.task, []
    for sample, record in zip(answered.samples, answered.records, strict=True):
        request = part.task.request(sample, part.readout)
        assert isinstance(request, GenerationRequest), f"{part.label} must generate"
        made: AnswerRecord = {
            "id": f"{part.task.name} {sample.id}",
            "prompt": plain_prompt(request.prompt),
            "completion": record["completion"],
            "finish_reason": record["finish_reason"],
            "num_prompt_tokens": record["num_prompt_tokens"],
            "num_new_tokens": record["num_new_tokens"],
            "model_hash": model_hash,
            "removed": [],
            "stop": list(request.stop),
            "task": part.task.name,
        }
        if request.begins:
            made["begins"] = request.begins
        records.append(made)
    return records
