"""Generate with the model in training: on-policy answers, and the accuracy on held-out questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.plain import PlainEngine
from layercut.healing.trainable import bare
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.healing.examples import Data
    from layercut.healing.task_prompts import TaskPrompts
    from layercut.models.loading import LoadedModel

BATCH = 64
"""Questions at once."""
ACCURACY = "accuracy of "
Look = Callable[[Any], dict[str, float]]
"""From the model in training, what is to be noted of it."""


@contextmanager
def answering(model: Any, cut: LoadedModel, batch_size: int) -> Iterator[PlainEngine]:
    """An engine over the current model, with its adapters, without dropout; the model learns on afterwards.

    ``cut`` is what was loaded for the training: it lends the tokenizer.
    """
    model.eval()
    try:
        yield PlainEngine(replace(cut, model=bare(model)), batch_size=batch_size)
    finally:
        model.train()


def accuracy_of_held_out(tasks: Sequence[TaskPrompts], data: Data, cut: LoadedModel, count: int) -> Look:
    """Grades a model's greedy answers to held-out questions of each task.

    Args:
        tasks: that the examples come from.
        data: its held-out examples are asked, never those in training.
        cut: what was loaded for the training.
        count: questions of each task at most, by the order of the examples.

    Returns:
        A function from the model in training to the share that is right, as ``accuracy of TASK (READOUT, n=COUNT)``.
    """
    held_out = [example.id for example in data.held_out]
    asked = [(task, [name for name in held_out if name in task.samples][:count]) for task in tasks]

    def look(model: Any) -> dict[str, float]:
        found = {}
        with answering(model, cut, BATCH) as engine:
            for task, names in asked:
                if names:
                    right = _num_right(engine, task, names)
                    found[f"{ACCURACY}{task.task.name} ({task.readout}, n={len(names)})"] = right / len(names)
        return found

    return look


def _num_right(engine: PlainEngine, task: TaskPrompts, names: Sequence[str]) -> int:
    prompts = {answered.prompt.id: answered.prompt.prompt for answered in task.answered}
    requests = [
        GenerationRequest(id=name, prompt=prompts[name], max_new_tokens=task.max_new_tokens, stop=task.stop)
        for name in names
    ]
    uncut = CutPlan(num_layers=engine.num_layers)
    answers = [answer for batch in engine.completions(requests, uncut, Decoding()) for answer in batch]
    return sum(task.is_right_answer(answer) for answer in answers)
