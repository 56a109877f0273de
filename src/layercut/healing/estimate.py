"""Estimate the cost of ``generate`` and ``heal`` (``--dry-run``) from prompts, settings and headers of weight files.

Answers may have any length up to the limit, so their tokens are a range, and memory is that of the longest. Memory is
counted by part at its fullest moment; see ``memory``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.base import Prompt
from layercut.engine.estimate import TRAINING, CostEstimate, Step, measured_speed
from layercut.engine.handle import ModelHandle
from layercut.engine.prompts import encode_prompt
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptSource, check_sources
from layercut.healing.prompts import record_prompt
from layercut.healing.settings import HealSettings, TrainSettings, num_held_out
from layercut.models.loading import load_tokenizer
from layercut.models.placement import pick_device
from layercut.models.weights import read_config, read_header, safetensors_files
from layercut.progress.bars import CHARACTERS_PER_TOKEN
from layercut.runs.records import read_records
from layercut.surgery.plan import CutPlan

_LOOKED_AT = 32
"""Prompts that are tokenised; the mean holds for the others."""
_SHORTEST = 16
"""Fewest tokens of an answer; or the limit where that is lower."""
_RECORD = 400
"""Bytes of a record without its prompt and answer."""
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LAYER = re.compile(r"\.(?:layers|h)\.(\d+)\.")


class _Weights(NamedTuple):
    """A model's weights, from the headers of its files."""

    parameters: int
    stored_bytes: int
    bytes_in_memory: int
    adapter_parameters: int
    """Parameters of adapters of rank 1: the sum of rows and columns of all matrices in decoder layers."""
    layer_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    cache_bytes: int
    """Keys and values of one token."""
    vocabulary: int


def estimate_answers(
    handle: ModelHandle, plan: CutPlan, source: PromptSource, how: Answering, out: Path | None
) -> CostEstimate:
    """The cost of ``layercut generate``, without answers that the folder holds."""
    weights, limit = _weights(handle), how.max_new_tokens or source.max_new_tokens
    step = _answers(handle, handle.num_parameters(plan), source, how, _answered(out))
    characters = sum(len(str(one.prompt)) for one in source.prompts) * how.samples
    num_bytes = 0 if out is None else characters + step.items * _RECORD + step.new_tokens[1] * CHARACTERS_PER_TOKEN
    return CostEstimate(
        steps=(step,),
        speed=measured_speed(handle.settings.device),
        disk_bytes=num_bytes,
        stays_bytes=num_bytes,
        memory_bytes=weights.bytes_in_memory + _cache(weights, step, limit),
        folder=out,
    )


def estimate_healing(
    cut: ModelHandle,
    teacher: ModelHandle,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
    rounds: int = 1,
) -> CostEstimate:
    """The cost of ``layercut heal``; with ``rounds`` of a loop, without the time of choosing layers.

    Raises InputError for an objective or a mixture that these prompts do not allow.
    """
    from layercut.healing import pair
    from layercut.healing.guard import guard_tasks
    from layercut.healing.learner import BATCH
    from layercut.healing.strength import STRENGTHS
    from layercut.selection.answers import ObjectiveTask
    from layercut.selection.estimate import asking_step

    train, weights, uncut = settings.train, _weights(cut), _weights(teacher)
    check_sources(train, source)
    is_graded, limit = train.is_graded, how.max_new_tokens or source.max_new_tokens
    if is_graded:
        limit = min(train.rollout_max, source.max_new_tokens)
    steps, moments, disk, evaluations = [], {}, 0, 0
    if source.records is None and settings.asks_teacher:
        asked = _answers(teacher, uncut.parameters, source, how, _answered(out))
        steps.append(asked)
        moments["while the original model answers"] = {
            "teacher": uncut.bytes_in_memory,
            "keys and values": _cache(uncut, asked, limit),
        }
        disk += asked.items * _RECORD + (asked.prompt_tokens + asked.new_tokens[1]) * CHARACTERS_PER_TOKEN
    count, tokens = _examples(cut, source, settings, limit)
    aside, group = num_held_out(count, train.held_out), train.group if is_graded else 1

    def writing(name: str, prompts: int, answers: int, at_once: int) -> Step:
        return Step(
            name=name,
            items=prompts * answers,
            unit="answer",
            parameters=weights.parameters,
            prompt_tokens=prompts * max(tokens - limit // 2, 0),
            new_tokens=(prompts * answers * min(_SHORTEST, limit), prompts * answers * limit),
            batch_size=at_once,
        )

    def reading(name: str, items: int, parameters: int, unit: str = "example", **more: Any) -> Step:
        return Step(name=name, items=items, unit=unit, parameters=parameters, prompt_tokens=items * tokens, **more)

    if train.method == "seam":
        both = weights.parameters + uncut.parameters
        steps.append(reading("reading both models", count, both, "text"))
        width = weights.intermediate_size if train.seam == "projection" else weights.hidden_size
        moments["while both models are read"] = {
            "weights": 4 * weights.parameters,
            "teacher": 4 * uncut.parameters,
            "sums": 4 * 8 * width**2,
        }
        trainable = 0
    else:
        num_steps, batch = train.num_steps(count - aside), train.micro_batch
        num_examples = num_steps * train.batch_size * rounds
        if is_graded:
            name = f"the pruned model's answers, {group} to each prompt"
            steps.append(writing(name, num_examples, group, train.batch_size * group))
        trainable = _trainable(weights, train)
        name, cost = f"training, {num_steps * rounds:,} steps", TRAINING + train.needs_teacher
        steps.append(reading(name, num_examples * group, weights.parameters, batch_size=batch, cost=cost))
        longest = _longest(cut, source, settings, limit)
        parts = training_parts(cut, teacher if train.needs_teacher else None, train, longest)
        own = pair.own_parameters(cut, teacher, train) if rounds == 1 else None
        if own is not None:
            parts["weights"] -= weights.bytes_in_memory * (weights.parameters - own) // weights.parameters
        moments[f"in training, for {batch} examples of {longest.tokens:,} tokens"] = parts
        if train.answers_itself:
            kept = {name: parts[name] for name in ("weights", "gradients", "optimizer", "teacher")}
            at_once = max(train.batch_size * group, aside if is_graded else 0)
            cache = at_once * longest.tokens * weights.cache_bytes
            moments["while the pruned model answers"] = kept | {"keys and values": cache}
        if aside:
            evaluations = (1 + math.ceil(num_steps / train.save_every)) * rounds
            if is_graded:
                name = f"answers to held-out prompts, {evaluations:,} times"
                steps.append(writing(name, evaluations * aside, 1, min(BATCH, aside)))
            else:
                name = f"held-out loss, {evaluations:,} times"
                steps.append(reading(name, evaluations * aside, weights.parameters, batch_size=batch))
    for guard in guard_tasks(train, settings.data, source):
        part = ObjectiveTask(task=guard.task, readout=guard.readout)
        most = rounds * (1 + len(STRENGTHS)) if train.method == "seam" else evaluations
        least = 2 * rounds / most if train.method == "seam" else 1.0  # the pruned model, and the map in full
        steps.append(asking_step(cut, part, guard.samples, most, least, f"guard, {most:,} times"))
    written_from = {"trained weights": 4 * weights.parameters, "weights that are read back": 4 * weights.parameters}
    if not (_on_gpu(cut) and moments):
        moments["while the checkpoint is written"] = written_from
    moment, parts = max(moments.items(), key=lambda one: sum(one[1].values()))
    written = 0 if settings.keep_adapter else max(weights.stored_bytes, 4 * weights.parameters)
    checkpoint = 12 * trainable  # weights and both moments of AdamW
    disk += 2 * checkpoint + 4 * trainable
    return CostEstimate(
        steps=tuple(steps),
        speed=measured_speed(cut.settings.device),
        disk_bytes=disk + checkpoint + written + (rounds > 1) * weights.stored_bytes,
        stays_bytes=disk + written,
        memory_bytes=sum(parts.values()),
        memory_moment=moment,
        memory_parts=parts,
        folder=out,
    )


def _answers(handle: ModelHandle, parameters: int, source: PromptSource, how: Answering, done: int) -> Step:
    total = len(source.prompts) * how.samples
    left, limit = max(0, total - done), how.max_new_tokens or source.max_new_tokens
    read = _tokens(handle, [one.prompt for one in source.prompts]) * how.samples
    return Step(
        name="answers",
        items=left,
        unit="answer",
        parameters=parameters,
        prompt_tokens=round(read * left / max(total, 1)),
        new_tokens=(left * min(_SHORTEST, limit), left * limit),
        batch_size=handle.settings.batch_size,
    )


def _answered(out: Path | None) -> int:
    """Number of answers that a folder holds."""
    return len(read_records(out / RESPONSES)) if out is not None and (out / RESPONSES).is_file() else 0


def _tokens(handle: ModelHandle, prompts: Sequence[Prompt]) -> int:
    """Tokens of prompts as the model reads them, estimated from the first of them."""
    tokenizer = load_tokenizer(handle.source, handle.settings.trust_remote_code)
    first = prompts[:_LOOKED_AT]
    read = sum(len(encode_prompt(tokenizer, one, handle.settings.model)) for one in first)
    return round(read * len(prompts) / max(len(first), 1))


def _examples(handle: ModelHandle, source: PromptSource, settings: HealSettings, limit: int) -> tuple[int, int]:
    """Number of examples before filters, and mean tokens of one with its prompt."""
    if source.records is not None:
        prompts = [record_prompt(one) for one in source.records]
        texts = [str(one["completion"]) for one in source.records]
        return len(prompts), 1 + (_tokens(handle, prompts) + _tokens(handle, texts)) // max(len(prompts), 1)
    answered = [one for part in source.parts for one in part.answered]
    count = max(len(answered), 1)
    read = _tokens(handle, [one.prompt.prompt for one in answered])
    shared = limit // 2 * count
    if settings.responses == "original" and not settings.train.is_graded:
        shared = _tokens(handle, [one.answer for one in answered])
    return len(answered), 1 + (read + shared) // count


class Longest(NamedTuple):
    """The longest example."""

    tokens: int
    in_loss: int


def _longest(handle: ModelHandle, source: PromptSource, settings: HealSettings, limit: int) -> Longest:
    """The longest example after filters; answers that are not there yet count with their limit."""
    train = settings.train
    if source.records is not None:
        texts = [(record_prompt(one), str(one["completion"])) for one in source.records]
    else:
        answered = [one for part in source.parts for one in part.answered]
        is_known = settings.responses == "original" and not train.is_graded
        texts = [(one.prompt.prompt, str(one.answer) if is_known else "") for one in answered]
    longest = sorted(texts, key=lambda one: len(str(one[0])) + len(one[1]))[-_LOOKED_AT:]
    read = [_tokens(handle, [prompt]) for prompt, _ in longest]
    given = [_tokens(handle, [answer]) + 1 if answer else limit for _, answer in longest]
    if train.objective == "on-policy":
        given = [max(count, train.rollout_max) for count in given]
    most = min(max((a + b for a, b in zip(read, given, strict=True)), default=1), train.max_length)
    return Longest(most, min(max(given, default=1), most))


def training_parts(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, longest: Longest
) -> dict[str, int]:
    """Bytes by part when training takes most; by rule of thumb for a model that cannot run without numbers."""
    from layercut.healing.memory import Shape, Where, training_bytes

    batches = train.batches()
    where = Where(_on_gpu(cut), _has_bfloat16(cut), _dtype(cut), "float32" if teacher is None else _dtype(teacher))
    try:
        return training_bytes(
            cut.source.path,
            None if teacher is None else teacher.source.path,
            train,
            Shape(batches.micro, longest.tokens, longest.in_loss),
            where,
            accumulation=batches.accumulation * (train.group if train.is_graded else 1),
        )
    except Exception:  # whatever such a model's code does that needs numbers
        return rule_of_thumb(cut, teacher, train, longest)


def rule_of_thumb(
    cut: ModelHandle, teacher: ModelHandle | None, train: TrainSettings, longest: Longest
) -> dict[str, int]:
    """Roughly what ``training_parts`` counts, from the headers of the weights alone."""
    weights, tokens = _weights(cut), train.batches().micro * longest.tokens
    trainable = _trainable(weights, train)
    return {
        "weights": weights.bytes_in_memory if train.method in ("lora", "qlora") else 4 * weights.parameters,
        "gradients": 4 * trainable,
        "optimizer": 8 * trainable,
        # 34 x tokens x hidden size values of two bytes a layer (Korthikanti et al., arXiv:2205.05198)
        "activations": tokens * weights.num_layers * weights.hidden_size * 68,
        "logits": min(tokens * weights.vocabulary, 2**25) * 12,
        "teacher": 0 if teacher is None else _weights(teacher).bytes_in_memory,
    }


def _on_gpu(handle: ModelHandle) -> bool:
    return pick_device(handle.settings.device).type == "cuda"


def _has_bfloat16(handle: ModelHandle) -> bool:
    import torch

    return _on_gpu(handle) and torch.cuda.is_bf16_supported()


def _dtype(handle: ModelHandle) -> str:
    """The dtype of a model in memory."""
    weights = _weights(handle)
    stored = "float32" if weights.stored_bytes >= 4 * weights.parameters else "bfloat16"
    return handle.dtype if handle.dtype in _DTYPE_BYTES else stored


def _trainable(weights: _Weights, train: TrainSettings) -> int:
    if train.method in ("lora", "qlora"):
        return train.rank * weights.adapter_parameters
    if train.method == "full":
        return weights.parameters
    last = weights.layer_parameters * train.last_k // max(weights.num_layers, 1)
    return last + weights.vocabulary * weights.hidden_size


def _weights(handle: ModelHandle) -> _Weights:
    folder = handle.source.path
    files, config = safetensors_files(folder), read_config(folder)
    config = inner if isinstance(inner := config.get("text_config"), dict) else config
    entries = [pair for file in sorted(set(files.values())) for pair in read_header(file).tensors.items()]
    in_layers = [entry for name, entry in entries if _LAYER.search(f".{name}")]
    parameters = sum(entry.num_parameters for _, entry in entries)
    stored = sum(entry.num_bytes for _, entry in entries)
    each = _DTYPE_BYTES.get(handle.dtype)
    heads = config.get("num_attention_heads") or config.get("n_head") or 1
    hidden = config.get("hidden_size") or config.get("n_embd") or 0
    width = (config.get("num_key_value_heads") or heads) * (config.get("head_dim") or hidden // heads)
    return _Weights(
        parameters=parameters,
        stored_bytes=stored,
        bytes_in_memory=stored if each is None else each * parameters,
        adapter_parameters=sum(sum(entry.shape) for entry in in_layers if len(entry.shape) == 2),
        layer_parameters=sum(entry.num_parameters for entry in in_layers),
        num_layers=handle.num_layers,
        hidden_size=hidden,
        intermediate_size=config.get("intermediate_size") or config.get("n_inner") or 4 * hidden,
        cache_bytes=2 * handle.num_layers * width * (each or 2),
        vocabulary=config.get("vocab_size", 0),
    )


def _cache(weights: _Weights, step: Step, limit: int) -> int:
    """Keys and values of a batch at its longest."""
    batch = min(step.batch_size, max(step.items, 1))
    return batch * (limit + step.prompt_tokens // max(step.items, 1)) * weights.cache_bytes
