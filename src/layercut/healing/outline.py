"""What ``generate`` and ``heal`` would ask, train and write: their ``--dry-run``."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path

from layercut.engine.handle import ModelHandle
from layercut.engine.prompts import encode_prompt
from layercut.errors import InputError, MissingExtra, unknown
from layercut.healing.memory import Longest, training_disk, training_parts
from layercut.healing.methods import METHODS
from layercut.healing.process_group import ProcessGroup
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptSource, check_sources
from layercut.healing.prompts import record_prompt
from layercut.healing.settings import HealSettings, TrainSettings, num_held_out
from layercut.models.cache import remembered
from layercut.models.weights import PLAN_FILE
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.runs.records import read_records
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import read_plans
from layercut.surgery.plan import CutPlan

IN_FULL = "full_test_sets"
"""In a run's settings: tasks of whose whole test sets training data holds no item; left out where there is none."""
_RECORD = 2000  # bytes of a record with its prompt and answer, about


def answers_outline(
    handle: ModelHandle, plan: CutPlan, source: PromptSource, how: Answering, out: Path | None
) -> Outline:
    """The prompts of ``layercut generate`` that its folder holds no answer to."""
    counts, left = handle.counts, _num_left(source, out)
    _encodes(handle, source)
    return Outline(
        steps=(PlannedStep("answers", left, "answer"),),
        disk_bytes=0 if out is None else left * _RECORD,
        memory_bytes=counts.in_memory(handle.dtype) + round(handle.settings.cache_gib * 2**30),
        folder=out,
        more=(f"at most {how.max_new_tokens or source.max_new_tokens:,} tokens an answer", plan.describe()),
    )


def healing_outline(
    cut_model: ModelSettings,
    teacher_model: ModelSettings,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
) -> Outline:
    """The steps of ``layercut heal``; nothing is loaded or written. Raises what ``heal_model`` would at first."""
    cut, teacher, train = ModelHandle(cut_model), ModelHandle(teacher_model), settings.train
    check_method(train, ProcessGroup(0, 1))
    check_models(cut, teacher, source, settings)
    check_sources(train, source)
    longest = _encodes(cut, source)
    counts, uncut = (handle.counts for handle in (cut, teacher))
    limit = min(how.max_new_tokens or source.max_new_tokens, train.max_length)
    prompts = len(source.records) if source.records is not None else sum(len(part.answered) for part in source.parts)
    steps: list[PlannedStep] = []
    disk = 0
    if source.records is None and settings.asks_teacher:
        steps.append(PlannedStep("answers of the original model", _num_left(source, out), "answer"))
        disk = _RECORD * steps[0].items
    if not METHODS[train.method].made_by:
        steps.append(PlannedStep("reading both models", prompts, "text"))
        memory = {"weights": 4 * counts.parameters, "teacher": 4 * uncut.parameters}
        written = counts.stored_bytes
    else:
        aside = num_held_out(prompts, train.held_out)
        num_steps = train.num_steps(prompts - aside)
        steps.append(PlannedStep(f"training on {prompts - aside:,} examples", num_steps, "step"))
        if aside:
            times = 1 + math.ceil(num_steps / train.save_every)
            steps.append(PlannedStep(f"held-out examples, {times:,} times", times * aside, "example"))
        tokens = min(longest + limit, train.max_length)
        memory = training_parts(cut, teacher if train.needs_teacher else None, train, Longest(tokens, limit))
        adapter = 4 * train.rank * counts.of_adapters
        written = (adapter if settings.keep_adapter else counts.stored_bytes) * (1 + len(train.marks))
    return Outline(
        steps=tuple(steps),
        checkpoints=1 + len(train.marks),
        disk_bytes=disk + training_disk(counts, train) + written,
        stays_bytes=disk + written,
        memory_bytes=sum(memory.values()),
        memory_parts=memory,
        folder=out,
    )


def _num_left(source: PromptSource, out: Path | None) -> int:
    """Prompts without an answer, in the folder or given with them."""
    done = len(read_records(out / RESPONSES)) if out is not None and (out / RESPONSES).is_file() else 0
    return max(0, len(source.prompts) - max(done, len(source.known)))


def _encodes(handle: ModelHandle, source: PromptSource) -> int:
    """Tokens of the prompt with the most characters. Raises InputError: the model has no template for it."""
    prompts = [one.prompt for one in source.prompts]
    if source.records is not None:
        prompts = [record_prompt(one) for one in source.records]
    longest = max(prompts, key=lambda prompt: len(str(prompt)), default="")
    name = handle.settings.model
    return int(handle.read("prompts", longest, lambda reader: len(encode_prompt(reader.tokenizer, longest, name))))


def check_models(
    cut: ModelHandle, teacher: ModelHandle, source: PromptSource, settings: HealSettings, *, is_control: bool = False
) -> tuple[CutPlan, bool]:
    """The plan of the pruned model, and whether it was cut from another model than the teacher."""
    cut.source.refuse_adapter("healing")
    if not is_control and cut.metadata.model_hash == teacher.metadata.model_hash:
        raise InputError(
            f"{cut.settings.model} is its own teacher: {teacher.settings.model} is the same model, so there is nothing "
            f"to heal. Name a model that was cut from it: layercut cut {teacher.settings.model} --remove 3 --out DIR."
        )
    if settings.filters.right_only and source.parts and not source.tasks:
        raise InputError("none of these prompts is graded, so `right_only` has no meaning; take task:NAME.")
    plan = cut.last_cut
    known = [made.model_hash for made in cut.earlier_plans if not made.is_uncut and made.model_hash]
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
    method = METHODS[train.method]
    if group.size > 1 and train.graded:
        raise InputError(f"graded questions are for one process, and {group.size} were launched; leave `graded` out.")
    if group.size > 1 and (not method.is_distributed or train.answers_itself):
        what = train.objective if train.answers_itself else train.method
        raise InputError(f"{what} is for one process, and {group.size} were launched; start it without a launcher.")
    if method.base == "nf4":
        from layercut.healing.trainable import quantization

        quantization()
    if method.made_by:
        train.batches(group.size)
        if find_spec("trl") is None:
            raise MissingExtra("healing by training", "heal")
        if train.optimizer not in (names := remembered("optimizers", None, _read_optimizers)):
            raise unknown("optimizer", train.optimizer, names)


def _read_optimizers() -> list[str]:
    from layercut.healing.sft import OptimizerNames

    return [name.value for name in OptimizerNames]


def _check_scale(cut: ModelHandle, train: TrainSettings) -> None:
    """Refuse to compare a stream that an earlier version scaled (`seam` magnitude)."""
    is_cut = (cut.source.path / PLAN_FILE).is_file()
    earlier = read_plans(cut.source.path)[-1].get("healing", []) if is_cut else []
    if not METHODS[train.method].made_by and any(entry.get("seam_map") == "magnitude" for entry in earlier):
        raise InputError(
            f"{cut.settings.model} was healed by `seam` magnitude, so its stream has another scale than the "
            "original model's and the two cannot be compared; heal the pruned model itself, or train it."
        )
