"""Heal a pruned model in one resumable run: the teacher answers, filters apply, and the pruned model is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.engine.estimate import CostEstimate
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.data import examples_of, matched, original_records, report_items, split
from layercut.healing.estimate import estimate_healing
from layercut.healing.generate import answers_of
from layercut.healing.job import CHECKPOINT, HealingJob, ToTrain, load_cut, train_along
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import Answering, PromptSource, asked
from layercut.healing.settings import RESPONSES, HealSettings, TrainSettings
from layercut.progress import Say
from layercut.runs.directory import RunFolder
from layercut.runs.disk import resumable
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import PLAN_FILE
from layercut.surgery.plan import CutPlan
from layercut.text.counting import counted

FLAGS = {"micro_batch": "micro_batch", "batch_size": "batch_size", "temperature": "temperature"}


class Healed(NamedTuple):
    """The outcome of a healing."""

    checkpoint: Path
    healing: dict[str, Any]

    def lines(self) -> list[str]:
        metadata = self.healing
        trained, tokens = counted(metadata["num_examples"], "answer"), counted(metadata["loss_tokens"], "answer token")
        lines = [f"trained on {trained}, {tokens}"]
        losses = metadata.get("held_out_loss", {})
        if "best" in losses:
            before = f"{losses['before']:.4f} before training, " if "before" in losses else ""
            lines.append(f"held-out loss: {before}{losses['best']:.4f} at its best")
        lines += [
            f"step {look['step']}: " + ", ".join(f"{name} {100 * look[name]:.0f} %" for name in look if name != "step")
            for look in metadata.get("looks", [])
        ]
        lines += metadata.get("seams", [])
        lines += [f"checked: {text}" for text in metadata["checked"]]
        return [*lines, f"checkpoint: {self.checkpoint}"]


def heal_model(
    cut_model: ModelSettings,
    teacher_model: ModelSettings,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
    console: Console,
    say: Say,
    is_control: bool = False,
) -> Healed | None:
    """Heal a pruned model; ``layercut heal``. The same call again continues where it was stopped.

    In a process group all processes make the same call; the first one returns the outcome, the others None.
    ``is_control`` lets a model be its own teacher: the arm of a study that trains the original model.

    Raises:
        InputError: settings that do not fit each other or the models, or prompts that leave nothing to train on.
        MissingExtra: TRL or PEFT is not installed.
    """
    train, group = settings.train, ProcessGroup.of_this_process()
    if not group.is_first:
        check_method(train, group)
        shared: ToTrain | None = group.share()
        if shared is not None:
            train_along(ModelHandle(cut_model), ModelHandle(teacher_model), train, shared)
            group.leave()
        return None
    cut, teacher = ModelHandle(cut_model), ModelHandle(teacher_model)
    check_method(train, group)
    plan, is_another = _checked(cut, teacher, source, settings, is_control=is_control)
    run_settings = {
        "heal": settings.describe(),
        "cut": cut.describe(),
        "teacher": teacher.describe(),
        **asked(source, how, train.seed),
    }
    with resumable(out), RunFolder.begin(out, run_settings, flags=FLAGS) as run:
        folder = run.path / CHECKPOINT
        if (folder / PLAN_FILE).is_file():  # a checkpoint is complete or absent
            run.write_metrics([], plan=plan.to_dict())
            group.share(None)
            return Healed(folder, json.loads((folder / PLAN_FILE).read_text("utf-8"))["healing"][-1])
        say(f"{cut_model.model}: {train.method}, {train.objective}, on {settings.responses} answers")
        for note in source.notes:
            say(note)
        arms = {settings.responses, *(RESPONSES if settings.match_tokens else ())}
        records = {}
        if "self" in arms:
            records["self"] = _self_records(run, teacher, source, how, train.seed, console, say)
        if "original" in arms:
            records["original"] = original_records(source.parts)
        loaded = load_cut(cut, train)
        items = report_items(settings.decontaminate, settings.data, say)
        found = {}
        for arm, some in records.items():
            # A data set's own answers were not graded and need not be.
            filters = settings.filters.replace(right_only=False) if arm == "original" else settings.filters
            found[arm] = examples_of(some, loaded, filters, items, train.max_length, arm, say)
        examples, counts = found[settings.responses]
        if settings.match_tokens:
            examples = matched({arm: made for arm, (made, _) in found.items()}, settings.responses, train.seed, say)
        data = split(examples, train, say)
        healing = {
            "method": train.method,
            "objective": train.objective,
            "removed": list(plan.removed),
            "responses": settings.responses,
            "tokens_matched": settings.match_tokens,
            "teacher": teacher_model.model,
            "teacher_hash": teacher.metadata.model_hash,
            "cut_hash": cut.metadata.model_hash,
            **({"cut_from": {"model": plan.model, "model_hash": plan.model_hash}} if is_another else {}),
            "data_hash": data.hash,
            "num_examples": len(data.train),
            "num_held_out": len(data.held_out),
            "loss_tokens": data.num_tokens,
            **counts,
        }
        job = HealingJob(
            run=run,
            cut=cut,
            teacher=teacher,
            loaded=loaded,
            plan=plan,
            data=data,
            records=records[settings.responses],
            settings=settings,
            healing=healing,
            console=console,
            say=say,
            group=group,
            tasks=source.tasks,
        )
        healing = job.seam() if train.method == "seam" else job.train()
        run.write_metrics([], plan=plan.to_dict())
        return Healed(folder, healing)


def estimate_heal(
    cut_model: ModelSettings,
    teacher_model: ModelSettings,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
) -> CostEstimate:
    """The cost of ``heal_model``; nothing is loaded or written. Raises what ``heal_model`` raises at its beginning."""
    cut, teacher = ModelHandle(cut_model), ModelHandle(teacher_model)
    check_method(settings.train, ProcessGroup(0, 1))
    _checked(cut, teacher, source, settings)
    return estimate_healing(cut, teacher, source, settings, how, out=out)


def _checked(
    cut: ModelHandle, teacher: ModelHandle, source: PromptSource, settings: HealSettings, *, is_control: bool = False
) -> tuple[CutPlan, bool]:
    """The plan of the pruned model, and whether it was cut from another model than the teacher; InputError if they do
    not fit.
    """
    cut.source.refuse_adapter("healing")
    if not is_control and cut.metadata.model_hash == teacher.metadata.model_hash:
        raise InputError(
            f"{cut.settings.model} is its own teacher: {teacher.settings.model} is the same model, so there is nothing "
            f"to heal. Name a model that was cut from it: layercut cut {teacher.settings.model} --remove 3 --out DIR."
        )
    settings.filters.check()
    if settings.filters.right_only and len(source.tasks) < len(source.parts):
        raise InputError("not all of these prompts are graded, so `right_only` has no meaning; take task:NAME.")
    plan = cut.earlier_plans[-1] if cut.earlier_plans else CutPlan(num_layers=cut.num_layers)
    known = [made.model_hash for made in cut.earlier_plans if made.removed and made.model_hash]
    is_another = bool(known) and teacher.metadata.model_hash not in known
    if is_another and not cut.settings.plan_from_another_model:
        raise InputError(
            f"{cut.settings.model} was cut from {plan.model or 'another model'} ({plan.model_hash}), and "
            f"{teacher.settings.model} is another model ({teacher.metadata.model_hash}). Use that model as the "
            "teacher, or heal anyway with `plan_from_another_model`."
        )
    _check_scale(cut, settings.train)
    return plan, is_another


def check_method(train: TrainSettings, group: ProcessGroup) -> None:
    """Raise InputError or MissingExtra now for what would fail after hours of answering."""
    if group.size > 1 and train.graded:
        raise InputError(f"graded questions are for one process, and {group.size} were launched; leave `graded` out.")
    if group.size > 1 and (train.method in ("seam", "qlora") or train.objective == "on-policy"):
        what = train.objective if train.objective == "on-policy" else train.method
        raise InputError(f"{what} is for one process, and {group.size} were launched; start it without a launcher.")
    if train.method == "qlora":
        from layercut.healing.adapters import quantization

        quantization()
    if train.method != "seam":
        train.batches(group.size)
        import layercut.healing.sft  # noqa: F401  says which extra is missing


def _check_scale(cut: ModelHandle, train: TrainSettings) -> None:
    """Refuse to compare streams after magnitude compensation, which changes the scale of the pruned model's."""
    file = cut.source.path / PLAN_FILE
    earlier = json.loads(file.read_text("utf-8")).get("healing", []) if file.is_file() else []
    compares = train.method == "seam" or train.objective == "hidden"
    if compares and any(entry.get("seam_map") == "magnitude" for entry in earlier):
        raise InputError(
            f"{cut.settings.model} was healed by `seam` magnitude, so its stream has another scale than the "
            "original model's and the two cannot be compared; heal the pruned model itself, or use another objective."
        )


def _self_records(
    run: RunFolder,
    teacher: ModelHandle,
    source: PromptSource,
    how: Answering,
    seed: int,
    console: Console,
    say: Say,
) -> list[dict[str, Any]]:
    """The teacher's own answers: those of an earlier run, or generated now."""
    handle = teacher
    if source.records is not None:
        made_by = {record.get("model_hash") for record in source.records}
        if made_by != {handle.metadata.model_hash} or any(record.get("removed") for record in source.records):
            raise InputError(
                f"some of these answers are not from the original model {teacher.settings.model}; generate them with "
                f"it: layercut generate {teacher.settings.model} --prompts ... --out DIR."
            )
        return source.records
    return answers_of(handle, handle.plan(), source, how, seed, run.path, console, say).chosen
