"""Distillation on the teacher's distributions: forward or reverse KL, on given answers.

The teacher is the original model, in memory with the pruned one; its logits are computed when needed. Examples, tokens
in the loss and checkpoints equal those of fine-tuning.
"""

# Shapes: B batch, T tokens, N tokens of completions, one answer behind the other, V vocabulary.

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from layercut.errors import InputError, unknown
from layercut.healing.data import Material
from layercut.healing.logits import Logits, at_least_float32, lazy_logits_in_loss, over_rows
from layercut.healing.methods import OBJECTIVES
from layercut.healing.sft import HealingTrainer
from layercut.surgery.checkpoint import earlier_plans
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import decoder_layers, remove_layers

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


def trim_teacher(teacher: PreTrainedModel, student: Path) -> None:
    """Take the tokens from a teacher in memory that its student, a checkpoint, does not have: same ids, same logits."""
    for plan in earlier_plans(student):
        embeddings: Any = teacher.get_input_embeddings()  # type: ignore[no-untyped-call]
        if plan.vocabulary is not None and len(embeddings.weight) == plan.vocabulary.size:
            remove_layers(teacher, CutPlan(num_layers=len(decoder_layers(teacher)), vocabulary=plan.vocabulary))


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

    @classmethod
    def options(cls, material: Material) -> dict[str, Any]:
        """See HealingTrainer; raises InputError for a teacher with another vocabulary."""
        assert material.teacher is not None, "a divergence needs a teacher"
        check_teacher(material.cut.model, material.teacher)
        return {"teacher": material.teacher, "kind": OBJECTIVES[material.settings.objective].divergence}

    def _losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """(N,) divergence at every token in the loss."""
        return over_rows(partial(divergence, kind=self._kind), *self._logits(model, inputs))

    def _logits(self, model: Any, inputs: dict[str, Any]) -> tuple[Logits, Logits]:
        """The student's and the teacher's logits (N, V) at every token in the loss."""
        with torch.no_grad():
            teacher = lazy_logits_in_loss(self._teacher, inputs)
        return lazy_logits_in_loss(model, inputs), teacher
