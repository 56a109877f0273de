"""What ``generate`` and ``heal`` would ask, train and write: their ``--dry-run``."""

from __future__ import annotations

import math
from pathlib import Path

from layercut.engine.handle import ModelHandle
from layercut.engine.prompts import encode_prompt
from layercut.healing.memory import Longest, training_disk, training_parts
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptSource, check_sources
from layercut.healing.prompts import record_prompt
from layercut.healing.settings import HealSettings, num_held_out
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.runs.records import read_records
from layercut.surgery.plan import CutPlan

_RECORD = 2000
"""Bytes of a record with its prompt and answer, about."""


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
    cut: ModelHandle,
    teacher: ModelHandle,
    source: PromptSource,
    settings: HealSettings,
    how: Answering,
    *,
    out: Path,
) -> Outline:
    """The steps of ``layercut heal``.

    Raises:
        InputError: an objective that these prompts do not allow.
    """
    train = settings.train
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
    if train.method == "seam":
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
