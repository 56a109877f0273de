from __future__ import annotations

from layercut.engine.base import Completion, FinishReason
from layercut.tasks.base import Sample, Score
from layercut.tasks.builtin.checked import CheckedTask


def graded(task: CheckedTask, sample: Sample, text: str, finish_reason: FinishReason = "stop") -> Score:
    answer = Completion(
        id=sample.id, text=text, finish_reason=finish_reason, num_prompt_tokens=3, num_new_tokens=len(text.split())
    )
    return task.grade(sample, "short", answer)


def passes(task: CheckedTask, part: str, text: str) -> bool:
    """Whether a text passes the first request that holds ``part``."""
    sample = next(one for one in task.samples("report", None) if part in one.question)
    return bool(graded(task, sample, text).metrics["accuracy"])
