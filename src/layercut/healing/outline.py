"""Estimate the cost of ``generate`` and ``heal`` (``--dry-run``) from prompts, settings and headers of weight files.

Answers may have any length up to the limit, so their tokens are a range, and memory is that of the longest. Memory is
counted by part at its fullest moment; see ``memory``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from layercut.engine.base import Prompt
from layercut.engine.cost import (
    CHARACTERS_PER_TOKEN,
    TRAINING,
    CostEstimate,
    Step,
    WeightCounts,
    measured_speed,
    weight_counts,
)
from layercut.engine.handle import ModelHandle
from layercut.engine.prompts import encode_prompt
from layercut.healing.guard import BATCH, GuardTask, guard_tasks
from layercut.healing.memory import (
    Longest,
    free_memory,
    is_on_gpu,
    may_checkpoint,
    num_trainable,
    training_disk,
    training_parts,
)
from layercut.healing.pair import own_parameters
from layercut.healing.prompt_sources import RESPONSES, Answering, PromptGroup, PromptSource, check_sources
from layercut.healing.prompts import AnswerRecord, record_prompt
from layercut.healing.settings import HealSettings, TrainSettings, num_held_out
from layercut.runs.records import read_records
from layercut.selection.answers import ObjectiveTask
from layercut.selection.estimate import asking_step
from layercut.surgery.plan import CutPlan

_NUM_COUNTED = 32
"""Prompts that are tokenised; the mean holds for the others."""
_SHORTEST = 16
"""Fewest tokens of an answer; or the limit where that is lower."""
_SPREAD = 1.25
"""Times by which the mean length of answers may miss that of the known ones to the same task."""
_PLACES = 3
"""Most places where a removed layer is repaired: below the cut, and two layers above it."""
_RECORD = 400
"""Bytes of a record without its prompt and answer."""


def estimate_answers(
    handle: ModelHandle, plan: CutPlan, source: PromptSource, how: Answering, out: Path | None
) -> CostEstimate:
    """The cost of ``layercut generate``, without answers that the folder holds."""
    weights, limit = weight_counts(handle), how.max_new_tokens or source.max_new_tokens
    step = _answers(handle, handle.num_parameters(plan), source, how, _answered(out))
    characters = sum(len(str(one.prompt)) for one in source.prompts)
    num_bytes = 0 if out is None else characters + step.items * _RECORD + step.new_tokens[1] * CHARACTERS_PER_TOKEN
    return CostEstimate(
        steps=(step,),
        speed=measured_speed(handle.settings.device, handle.dtype),
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
) -> CostEstimate:
    """The cost of ``layercut heal``.

    Raises InputError for an objective that these prompts do not allow.
    """
    train = settings.train
    check_sources(train, source)
    limit = how.max_new_tokens or source.max_new_tokens
    if train.is_graded:
        limit = min(train.rollout_max, source.max_new_tokens)
    count, tokens = _examples(cut, source, settings, limit)
    work = _Healing(cut, teacher, train, count, tokens, limit)
    disk = 0
    if source.records is None and settings.asks_teacher:
        asked = work.asks(source, how, out)
        disk = asked.items * _RECORD + (asked.prompt_tokens + asked.new_tokens[1]) * CHARACTERS_PER_TOKEN
    if train.method == "seam":
        work.fits_a_seam()
    else:
        work.trains(_longest(cut, source, settings, limit))
        work.evaluates()
    work.asks_guards(guard_tasks(train, settings.data, source))
    moment, parts = work.fullest()
    weights = work.weights
    one = 4 * work.trainable if settings.keep_adapter else max(weights.stored_bytes, 4 * weights.parameters)
    written = one * (1 + len(train.marks))
    return CostEstimate(
        steps=tuple(work.steps),
        speed=measured_speed(cut.settings.device, cut.dtype),
        disk_bytes=disk + training_disk(weights, train) + written,
        stays_bytes=disk + written,
        memory_bytes=sum(parts.values()),
        memory_moment=moment,
        memory_parts=parts,
        folder=out,
    )


class _Healing:
    """The steps of a healing, and what fills memory at each of its moments."""

    def __init__(
        self,
        cut: ModelHandle,
        teacher: ModelHandle,
        train: TrainSettings,
        count: int,
        tokens: int,
        limit: int,
    ) -> None:
        """``count`` examples of ``tokens`` each on average, and answers of at most ``limit`` tokens."""
        self.cut, self.teacher, self.train = cut, teacher, train
        self.count, self.tokens, self.limit = count, tokens, limit
        self.weights, self.uncut = weight_counts(cut), weight_counts(teacher)
        self.trainable = 0 if train.method == "seam" else num_trainable(self.weights, train)
        self.aside = 0 if train.method == "seam" else num_held_out(count, train.held_out)
        self.group = train.group if train.is_graded else 1
        """Answers to a prompt that are graded against each other."""
        self.steps: list[Step] = []
        self.moments: dict[str, dict[str, int]] = {}
        """Bytes by part."""

    def asks(self, source: PromptSource, how: Answering, out: Path) -> Step:
        """The original model answers the prompts."""
        asked = _answers(self.teacher, self.uncut.parameters, source, how, _answered(out))
        self.steps.append(asked)
        self.moments["while the original model answers"] = {
            "teacher": self.uncut.bytes_in_memory,
            "keys and values": _cache(self.uncut, asked, self.limit),
        }
        return asked

    def fits_a_seam(self) -> None:
        weights, uncut = self.weights, self.uncut
        width = weights.intermediate_size if self.train.seam == "projection" else weights.hidden_size
        is_thin = weights.intermediate_size < uncut.intermediate_size
        places = weights.num_layers if is_thin else _PLACES * (uncut.num_layers - weights.num_layers)
        work = seam_parameters(weights, uncut, width, places, self.count * self.tokens)
        self._reads("reading both models", self.count, unit="text", parameters=work)
        self.moments["while both models are read"] = {
            "weights": 4 * weights.parameters,
            "teacher": 4 * uncut.parameters,
            "sums": 4 * 8 * width**2,
            "streams": 2 * 4 * self.count * self.tokens * weights.hidden_size,
            "weights as they are stored": uncut.stored_bytes,
            "logits": 8 * min(4 * self.tokens * weights.vocabulary, 2**24),
        }

    def trains(self, longest: Longest) -> None:
        """``longest``: the longest example."""
        train, batch = self.train, self.train.micro_batch
        num_steps = self._num_steps
        num_examples = num_steps * train.batch_size
        if train.is_graded:
            name = f"the pruned model's answers, {self.group} to each prompt"
            self._writes(name, num_examples, self.group, train.batch_size * self.group)
        cost = TRAINING + train.needs_teacher
        self._reads(f"training, {num_steps:,} steps", num_examples * self.group, batch_size=batch, cost=cost)
        parts, how = self._parts(train, longest), ""
        if may_checkpoint(self.cut, train) and sum(parts.values()) > free_memory():
            parts = self._parts(train.replace(gradient_checkpointing="on"), longest)
            how = " with gradient checkpointing (a step does not fit without it)"
        self.moments[f"in training{how}, for {batch} examples of {longest.tokens:,} tokens"] = parts
        if train.answers_itself:
            kept = {name: parts[name] for name in ("weights", "gradients", "optimizer", "teacher")}
            at_once = max(train.batch_size * self.group, self.aside if train.is_graded else 0)
            cache = at_once * longest.tokens * self.weights.cache_bytes
            self.moments["while the pruned model answers"] = kept | {"keys and values": cache}

    def evaluates(self) -> None:
        """Held-out examples, before training and at each save."""
        times = self._evaluations
        if self.train.is_graded and times:
            name = f"answers to held-out prompts, {times:,} times"
            self._writes(name, times * self.aside, 1, min(BATCH, self.aside))
        elif times:
            self._reads(f"held-out loss, {times:,} times", times * self.aside, batch_size=self.train.micro_batch)

    def asks_guards(self, guards: Sequence[GuardTask]) -> None:
        most = self._evaluations
        for guard in guards:
            part = ObjectiveTask(task=guard.task, readout=guard.readout)
            self.steps.append(asking_step(self.cut, part, guard.samples, most, 1.0, f"guard, {most:,} times"))

    def fullest(self) -> tuple[str, dict[str, int]]:
        """The moment at which memory is fullest, and its parts."""
        size = 4 * self.weights.parameters
        if not (is_on_gpu(self.cut) and self.moments):
            stored = self.weights.stored_bytes
            self.moments["while the checkpoint is written"] = {
                "trained weights": size,
                "weights that are read back": size,
                "weights as they are stored": stored,
            }
        return max(self.moments.items(), key=lambda one: sum(one[1].values()))

    @property
    def _num_steps(self) -> int:
        return self.train.num_steps(self.count - self.aside)

    @property
    def _evaluations(self) -> int:
        if not self.aside:
            return 0
        return 1 + math.ceil(self._num_steps / self.train.save_every)

    def _parts(self, train: TrainSettings, longest: Longest) -> dict[str, int]:
        """Memory of a step; weights that both models have in common count once."""
        parts = training_parts(self.cut, self.teacher if train.needs_teacher else None, train, longest)
        parts["weights"] -= self._shared_bytes
        return parts

    @cached_property
    def _shared_bytes(self) -> int:
        """Of the weights that the pruned model has in common with the original one, where training keeps them once."""
        own = own_parameters(self.cut, self.teacher, self.train)
        size, all_of_them = self.weights.bytes_in_memory, self.weights.parameters
        return 0 if own is None else size * (all_of_them - own) // all_of_them

    def _writes(self, name: str, prompts: int, answers: int, at_once: int) -> None:
        step = Step(
            name=name,
            items=prompts * answers,
            unit="answer",
            parameters=self.weights.parameters,
            prompt_tokens=prompts * max(self.tokens - self.limit // 2, 0),
            new_tokens=(prompts * answers * min(_SHORTEST, self.limit), prompts * answers * self.limit),
            batch_size=at_once,
        )
        self.steps.append(step)

    def _reads(self, name: str, items: int, **more: Any) -> None:
        given = {"unit": "example", "parameters": self.weights.parameters, **more}
        self.steps.append(Step(name=name, items=items, prompt_tokens=items * self.tokens, **given))


def seam_parameters(weights: WeightCounts, uncut: WeightCounts, width: int, places: int, tokens: int) -> int:
    """Parameters of a model that would read as many tokens in the time that a repair in closed form takes.

    Every layer of the pruned model runs twice. At each place the sums take ``width`` squared for a token, and the
    solutions with each ridge as much as some more tokens.
    """
    solved = 1 + (2 * width + 6 * weights.hidden_size) / max(tokens, 1)
    return 2 * weights.parameters + uncut.parameters + round(places * width**2 * solved)


def _answers(handle: ModelHandle, parameters: int, source: PromptSource, how: Answering, done: int) -> Step:
    total = len(source.prompts)
    left, limit = max(0, total - max(done, len(source.known))), how.max_new_tokens or source.max_new_tokens
    read = _tokens(handle, [one.prompt for one in source.prompts])
    fewest = most = 0.0
    for part in source.parts:
        mean = _mean_length(part, source.known)
        fewest += len(part.answered) * (min(_SHORTEST, limit) if mean is None else mean / _SPREAD)
        most += len(part.answered) * (limit if mean is None else min(limit, mean * _SPREAD))
    return Step(
        name="answers",
        items=left,
        unit="answer",
        parameters=parameters,
        prompt_tokens=round(read * left / max(total, 1)),
        new_tokens=(round(fewest * left / max(total, 1)), round(most * left / max(total, 1))),
        batch_size=handle.settings.batch_size,
    )


def _mean_length(part: PromptGroup, known: Sequence[AnswerRecord]) -> float | None:
    """Mean tokens of the known answers to a part's prompts; None where there is none."""
    ids = {prompt.id for prompt in part.prompts}
    lengths = [one["num_new_tokens"] for one in known if one["id"] in ids]
    return sum(lengths) / len(lengths) if lengths else None


def _answered(out: Path | None) -> int:
    """Number of answers that a folder holds."""
    return len(read_records(out / RESPONSES)) if out is not None and (out / RESPONSES).is_file() else 0


def _tokens(handle: ModelHandle, prompts: Sequence[Prompt]) -> int:
    """Tokens of prompts as the model reads them, estimated from the first of them."""
    tokenizer = handle.weightless.tokenizer
    first = prompts[:_NUM_COUNTED]
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
    means = [_mean_length(part, source.known) for part in source.parts]
    lengths = [limit // 2 if mean is None else round(mean) for mean in means]
    shared = sum(len(part.answered) * mean for part, mean in zip(source.parts, lengths, strict=True))
    if settings.responses == "original" and not settings.train.is_graded:
        shared = _tokens(handle, [one.answer for one in answered])
    return len(answered), 1 + (read + shared) // count


def _longest(handle: ModelHandle, source: PromptSource, settings: HealSettings, limit: int) -> Longest:
    """The longest example after filters; answers that are not there yet count with their limit."""
    train = settings.train
    if source.records is not None:
        texts = [(record_prompt(one), str(one["completion"])) for one in source.records]
    else:
        answered = [one for part in source.parts for one in part.answered]
        is_known = settings.responses == "original" and not train.is_graded
        texts = [(one.prompt.prompt, str(one.answer) if is_known else "") for one in answered]
    longest = sorted(texts, key=lambda one: len(str(one[0])) + len(one[1]))[-_NUM_COUNTED:]
    read = [_tokens(handle, [prompt]) for prompt, _ in longest]
    given = [_tokens(handle, [answer]) + 1 if answer else limit for _, answer in longest]
    if train.objective == "on-policy":
        given = [max(count, train.rollout_max) for count in given]
    most = min(max((a + b for a, b in zip(read, given, strict=True)), default=1), train.max_length)
    return Longest(most, min(max(given, default=1), most))


def _cache(weights: WeightCounts, step: Step, limit: int) -> int:
    """Keys and values of a batch at its longest."""
    batch = min(step.batch_size, max(step.items, 1))
    return batch * (limit + step.prompt_tokens // max(step.items, 1)) * weights.cache_bytes
