"""Generate with the model in training: on-policy answers, and the accuracy on held-out questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from layercut.engine.base import Decoding, Engine
from layercut.engine.probe import fastest_engine
from layercut.healing.examples import Data
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.trainable import bare
from layercut.models.loading import LoadedModel
from layercut.runs.healing import ACCURACY
from layercut.surgery.plan import CutPlan

BATCH = 64
Look = Callable[[Any], dict[str, float]]
"""From the model in training, values for the loss curve."""


@contextmanager
def answering(model: Any, cut: LoadedModel, batch_size: int) -> Iterator[Engine]:
    """An engine over the current weights, with adapters and without dropout; training mode comes back afterwards.

    The shared engine where it runs the model, which is asked once in a training, else the plain one. It is a new one
    each time, so keys and values of earlier weights are never read. It computes in the dtype of the weights: the
    autocast that accelerate puts around ``forward`` of a model in training is left out.

    Args:
        model: in training, as ``make_trainable`` gives it.
        cut: the model loaded for training; its tokenizer is used.
        batch_size: prompts that are run at once.
    """
    was_training, autocasting = model.training, vars(model).pop("forward", None)
    model.eval()
    try:
        yield fastest_engine(replace(cut, model=bare(model)), batch_size=batch_size)
    finally:
        model.train(was_training)
        if autocasting is not None:
            model.forward = autocasting


def accuracy_of_held_out(tasks: Sequence[TaskPrompts], data: Data, cut: LoadedModel, count: int) -> Look:
    """A function from the model in training to its accuracies, as ``accuracy of TASK (READOUT, n=COUNT)``.

    It grades greedy answers to the first ``count`` held-out questions of each task, never to those trained on.
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


def _num_right(engine: Engine, task: TaskPrompts, names: Sequence[str]) -> int:
    prompts = {answered.prompt.id: answered.prompt for answered in task.answered}
    requests = [task.request(prompts[name]) for name in names]
    uncut = CutPlan(num_layers=engine.num_layers)
    answers = [answer for batch in engine.completions(requests, uncut, Decoding()) for answer in batch]
    return sum(task.are_right(answers))
