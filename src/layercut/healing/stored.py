"""The teacher's top-k tokens at every position in the loss, computed once and stored on disk.

With K of V tokens a position takes 8 K bytes, and training needs no teacher in memory. All other tokens are one more
outcome: the loss is the forward KL between the K tokens and "any other", which is at most the KL over all tokens. Files
are blocks of examples in the order of the data, each complete or absent.
"""

# Shapes: N tokens in the loss, K stored tokens, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import log_softmax

from layercut.errors import InputError
from layercut.healing.batches import in_loss, padded, rows
from layercut.healing.distill import DistillTrainer
from layercut.healing.examples import Data, TrainingExample, data_hash
from layercut.healing.logits import lazy_logits_in_loss, over_rows
from layercut.progress import OnProgress
from layercut.runs.atomic import write_bytes

BLOCK = 32


class TopK(NamedTuple):
    """The likeliest tokens at some positions."""

    tokens_NK: Tensor
    """int64 ids, likeliest first."""
    log_p_NK: Tensor
    """float32, natural logarithms of probabilities over the whole vocabulary."""


class StoredLogits:
    """Stored tokens of all examples, training and held-out, in a folder of their own: ``k`` tokens per position."""

    def __init__(self, folder: Path, data: Data, k: int) -> None:
        self._folder, self._k = folder, k
        examples = sorted([*data.train, *data.held_out], key=lambda one: (len(one), one.id))
        self._blocks = [examples[start : start + BLOCK] for start in range(0, len(examples), BLOCK)]
        self._place = {
            tuple(example.input_ids): (number, index)
            for number, block in enumerate(self._blocks)
            for index, example in enumerate(block)
        }
        self._open: dict[int, Any] = {}

    @property
    def num_examples(self) -> int:
        return sum(map(len, self._blocks))

    def is_whole(self, number: int | None = None) -> bool:
        """Whether a block is on disk, for these examples; without a number, whether all blocks are."""
        if number is None:
            return all(map(self.is_whole, range(len(self._blocks))))
        try:
            with safe_open(self._file(number), "pt") as file:
                return dict(file.metadata()) == self._identity(number)
        except (OSError, SafetensorError):
            return False

    def fill(self, teacher: Any, *, batch_size: int = 8, on_progress: OnProgress = lambda done, total: None) -> None:
        """Compute the missing blocks; InputError if ``k`` is more than the teacher's vocabulary."""
        vocabulary = teacher.get_output_embeddings().weight.shape[0]
        if self._k > vocabulary:
            raise InputError(f"{self._k} likeliest tokens of {vocabulary} cannot be stored; take fewer.")
        done = 0
        for number, block in enumerate(self._blocks):
            on_progress(done, self.num_examples)
            if not self.is_whole(number):
                tensors: dict[str, Tensor] = {}
                for start in range(0, len(block), batch_size):
                    found = _top_k(teacher, block[start : start + batch_size], self._k)
                    for index, one in enumerate(found, start):
                        tensors |= {f"tokens.{index}": one.tokens_NK.int(), f"log_p.{index}": one.log_p_NK.clone()}
                write_bytes(self._file(number), save(tensors, self._identity(number)))
            done += len(block)
        on_progress(done, self.num_examples)

    def of(self, input_ids: Sequence[int]) -> TopK:
        """The teacher's tokens for one example."""
        number, index = self._place[tuple(input_ids)]
        if number not in self._open:
            self._open[number] = safe_open(self._file(number), "pt")
        file = self._open[number]
        return TopK(file.get_tensor(f"tokens.{index}").long(), file.get_tensor(f"log_p.{index}"))

    def _file(self, number: int) -> Path:
        return self._folder / f"{number:05d}.safetensors"

    def _identity(self, number: int) -> dict[str, str]:
        return {"examples": data_hash(self._blocks[number]), "k": str(self._k)}


class StoredTrainer(DistillTrainer):
    """DistillTrainer from stored tokens: forward KL, no teacher in memory."""

    def __init__(self, *args: Any, stored: StoredLogits, **kwargs: Any) -> None:
        """Args beside those of DistillTrainer: the stored tokens."""
        super().__init__(*args, teacher=None, **kwargs)
        self._stored = stored

    def _losses(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        student = lazy_logits_in_loss(model, inputs)
        parts = [self._stored.of(row.input_ids.tolist()) for row in rows(inputs)]
        teacher = [torch.cat(part).to(student.states_ND.device) for part in zip(*parts, strict=True)]
        losses_N: Tensor = over_rows(
            lambda logits_CV, *top: top_k_divergence(logits_CV, TopK(*top)), student, rows=teacher
        )
        return losses_N


def top_k_divergence(student_NV: Tensor, teacher: TopK) -> Tensor:
    """(N,) KL(p || q) over the stored tokens and one outcome for all others, in nats; q from the student's logits."""
    log_q_NV = log_softmax(student_NV.float(), -1)
    log_q_NK = log_q_NV.gather(-1, teacher.tokens_NK)
    p_NK = teacher.log_p_NK.exp()
    known_N = (p_NK * (teacher.log_p_NK - log_q_NK)).sum(-1)
    if teacher.tokens_NK.shape[-1] == student_NV.shape[-1]:
        return known_N
    rest_N = (1 - p_NK.double().sum(-1)).clamp(min=0).float()
    log_q_rest_N = log_q_NV.scatter(-1, teacher.tokens_NK, -torch.inf).logsumexp(-1)
    return known_N + torch.xlogy(rest_N, rest_N) - rest_N * log_q_rest_N


@torch.no_grad()
def _top_k(teacher: Any, examples: Sequence[TrainingExample], k: int) -> list[TopK]:
    """The likeliest tokens of each example, at its positions in the loss."""
    batch = {name: ids.to(teacher.device) for name, ids in padded(examples).items()}
    log_p_NK, tokens_NK = over_rows(
        lambda logits_CV: tuple(log_softmax(logits_CV.float(), -1).topk(k)), lazy_logits_in_loss(teacher, batch)
    )
    counts = in_loss(batch).sum(1).tolist()
    return [
        TopK(tokens, log_p)
        for tokens, log_p in zip(torch.split(tokens_NK.cpu(), counts), torch.split(log_p_NK.cpu(), counts), strict=True)
    ]
