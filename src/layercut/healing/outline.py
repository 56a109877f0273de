"""What ``generate`` and ``heal`` would ask, train and write (``--dry-run``), what is refused first, and what fits."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from layercut.engine.handle import ModelHandle
from layercut.engine.rows import encode_prompt
from layercut.errors import InputError, MissingExtra, unknown_name
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptSource
from layercut.healing.prompts import record_prompt
from layercut.healing.settings import METHODS, HealSettings, TrainSettings, num_held_out
from layercut.models.cache import remembered_value
from layercut.models.placement import device_type
from layercut.models.weights import WeightCounts
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.runs.records import read_records
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan

Shared = TypeVar("Shared")
WAIT = timedelta(days=7)  # longest wait of the others for the teacher's answers
_RECORD = 2000  # bytes of a record with its prompt and answer, about


class ProcessGroup(NamedTuple):
    """Rank of this process, and number of processes, as ``accelerate launch`` or ``torchrun`` starts them.

    The first one owns the run folder, runs the teacher and writes the checkpoint. The others wait for its examples,
    train with it, and exit.
    """

    rank: int
    size: int

    @classmethod
    def of_this_process(cls, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
        """From the launcher's variables; a group of one without a launcher."""
        return cls(int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1)))

    def share(self, shared: Shared | None = None) -> Shared:
        """The first process's value, in all of them. It must be serialisable: numbers, texts, tuples, paths."""
        box: list[Any] = [shared]
        if self.size > 1:
            import torch
            import torch.distributed as dist

            if not dist.is_initialized():
                on_gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"
                if on_gpu:
                    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
                dist.init_process_group(backend="cuda:nccl,cpu:gloo" if on_gpu else "gloo")
            patient = dist.new_group(backend="gloo", timeout=WAIT)
            dist.broadcast_object_list(box, src=0, group=patient)
        received: Shared = box[0]
        return received

    def leave(self) -> None:
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


def answers_outline(
    handle: ModelHandle, plan: CutPlan, source: PromptSource, how: Answering, out: Path | None
) -> Outline:
    """The prompts of ``layercut generate`` that its folder holds no answer to."""
    left = _num_unanswered(source, out)
    _longest_prompt(handle, source)
    return Outline(
        steps=(PlannedStep("answers", left, "answer"),),
        disk_bytes=0 if out is None else left * _RECORD,
        memory_bytes=handle.bytes_in_memory + round(handle.settings.cache_gib * 2**30),
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
    check_method(train, ProcessGroup(0, 1), source)
    check_models(cut, teacher, source, settings)
    counts, prompts = cut.counts, len(source.prompts if source.records is None else source.records)
    longest, limit = _longest_prompt(cut, source), min(how.max_new_tokens or source.max_new_tokens, train.max_length)
    num_answers = _num_unanswered(source, out) if source.records is None and settings.asks_teacher else None
    steps = [] if num_answers is None else [PlannedStep("answers of the original model", num_answers, "answer")]
    if METHODS[train.method].repairs:
        steps.append(PlannedStep("reading both models", prompts, "text"))
        # At its fullest the process holds both models, and the file of the second one that it is still reading.
        both = {"weights": 4 * counts.parameters, "teacher": 4 * teacher.counts.parameters}
        memory = {**both, "files": teacher.counts.stored_bytes}
    else:
        aside = num_held_out(prompts, train.held_out)
        num_steps = train.num_steps(prompts - aside)
        steps.append(PlannedStep(f"training on {prompts - aside:,} examples", num_steps, "step"))
        if aside:
            times = 1 + math.ceil(num_steps / train.save_every)
            steps.append(PlannedStep(f"held-out examples, {times:,} times", times * aside, "example"))
        taught_by, most = teacher if train.goal.divergence else None, min(longest + limit, train.max_length)
        memory = training_parts(cut, taught_by, train, num_tokens=most, num_in_loss=limit)
    stays = _RECORD * (num_answers or 0) + counts.stored_bytes
    return Outline(
        steps=tuple(steps),
        checkpoints=1,
        disk_bytes=stays + training_disk(counts, train),
        stays_bytes=stays,
        memory_bytes=sum(memory.values()),
        memory_parts=memory,
        folder=out,
    )


def _num_unanswered(source: PromptSource, out: Path | None) -> int:
    """Prompts without an answer, in the folder or given with them."""
    done = len(read_records(out / RESPONSES)) if out is not None and (out / RESPONSES).is_file() else 0
    return max(0, len(source.prompts) - done)


def _longest_prompt(handle: ModelHandle, source: PromptSource) -> int:
    """Tokens of the prompt with the most characters. Raises InputError: the model has no template for it."""
    prompts = [prompt.prompt for prompt in source.prompts] + [record_prompt(record) for record in source.records or ()]
    longest = max(prompts, key=lambda prompt: len(str(prompt)), default="")
    name = handle.settings.model
    return int(handle.read("prompts", longest, lambda reader: len(encode_prompt(reader.tokenizer, longest, name))))


def check_models(
    cut: ModelHandle, teacher: ModelHandle, source: PromptSource, settings: HealSettings, *, is_control: bool = False
) -> CutPlan:
    """The plan of the pruned model. Raises InputError: it was cut from another model than the teacher."""
    plan, teacher_hash = cut.last_cut, teacher.metadata.model_hash
    if not is_control and cut.metadata.model_hash == teacher_hash:
        name = cut.settings.model
        raise InputError(
            f"{name} is its own teacher, so nothing is to heal; first: layercut cut {name} --remove 3 --out DIR."
        )
    if settings.filters.right_only and source.parts and not source.tasks:
        raise InputError("none of these prompts is graded, so `right_only` has no meaning; take task:NAME.")
    known = [made.model_hash for made in cut.earlier_plans if not made.is_uncut and made.model_hash]
    if known and teacher_hash not in known:
        raise InputError(
            f"{cut.settings.model} was cut from {plan.model or 'another model'} ({plan.model_hash}), and "
            f"{teacher.settings.model} is another model ({teacher_hash}). Use that model as the teacher."
        )
    return plan


def check_method(train: TrainSettings, group: ProcessGroup, source: PromptSource | None = None) -> None:
    """Raise InputError or MissingExtra now for what would fail after hours of answering."""
    method = METHODS[train.method]
    if source is not None and train.goal.is_graded and not source.is_graded:
        raise InputError("grpo needs prompts whose answers are graded, and some of these are not; take task:NAME.")
    if group.size > 1 and (not method.is_distributed or train.goal.answers_itself):
        what = train.objective if train.goal.answers_itself else train.method
        raise InputError(f"{what} is for one process, and {group.size} were launched; start it without a launcher.")
    if method.base == "nf4":
        from layercut.healing.trainable import nf4_quantization

        nf4_quantization()
    if not method.repairs:
        train.batches(group.size)
        if find_spec("trl") is None:
            raise MissingExtra("healing by training", "heal")
        if train.optimizer not in (names := remembered_value("optimizers", None, _read_optimizers)):
            raise unknown_name("optimizer", train.optimizer, names)


def _read_optimizers() -> list[str]:
    from layercut.healing.sft import OptimizerNames

    return [name.value for name in OptimizerNames]


def training_parts(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, *, num_tokens: int, num_in_loss: int
) -> dict[str, int]:
    """Bytes by part when a training step takes most, about, by formula from the headers of the weight files.

    Activations are those of Korthikanti et al. (arXiv:2205.05198) without the attention scores, which torch's kernel
    does not keep: 17 values for each token, layer and hidden unit. Adapters keep the input of each of their matrices
    again, 11 values more, and what passes through their rank. Logits are taken in chunks of at most 2**25 values, each
    with its gradient and copies in float32. Tokens are those of the longest example, and of the longest answer.
    """
    counts, method = cut.counts, METHODS[train.method]
    micro, _ = train.batches()
    trainable = method.num_trainable(counts, train)
    width = 2 if train.autocasts(has_bfloat16=has_bfloat16(cut)) else 4
    values = 17 * counts.hidden_size + (11 * counts.hidden_size + 7 * train.rank if method.has_adapter else 0)
    a_layer = width * values
    layers = a_layer * counts.num_layers
    if train.checkpoints(on_gpu=is_on_gpu(cut)):
        layers = width * counts.hidden_size * counts.num_layers + a_layer
    moments = 0 if train.optimizer == "adafactor" else 2 if "8bit" in train.optimizer else 8  # bytes of a weight
    weights = {
        "stored": counts.in_memory(cut.dtype),
        # NF4 with double quantisation: 4.127 bits a weight (arXiv:2305.14314)
        "nf4": round(4.127 / 8 * counts.in_layers) + 4 * (counts.parameters - counts.in_layers),
        "float32": 4 * counts.parameters,
    }[method.base]
    return {
        "weights": weights,
        "gradients": 4 * trainable,
        "optimizer": moments * trainable,
        "activations": micro * num_tokens * layers,
        "logits": (24 if teacher is None else 48) * min(micro * num_in_loss * counts.vocabulary, 2**25),
        "teacher": 0 if teacher is None else teacher.bytes_in_memory,
    }


def training_disk(counts: WeightCounts, train: TrainSettings) -> int:
    """Most bytes on disk while a model is trained: three checkpoints, with the weights and both moments of AdamW."""
    method = METHODS[train.method]
    if method.repairs:
        return 0
    trainable = method.num_trainable(counts, train)
    return 3 * (4 * (trainable if method.has_adapter else counts.parameters) + 8 * trainable)


def is_on_gpu(handle: ModelHandle) -> bool:
    """True if the model will run on a CUDA device."""
    return device_type(handle.settings.device) == "cuda"


def has_bfloat16(handle: ModelHandle) -> bool:
    """True if the model will run on a GPU that has it."""
    if not is_on_gpu(handle):
        return False
    import torch

    return bool(torch.cuda.is_bf16_supported())
