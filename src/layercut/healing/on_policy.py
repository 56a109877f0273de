"""On-policy distillation: the pruned model answers the prompts itself, and the teacher's distribution is the target.

Generalised knowledge distillation (GKD, arXiv:2306.13649) with the growing answers of ShortOPD (arXiv:2607.13124). A
pruned model should train on its own mistakes. But at first its answers repeat themselves, and long repetitive answers
cost most and help least. So answers start short and grow as repetition falls.

Within an optimizer step the weights do not change. So all its answers are written together, whatever its micro batches
are, by the fastest engine that runs the model. A draw depends on the seed and the request's id alone, so a resumed
training draws the same answers. Held-out questions are answered in the same way.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layercut.engine.base import Completion, Decoding, Engine, GenerationRequest
from layercut.engine.probe import fastest_engine
from layercut.engine.rows import Tokens
from layercut.healing.distill import DistillTrainer
from layercut.healing.examples import Data, TrainingExample, encode_example, rows
from layercut.healing.prompt_sources import TaskPrompts
from layercut.healing.prompts import AnswerRecord, record_prompt
from layercut.healing.trainable import bare
from layercut.models.loading import LoadedModel
from layercut.runs.atomic import write_json
from layercut.runs.healing import ACCURACY
from layercut.surgery.plan import CutPlan

BATCH = 64
WINDOW = 8  # batches of answers that decide together whether answers may grow
WASTED = 0.2  # mean share of repeated 4-grams below which answers double in length
_STATE = "rollouts.json"


def repetition(tokens: Sequence[int], n: int = 4) -> float:
    """Share of n-grams that occurred earlier in the same answer: 1 - different / all; 0 for an answer of fewer tokens.

    >>> repetition([1, 2, 3, 4, 5]), repetition([7] * 13)
    (0.0, 0.9)
    """
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


class RolloutLength:
    """Longest answer of the pruned model: doubled when a window of batches repeated little."""

    def __init__(self, start: int, longest: int) -> None:
        self.tokens = start
        self._longest = longest
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def saw(self, share: float) -> bool:
        """Record a batch of answers by its share of repeated 4-grams. True if answers grow now."""
        self._recent.append(share)
        grows = len(self._recent) == WINDOW and sum(self._recent) / WINDOW < WASTED and self.tokens < self._longest
        if grows:
            self.tokens = min(2 * self.tokens, self._longest)
            self._recent.clear()
        return grows

    def save(self, folder: Path) -> None:
        write_json(folder / _STATE, {"tokens": self.tokens, "recent": list(self._recent)})

    def load(self, folder: Path) -> None:
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        self.tokens = state["tokens"]
        self._recent = deque(state["recent"], maxlen=WINDOW)


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
    answers = [answer for _, batch in engine.ask(requests, [uncut]) for answer in batch]
    return sum(task.are_right(answers))


class OnPolicyTrainer(DistillTrainer):
    """DistillTrainer on answers that the model gives itself, at temperature 1; held-out examples keep their answers."""

    def __init__(
        self, *args: Any, cut: LoadedModel, records: Mapping[Tokens, AnswerRecord], length: RolloutLength, **kwargs: Any
    ) -> None:
        """Args beside those of DistillTrainer.

        cut: the model in training; it answers with its adapters.
        records: by prompt tokens, the records that the examples come from.
        length: of answers.
        """
        super().__init__(*args, **kwargs)
        self._cut = cut
        self._records = records
        self._length = length
        self._coming: list[Tokens] = []  # prompts of the current step that are not learned from yet
        self._answers: dict[Tokens, TrainingExample | None] = {}
        """The current weights' answers by prompt; None for one that reached its limit without any text."""

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro batches of the next step. Answers of the last step's weights are forgotten."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._coming = [row.prompt for batch in batches for row in rows(batch)]
        self._answers = {}
        return batches, num_items

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Learns from a micro batch. The first one of a step has the prompts of the whole step answered."""
        prompts = [row.prompt for row in rows(inputs)]
        if any(prompt not in self._answers for prompt in prompts):
            self._answers = self._roll_out([*prompts, *self._coming])
        del self._coming[: len(prompts)]
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[no-untyped-call]
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean divergence over the tokens of the batch's own answers, or of the given ones outside training.

        A batch without any usable answer learns from the given ones.
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # An order that does not depend on the engine: the longest prompts first.
        prompts = [row.prompt for row in rows(inputs)]
        ordered = sorted(prompts, key=lambda prompt: (-len(prompt), str(self._records[prompt]["id"])))
        answers = [answer for prompt in ordered if (answer := self._answers[prompt]) is not None]
        losses_N = self._losses(model, self._collated(answers) if answers else inputs)
        repeated = sum(repetition(answer.completion) for answer in answers) / max(len(answers), 1)
        self.note("repetition", repeated)
        self.note("rollout_tokens", sum(len(answer.completion) for answer in answers) / max(len(answers), 1))
        if self._length.saw(repeated):
            self._answers = {}  # the rest of the step is answered again, with the new limit
        # The Trainer counted the tokens of the given answers, so accumulated batches are averaged here.
        return losses_N.mean() / (1 if num_items_in_batch is None else self.current_gradient_accumulation_steps)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the length of answers with every checkpoint."""
        super().save_model(output_dir, _internal_call)
        self._length.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._length.load(Path(resume_from_checkpoint))

    def _roll_out(self, prompts: Sequence[Tokens]) -> dict[Tokens, TrainingExample | None]:
        """The model's answers to each prompt, all written together."""
        by_id = {f"{self.state.global_step} {self._records[prompt]['id']}": prompt for prompt in prompts}
        requests = [
            GenerationRequest(
                id=name,
                prompt=record_prompt(record := self._records[prompt]),
                begins=record.get("begins", ""),
                max_new_tokens=self._length.tokens,
                stop=tuple(record.get("stop") or ()),
            )
            for name, prompt in by_id.items()
        ]
        learner = self.accelerator.unwrap_model(self.model)
        decoding = Decoding(temperature=1.0, seed=self.args.seed)
        with answering(learner, self._cut, self.args.per_device_train_batch_size) as engine:
            replies = engine.ask(requests, [CutPlan(num_layers=engine.num_layers)], decoding)
            answers = [answer for _, batch in replies for answer in batch]
        return {by_id[answer.id]: self._read(by_id[answer.id], answer) for answer in answers}

    def _read(self, prompt: Tokens, answer: Completion) -> TrainingExample | None:
        if not answer.text and answer.finish_reason == "length":
            return None
        record: AnswerRecord = {
            **self._records[prompt], "completion": answer.text, "finish_reason": answer.finish_reason
        }  # fmt: skip
        return encode_example(self._cut.tokenizer, record, self._cut.name)

    def _collated(self, examples: Sequence[TrainingExample]) -> dict[str, Any]:
        items = [{"input_ids": example.input_ids, "labels": example.labels} for example in examples]
        batch: dict[str, Any] = self.data_collator(items)
        return {name: tensor.to(self.args.device) for name, tensor in batch.items() if isinstance(tensor, torch.Tensor)}
