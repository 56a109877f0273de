"""Heal a plan in closed form, from the original model's own answers to selection items that judge no plan."""

from __future__ import annotations

import shutil
from pathlib import Path

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.healing.data import BUILT_IN
from layercut.healing.heal import heal_model
from layercut.healing.prompt_sources import Answering, PromptGroup, PromptSource
from layercut.healing.prompts import AnswerRecord, NamedPrompt, plain_prompt
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.pruning.path import PlanPath
from layercut.pruning.run import PruneRun
from layercut.pruning.settings import SEAM
from layercut.selection.objective import TaskRecords
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import is_generated

_SHOWN = 5  # repairs of a plan that are named one by one; healing.json has all of them


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


def healed_checkpoint(run: PruneRun, plan: CutPlan) -> Path:
    """Folder of the healed model of a plan."""
    return run.folder / "healing" / f"plan-{plan.key}" / SEAM / "checkpoint"


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
