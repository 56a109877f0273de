"""Rollouts: the model in training answers the prompts of each optimizer step itself, and held-out questions.

Within an optimizer step the weights do not change. So all its answers are written together, whatever its micro batches
are, by the fastest engine that runs the model (``learner``). A draw depends on the seed and the request's id alone, so
a resumed training draws the same answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from layercut.engine.base import Completion, Decoding, Engine, GenerationRequest
from layercut.engine.probe import fastest_engine
from layercut.engine.rows import Tokens
from layercut.healing.examples import Data, TrainingExample, rows
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.sft import HealingTrainer
from layercut.healing.trainable import bare
from layercut.models.loading import LoadedModel
from layercut.runs.healing import ACCURACY
from layercut.surgery.plan import CutPlan

BATCH = 64


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


def accuracy_of_held_out(
    tasks: Sequence[TaskPrompts], data: Data, cut: LoadedModel, count: int
) -> Callable[[Any], dict[str, float]]:
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


class RolloutTrainer(HealingTrainer):
    """HealingTrainer whose model answers the prompts of a step at temperature 1, as often as ``_requests`` asks."""

    def __init__(self, *args: Any, cut: LoadedModel, **kwargs: Any) -> None:
        """``cut``: the model in training; it answers with its adapters. Other arguments are those of the next class."""
        super().__init__(*args, **kwargs)
        self._cut = cut
        self._coming: list[Tokens] = []
        """Prompts of the current step that are not learned from yet."""
        self._answers: dict[Tokens, Any] = {}
        """Results of ``_read`` on the current weights' answers, by prompt."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro batches of the next step. Answers of the last step's weights are forgotten."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._coming = [row.prompt for batch in batches for row in rows(batch)]
        self._answers = {}
        return batches, num_items

    def _answered(self, inputs: dict[str, Any]) -> list[Tokens]:
        """The prompts of a micro batch. The first one of a step has those of the whole step answered."""
        prompts = [row.prompt for row in rows(inputs)]
        if any(prompt not in self._answers for prompt in prompts):
            self._answers = self._roll_out([*prompts, *self._coming])
        del self._coming[: len(prompts)]
        return prompts

    def _requests(self, prompt: Tokens) -> Sequence[GenerationRequest]:
        """Requests of a prompt, under ids that name the step."""
        raise NotImplementedError

    def _read(self, prompt: Tokens, answers: Sequence[Completion]) -> Any:
        """Training data from the answers to a prompt, which come in the order of its requests."""
        raise NotImplementedError

    def _roll_out(self, prompts: Sequence[Tokens]) -> dict[Tokens, Any]:
        """The model's answers to each prompt, all written together."""
        asked = {prompt: self._requests(prompt) for prompt in prompts}
        requests = [request for of_prompt in asked.values() for request in of_prompt]
        decoding = Decoding(temperature=1.0, seed=self.args.seed)
        found = self._completions(requests, decoding, self.args.per_device_train_batch_size)
        return {prompt: self._read(prompt, [found[one.id] for one in own]) for prompt, own in asked.items()}

    def _completions(
        self, requests: Sequence[GenerationRequest], decoding: Decoding, batch_size: int
    ) -> dict[str, Completion]:
        """The current weights' answers by id; ``batch_size`` prompts are run at once."""
        learner = self.accelerator.unwrap_model(self.model)
        with answering(learner, self._cut, batch_size) as engine:
            batches = engine.completions(requests, CutPlan(num_layers=engine.num_layers), decoding)
            return {answer.id: answer for batch in batches for answer in batch}

    def _collated(self, examples: Sequence[TrainingExample]) -> dict[str, Any]:
        items = [{"input_ids": example.input_ids, "labels": example.labels} for example in examples]
        batch: dict[str, Any] = self.data_collator(items)
        return {name: tensor.to(self.args.device) for name, tensor in batch.items() if isinstance(tensor, torch.Tensor)}
