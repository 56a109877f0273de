"""Batches of training examples: the examples of a step, their order, and their positions in a row.

A step's examples are drawn at random and then sorted by length. Its micro batches hold examples of similar length, so
there is little padding. The gradient of the step does not depend on the order. With ``packing`` there is no padding:
the examples of a micro batch share one row. Positions begin again with each example, and attention stays within it.
transformers makes the mask from the positions, but not with ``use_cache=True``; flash attention takes the lengths.
"""

# Shapes: B rows, T tokens.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from layercut.healing.examples import IGNORED, TrainingExample


class StepsByLength(Sampler[int]):
    """All examples in the random order of a seed and an epoch, each step's sorted by length."""

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        """``lengths``: of the examples, in tokens. ``step``: examples a step, over all processes."""
        self._lengths = lengths
        self._step = step
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, on which the order depends."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order: list[int] = torch.randperm(len(self._lengths), generator=generator).tolist()
        for start in range(0, len(order), self._step):
            yield from sorted(order[start : start + self._step], key=lambda index: (self._lengths[index], index))
        self._epoch += 1


class BatchRow(NamedTuple):
    """One example of a batch, without padding."""

    input_ids: Tensor
    """(T,)"""
    labels: Tensor
    """(T,)"""

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens outside the loss."""
        return tuple(self.input_ids[self.labels == IGNORED].tolist())

    @property
    def num_in_loss(self) -> int:
        """Number of tokens in the loss, without a text's first token, which nothing predicts."""
        return int((self.labels[1:] != IGNORED).sum())


def rows(batch: Mapping[str, Any]) -> list[BatchRow]:
    """The examples of a padded or packed batch, in the order of their tokens in the loss."""
    ids_BT, labels_BT = batch["input_ids"], batch["labels"]
    if "attention_mask" in batch:
        masks = batch["attention_mask"].bool()
        return [BatchRow(ids[mask], labels[mask]) for ids, labels, mask in zip(ids_BT, labels_BT, masks, strict=True)]
    starts = (batch["position_ids"][0] == 0).nonzero().flatten().tolist()
    ends = [*starts[1:], ids_BT.shape[1]]
    return [BatchRow(ids_BT[0, start:end], labels_BT[0, start:end]) for start, end in zip(starts, ends, strict=True)]


def padded(examples: Sequence[TrainingExample]) -> dict[str, Tensor]:
    """``input_ids`` and ``labels`` (B, T) of examples. Padding comes after all real tokens, so no mask is needed."""
    width = max(map(len, examples))
    ids = [[*one.input_ids, *([one.input_ids[-1]] * (width - len(one)))] for one in examples]
    labels = [[*one.labels, *([IGNORED] * (width - len(one)))] for one in examples]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def in_loss(batch: Mapping[str, Any]) -> Tensor:
    """(B, T - 1) True where the next token is in the loss."""
    places_BT: Tensor = batch["labels"][:, 1:] != IGNORED
    return places_BT


def given(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a batch, without the labels."""
    return {name: value for name, value in batch.items() if name != "labels"}
