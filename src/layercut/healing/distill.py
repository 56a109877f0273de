"""Distillation on the teacher's distributions, on given answers or on those of the pruned model itself (on-policy).

On-policy is generalised knowledge distillation (GKD, arXiv:2306.13649) with the growing answers of ShortOPD
(arXiv:2607.13124): at first a pruned model's answers repeat themselves. All answers of an optimizer step are written
together. A draw depends on the seed and the request's id alone, so a resumed training draws the same answers.
"""

# Shapes: B batch, T tokens, N tokens of completions, one answer after the other, V vocabulary.

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from layercut.engine.base import Completion, Decoding, GenerationRequest
from layercut.engine.rows import Tokens
from layercut.engine.shared import fastest_engine
from layercut.errors import InputError
from layercut.evidence.degeneration import repeated_share
from layercut.healing.examples import (
    Logits,
    TrainingExample,
    at_least_float32,
    encode_example,
    lazy_logits_in_loss,
    model_without_adapters,
    over_rows,
    prompt_lengths_in,
)
from layercut.healing.prompts import AnswerRecord, record_prompt
from layercut.healing.settings import OBJECTIVES
from layercut.healing.sft import HealingTrainer
from layercut.models.loading import LoadedModel
from layercut.runs.atomic import write_json
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FIRST = 32  # longest answer at first, in tokens
WINDOW = 8  # batches of answers that decide together whether answers may grow
WASTED = 0.2  # mean share of repeated 4-grams below which answers double in length
_STATE = "rollouts.json"


def token_divergence(student_NV: Tensor, teacher_NV: Tensor, kind: str) -> Tensor:
    """Divergence of the student's next-token distribution q from the teacher's p, (N,) float32 in nats.

    forward-kl: KL(p || q), as in Hinton et al., arXiv:1503.02531. reverse-kl: KL(q || p), as in MiniLLM,
    arXiv:2306.08543.
    """
    log_q, log_p = (log_softmax(at_least_float32(logits), -1) for logits in (student_NV, teacher_NV))
    log_a, log_b = (log_p, log_q) if kind == "forward-kl" else (log_q, log_p)
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def check_teacher(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Raise InputError for a teacher whose vocabulary has another size."""
    heads: list[Any] = [model.get_output_embeddings() for model in (student, teacher)]  # type: ignore[no-untyped-call]
    ours, theirs = (head.weight.shape[0] for head in heads)
    if ours != theirs:
        raise InputError(f"the teacher predicts {theirs} tokens and the pruned model {ours}; use the original model.")


class DistillTrainer(HealingTrainer):
    """Minimises the mean divergence from the teacher over the completions' tokens.

    TRL's trainers for this (GKDTrainer, DistillationTrainer) render conversations and search for the completion
    themselves, and draw on-policy answers from a global generator. The loss mask and a resumed run would then differ
    from those here. Their divergence is this one: a test compares the two.
    """

    def __init__(self, *args: Any, teacher: PreTrainedModel, kind: str = "forward-kl", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._teacher, self._kind = teacher, kind

    @classmethod
    def options(cls, **material: Any) -> dict[str, Any]:
        """See HealingTrainer; raises InputError for a teacher with another vocabulary."""
        cut, teacher = material["cut"], material["teacher"]
        check_teacher(cut.model, teacher)
        return {"teacher": teacher, "kind": OBJECTIVES[material["settings"].objective].divergence}

    def _losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """(N,) divergence at every token in the loss."""
        return over_rows(partial(token_divergence, kind=self._kind), *self._logits(model, inputs))

    def _logits(self, model: Any, inputs: dict[str, Any]) -> tuple[Logits, Logits]:
        """The student's and the teacher's logits (N, V) at every token in the loss."""
        with torch.no_grad():
            teacher = lazy_logits_in_loss(self._teacher, inputs)
        return lazy_logits_in_loss(model, inputs), teacher


class RolloutLength:
    """Longest answer of the pruned model: doubled when a window of batches repeated little."""

    def __init__(self, start: int, longest: int) -> None:
        self.tokens, self._longest = start, longest
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


def answers_in_training(
    model: Any, cut: LoadedModel, batch_size: int, requests: Sequence[GenerationRequest], decoding: Decoding
) -> list[Completion]:
    """Answers of the current weights, with adapters and without dropout; training mode comes back afterwards.

    The shared engine writes them where it runs the model, which is asked once in a training, else the plain one. It is
    a new one each time, so keys and values of earlier weights are never read. It computes in the dtype of the weights:
    the autocast that accelerate puts around ``forward`` of a model in training is left out.
    """
    was_training, autocasting = model.training, vars(model).pop("forward", None)
    model.eval()
    try:
        engine = fastest_engine(replace(cut, model=model_without_adapters(model)), batch_size=batch_size)
        replies = engine.ask(requests, [CutPlan(num_layers=engine.num_layers)], decoding)
        return [answer for _, batch in replies for answer in batch]
    finally:
        model.train(was_training)
        if autocasting is not None:
            model.forward = autocasting


class OnPolicyTrainer(DistillTrainer):
    """DistillTrainer on answers that the model gives itself, at temperature 1; held-out examples keep their answers."""

    def __init__(
        self, *args: Any, cut: LoadedModel, records: Mapping[Tokens, AnswerRecord], length: RolloutLength, **kwargs: Any
    ) -> None:
        """Args beside those of DistillTrainer: the model in training, records by prompt, the length of answers."""
        super().__init__(*args, **kwargs)
        self._cut, self._records, self._length = cut, records, length
        self._coming: list[Tokens] = []  # prompts of the current step that are not learned from yet
        self._answers: dict[Tokens, TrainingExample | None] = {}
        """The current weights' answers by prompt; None for one that reached its limit without any text."""

    @classmethod
    def options(cls, **material: Any) -> dict[str, Any]:
        """See HealingTrainer."""
        cut, settings, records = material["cut"], material["settings"], material["records"]
        by_prompt = {encode_example(cut.tokenizer, record).prompt: record for record in records if record["completion"]}
        length = RolloutLength(min(FIRST, settings.rollout_max), settings.rollout_max)
        return {**super().options(**material), "cut": cut, "records": by_prompt, "length": length}

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """The micro batches of the next step. Answers of the last step's weights are forgotten."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._coming = [prompt for batch in batches for prompt in prompt_lengths_in(batch)]
        self._answers = {}
        return batches, num_items

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Learns from a micro batch. The first one of a step has the prompts of the whole step answered."""
        prompts = prompt_lengths_in(inputs)
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
        ordered = sorted(prompt_lengths_in(inputs), key=lambda prompt: (-len(prompt), str(self._records[prompt]["id"])))
        answers = [answer for prompt in ordered if (answer := self._answers[prompt]) is not None]
        if answers:
            items = [{"input_ids": answer.input_ids, "labels": answer.labels} for answer in answers]
            batch = self.data_collator(items)
            inputs = {name: value.to(self.args.device) for name, value in batch.items() if isinstance(value, Tensor)}
        losses_N = self._losses(model, inputs)
        repeated = sum(repeated_share(answer.completion, 4) for answer in answers) / max(len(answers), 1)
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
        learner, batch_size = self.accelerator.unwrap_model(self.model), self.args.per_device_train_batch_size
        decoding = Decoding(temperature=1.0, seed=self.args.seed)
        answers: dict[Tokens, TrainingExample | None] = {}
        for answer in answers_in_training(learner, self._cut, batch_size, requests, decoding):
            prompt = by_id[answer.id]
            is_empty = not answer.text and answer.finish_reason == "length"
            own: Any = self._records[prompt] | {"completion": answer.text, "finish_reason": answer.finish_reason}
            answers[prompt] = None if is_empty else encode_example(self._cut.tokenizer, own, self._cut.name)
        return answers
