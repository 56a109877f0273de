"""Distillation on the teacher's distributions: forward or reverse KL, on given or own answers.

The teacher is the original model, in memory with the pruned one; its logits are computed when needed. Examples, tokens
in the loss and checkpoints equal those of fine-tuning. On policy, the pruned model answers, and the teacher's
distribution at every token is the target.

Generalised knowledge distillation (GKD, arXiv:2306.13649) with the growing answers of ShortOPD (arXiv:2607.13124). A
pruned model should train on its own mistakes. But at first its answers repeat themselves, and long repetitive answers
cost most and help least. So answers start short and grow as repetition falls.
"""

# Shapes: B batch, T tokens, N tokens of completions, one answer behind the other, V vocabulary.

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from layercut.engine.base import Completion, GenerationRequest
from layercut.engine.rows import Tokens
from layercut.errors import InputError, unknown
from layercut.healing.examples import TrainingExample, encode_example, rows
from layercut.healing.logits import at_least_float32, lazy_logits_in_loss, over_rows
from layercut.healing.prompts import AnswerRecord, record_prompt
from layercut.healing.rollouts import RolloutTrainer
from layercut.healing.sft import HealingTrainer
from layercut.runs.atomic import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KINDS = ("forward-kl", "reverse-kl")


def divergence(student_NV: Tensor, teacher_NV: Tensor, kind: str) -> Tensor:
    """Divergence of the student's next-token distribution q from the teacher's p, (N,) float32 in nats.

    forward-kl: KL(p || q), as in Hinton et al., arXiv:1503.02531. reverse-kl: KL(q || p), as in MiniLLM,
    arXiv:2306.08543.

    Args:
        student_NV: logits.
        teacher_NV: logits on the same vocabulary.
        kind: one of KINDS.

    Raises:
        InputError: an unknown kind.
    """
    log_q, log_p = (log_softmax(at_least_float32(logits), -1) for logits in (student_NV, teacher_NV))
    if kind == "forward-kl":
        return _kl(log_p, log_q)
    if kind == "reverse-kl":
        return _kl(log_q, log_p)
    raise unknown("divergence", kind, KINDS)


def _kl(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    return (log_p_NV.exp() * (log_p_NV - log_q_NV)).sum(-1)


def check_teacher(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Raise InputError for a teacher whose vocabulary has another size."""
    heads: list[Any] = [model.get_output_embeddings() for model in (student, teacher)]  # type: ignore[no-untyped-call]
    ours, theirs = (head.weight.shape[0] for head in heads)
    if ours != theirs:
        raise InputError(
            f"the teacher predicts {theirs} tokens and the pruned model {ours}, which cannot be compared; use the "
            "original model as teacher, or `objective` sft."
        )


class DistillTrainer(HealingTrainer):
    """Minimises the mean divergence from the teacher over the completions' tokens.

    TRL's trainers for this (GKDTrainer, DistillationTrainer) render conversations and search for the completion
    themselves, and draw on-policy answers from a global generator. The loss mask and a resumed run would then differ
    from those here. Their divergence is this one: a test compares the two.
    """

    def __init__(self, *args: Any, teacher: PreTrainedModel, kind: str = "forward-kl", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._teacher = teacher
        self._kind = kind

    def _losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """(N,) divergence at every token in the loss."""
        with torch.no_grad():
            teacher = lazy_logits_in_loss(self._teacher, inputs)
        return over_rows(partial(divergence, kind=self._kind), lazy_logits_in_loss(model, inputs), teacher)


WINDOW = 8
"""Batches of answers that decide together whether answers may grow."""
WASTED = 0.2
"""Mean share of repeated 4-grams below which answers double in length."""
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


class OnPolicyTrainer(RolloutTrainer, DistillTrainer):
    """DistillTrainer on answers that the model gives itself, at temperature 1; held-out examples keep their answers.

    Draws depend on the seed, the step and the prompt alone, so a resumed training draws the same answers.
    """

    def __init__(
        self, *args: Any, records: Mapping[Tokens, AnswerRecord], length: RolloutLength, **kwargs: Any
    ) -> None:
        """Args beside those of RolloutTrainer and DistillTrainer.

        records: by prompt tokens, the records that the examples come from.
        length: of answers.
        """
        super().__init__(*args, **kwargs)
        self._records = records
        self._length = length

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Learns from a micro batch. The first one of a step has the prompts of the whole step answered."""
        self._answered(inputs)
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
        answers = self._usable_answers([row.prompt for row in rows(inputs)])
        batch = self._collated(answers) if answers else inputs
        losses_N = self._losses(model, batch)
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

    def _usable_answers(self, prompts: Sequence[Tokens]) -> list[TrainingExample]:
        """Answers to a batch's prompts, in an order that does not depend on the engine: the longest prompts first."""
        ordered = sorted(prompts, key=lambda prompt: (-len(prompt), str(self._records[prompt]["id"])))
        return [answer for prompt in ordered if (answer := self._answers[prompt]) is not None]

    def _requests(self, prompt: Tokens) -> list[GenerationRequest]:
        record = self._records[prompt]
        return [
            GenerationRequest(
                id=f"{self.state.global_step} {record['id']}",
                prompt=record_prompt(record),
                begins=record.get("begins", ""),
                max_new_tokens=self._length.tokens,
                stop=tuple(record.get("stop") or ()),
            )
        ]

    def _read(self, prompt: Tokens, answers: Sequence[Completion]) -> TrainingExample | None:
        """The answer; None for one that reached its limit without any text."""
        (answer,) = answers
        if not answer.text and answer.finish_reason == "length":
            return None
        record: AnswerRecord = {
            **self._records[prompt], "completion": answer.text, "finish_reason": answer.finish_reason
        }  # fmt: skip
        return encode_example(self._cut.tokenizer, record, self._cut.name)
