"""Training examples and their batches: token ids of prompt and completion, with the loss on the completion alone.

The mask is not searched for in a rendered conversation. The prompt's ids are exactly those that generation begins from.
The completion's ids follow, and then the token that ends a turn, which is in the loss too.

A step's examples are drawn at random and then sorted by length. Its micro batches hold examples of similar length, so
there is little padding. The gradient of the step does not depend on the order. With ``packing`` there is no padding:
the examples of a micro batch share one row. Positions begin again with each example, and attention stays within it.
transformers makes the mask from the positions, but not with ``use_cache=True``; flash attention takes the lengths.
"""

# Shapes: B rows, T tokens.

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from layercut.engine.base import GenerationRequest
from layercut.engine.prompts import encode_begun, encode_draft
from layercut.engine.stopping import end_of_turn
from layercut.errors import InputError
from layercut.healing.prompts import AnswerRecord, record_prompt
from layercut.healing.settings import num_held_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # label of a token that takes no part in the loss


class TrainingExample(NamedTuple):
    """One prompt and the completion in the loss."""

    id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]  # with its end token, unless it ran into the length limit

    @property
    def input_ids(self) -> list[int]:
        return [*self.prompt, *self.completion]

    @property
    def labels(self) -> list[int]:
        """The completion's tokens in their places, IGNORED on the prompt's. The model itself shifts them by one."""
        return [IGNORED] * len(self.prompt) + list(self.completion)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class Data(NamedTuple):
    """Training examples and held-out examples, which share none."""

    train: list[TrainingExample]
    held_out: list[TrainingExample]

    @property
    def num_tokens(self) -> int:
        return num_loss_tokens(self.train)

    @property
    def hash(self) -> str:
        """First 16 hex digits of SHA-256 over all token ids, training examples first."""
        content = json.dumps([[example.prompt, example.completion] for example in (*self.train, *self.held_out)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def encode_example(
    tokenizer: PreTrainedTokenizerBase, record: AnswerRecord, model: str = "this model"
) -> TrainingExample:
    """Token ids of one record.

    The completion ends with nothing if it ran into the length limit; for a plain prompt with its first stop string
    (``stop``); else with the chat template's end of turn token, or the tokenizer's EOS where there is none.

    Raises:
        InputError: a conversation and no chat template, or a completion that has no tokens.
    """
    prompt = record_prompt(record)
    begun = GenerationRequest(id=record["id"], prompt=prompt, begins=record.get("begins", ""), max_new_tokens=1)
    ids, _ = encode_begun(tokenizer, begun, model)
    text = record["completion"]
    end = None if isinstance(prompt, str) else end_of_turn(tokenizer)
    end = tokenizer.eos_token_id if end is None else end
    ended = record.get("finish_reason", "stop") != "length"
    strings = record.get("stop") or ()
    if ended and strings and isinstance(prompt, str):
        text, end = text + strings[0], None
    completion = encode_draft(tokenizer, replace(begun, draft=text), ids)
    if ended and end is not None:
        completion = (*completion, end)
    if not completion:
        raise InputError(f"the answer to {record['id']} has no tokens; drop empty answers.")
    return TrainingExample(record["id"], ids, completion)


def fitting(examples: Sequence[TrainingExample], max_length: int) -> list[TrainingExample]:
    """Examples of at most ``max_length`` tokens. Longer ones are dropped whole: cut short they would have no end."""
    return [example for example in examples if len(example) <= max_length]


def hold_out(examples: Sequence[TrainingExample], share: float, seed: int) -> Data:
    """Hold out a share of the examples by a seeded draw over their ids; InputError if none are left to train on."""
    ids = sorted(example.id for example in examples)
    Random(f"held out {seed}").shuffle(ids)
    aside = set(ids[: num_held_out(len(ids), share)])
    data = Data([e for e in examples if e.id not in aside], [e for e in examples if e.id in aside])
    if not data.train:
        raise InputError("no examples are left to train on; give more prompts, or filter less.")
    return data


def match_tokens(examples: Sequence[TrainingExample], num_tokens: int, seed: int) -> list[TrainingExample]:
    """Examples drawn without replacement that have at most ``num_tokens`` completion tokens together.

    Two arms on the same prompts then train on equally many tokens, up to one example, so length explains no difference.
    """
    order = list(range(len(examples)))
    Random(f"match {seed}").shuffle(order)
    chosen, total = set(), 0
    for index in order:
        if total + len(examples[index].completion) <= num_tokens:
            total += len(examples[index].completion)
            chosen.add(index)
    return [example for index, example in enumerate(examples) if index in chosen]


def num_loss_tokens(examples: Sequence[TrainingExample]) -> int:
    """Completion tokens of all examples."""
    return sum(len(example.completion) for example in examples)


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

    input_ids: Tensor  # (T,)
    labels: Tensor  # (T,)

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens outside the loss."""
        return tuple(self.input_ids[self.labels == IGNORED].tolist())


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
    ids = [[*example.input_ids, *([example.input_ids[-1]] * (width - len(example)))] for example in examples]
    labels = [[*example.labels, *([IGNORED] * (width - len(example)))] for example in examples]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def in_loss(batch: Mapping[str, Any]) -> Tensor:
    """(B, T - 1) True where the next token is in the loss."""
    places_BT: Tensor = batch["labels"][:, 1:] != IGNORED
    return places_BT


def given(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs of a batch, without the labels."""
    return {name: value for name, value in batch.items() if name != "labels"}
