"""Prompts from a task's selection items, and the grades of the answers. Report items are never used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from layercut.engine.base import Completion, GenerationRequest
from layercut.errors import InputError, unknown
from layercut.healing.prompts import NamedPrompt, PromptWithAnswer
from layercut.tasks.base import GENERATED, Readout, Sample, Task, known_readouts

PREFIX = "task:"


class TaskPrompts(NamedTuple):
    """A task's selection items, asked as the task asks them."""

    task: Task
    readout: Readout
    samples: Mapping[str, Sample]
    """By prompt id: the item's, with the readout behind it where that is not the task's first."""
    answered: list[PromptWithAnswer]
    """The answer is the task's own worked one (the solution, of a chain; else a draft of the right answer); empty where
    it has none."""
    stop: tuple[str, ...]
    """Strings that end an answer."""
    max_new_tokens: int

    def is_right(self, record: Mapping[str, Any]) -> bool:
        """Whether the task's grader gives a recorded answer full marks on its headline metric."""
        return self.is_right_answer(
            Completion(
                id=record["id"],
                text=record["completion"],
                finish_reason=record["finish_reason"],
                num_prompt_tokens=record["num_prompt_tokens"],
                num_new_tokens=record["num_new_tokens"],
            )
        )

    def is_right_answer(self, answer: Completion) -> bool:
        """The same of an answer as an engine gives it."""
        score = self.task.grade(self.samples[answer.id], self.readout, answer)
        return next(iter(score.metrics.values())) >= 1


def task_prompts(task: Task, *, readout: Readout | None = None, limit: int | None = None) -> TaskPrompts:
    """The selection items of a task as prompts.

    Args:
        task: where the items come from. Its selection split is the training split of data sets that have one.
        readout: how they are asked, ``chain`` or ``short``; the task's first generated readout if left out.
        limit: at most this many.

    Raises:
        InputError: the task generates nothing, has no such readout, or has no selection items.
    """
    generated = [name for name in known_readouts(task) if name in GENERATED]
    if not generated:
        raise InputError(f"{task.name} is scored by likelihood only, so it has no prompts to answer; use another task.")
    if readout is not None and readout not in generated:
        raise unknown(f"generated readout of {task.name}", readout, generated)
    chosen: Readout = readout or generated[0]
    samples = task.samples("selection", limit)
    if not samples:
        raise InputError(f"{task.name} has no selection items, so it gives no prompts; take another task or data.")
    answered, by_id, first = [], {}, None
    for sample in samples:
        request = task.request(sample, chosen)
        assert isinstance(request, GenerationRequest)
        first = first or request
        draft = sample.data.get("solution", "") if chosen == "chain" else task.draft(sample, chosen)
        for string in request.stop:
            draft = draft.partition(string)[0]
        name = sample.id if chosen == generated[0] else f"{sample.id} {chosen}"
        answered.append(PromptWithAnswer(NamedPrompt(name, request.prompt), draft))
        by_id[name] = sample
    assert first is not None
    return TaskPrompts(task, chosen, by_id, answered, first.stop, first.max_new_tokens)
