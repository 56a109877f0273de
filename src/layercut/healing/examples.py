"""Training examples: token ids of prompt and completion, with the loss on the completion alone.

The mask is not searched for in a rendered conversation. The prompt's ids are exactly those that generation begins from,
the completion's ids follow them, and the token that ends a turn follows and is in the loss too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.engine.base import GenerationRequest, Prompt
from layercut.engine.prompts import encode_draft, encode_prompt
from layercut.engine.stopping import end_of_turn
from layercut.errors import InputError
from layercut.healing.prompts import record_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that takes no part in the loss."""


class TrainingExample(NamedTuple):
    """One prompt and the completion in the loss."""

    id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    """With the token that ends it, where it ended."""

    @property
    def input_ids(self) -> list[int]:
        """All tokens, one after the other."""
        return [*self.prompt, *self.completion]

    @property
    def labels(self) -> list[int]:
        """The completion's tokens in their places, IGNORED on the prompt's. The model shifts them by one itself."""
        return [IGNORED] * len(self.prompt) + list(self.completion)

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class Data(NamedTuple):
    """Examples to learn from and examples to judge by, which share none."""

    train: list[TrainingExample]
    held_out: list[TrainingExample]

    @property
    def num_tokens(self) -> int:
        """Completion tokens in ``train``: those that take part in the loss."""
        return num_loss_tokens(self.train)

    @property
    def hash(self) -> str:
        """First 16 hex digits of SHA-256 over all token ids, training examples first."""
        return data_hash([*self.train, *self.held_out])


def encode_example(
    tokenizer: PreTrainedTokenizerBase, record: Mapping[str, Any], model: str = "this model"
) -> TrainingExample:
    """Token ids of one record.

    What closes the completion: nothing where it ran into the length limit; a plain prompt's first stop string
    (``stop``); else the chat template's end of turn token, or the tokenizer's EOS where it has none.

    Raises:
        InputError: a conversation and no chat template, or a completion that has no tokens.
    """
    prompt = record_prompt(record)
    ids = encode_prompt(tokenizer, prompt, model)
    text, end = record["completion"], end_token(tokenizer, prompt)
    ended = record.get("finish_reason", "stop") != "length"
    strings = record.get("stop") or ()
    if ended and strings and isinstance(prompt, str):
        text, end = text + strings[0], None
    request = GenerationRequest(id=record["id"], prompt=prompt, max_new_tokens=1, draft=text)
    completion = encode_draft(tokenizer, request, ids)
    if ended and end is not None:
        completion = (*completion, end)
    if not completion:
        raise InputError(f"the answer to {record['id']} has no tokens; drop empty answers.")
    return TrainingExample(record["id"], ids, completion)


def end_token(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> int | None:
    """The token that ends an answer to this prompt, None where the tokenizer knows none."""
    turn = None if isinstance(prompt, str) else end_of_turn(tokenizer)
    eos: int | None = tokenizer.eos_token_id
    return eos if turn is None else turn


def fitting(examples: Sequence[TrainingExample], max_length: int) -> list[TrainingExample]:
    """Those of at most ``max_length`` tokens. Longer ones are left out whole: cut short they would have no end."""
    return [example for example in examples if len(example) <= max_length]


def hold_out(examples: Sequence[TrainingExample], share: float, seed: int) -> Data:
    """Set a share of the examples aside by a seeded draw over their ids, whatever their order.

    At least one is held out if the share is above 0 and there are two.

    Raises:
        InputError: nothing is left to learn from.
    """
    ids = sorted(example.id for example in examples)
    Random(f"held out {seed}").shuffle(ids)
    count = min(max(round(share * len(ids)), 1), len(ids) - 1) if share and ids else 0
    aside = set(ids[:count])
    data = Data([e for e in examples if e.id not in aside], [e for e in examples if e.id in aside])
    if not data.train:
        raise InputError("no examples are left to train on; give more prompts, or filter less.")
    return data


def match_tokens(examples: Sequence[TrainingExample], num_tokens: int, seed: int) -> list[TrainingExample]:
    """As many of the examples, drawn without replacement, as have at most ``num_tokens`` completion tokens together.

    So two arms on the same prompts learn from equally many tokens, but for less than one example: what is left of a
    difference between them is not length.
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
    """Completion tokens together."""
    return sum(len(example.completion) for example in examples)


def data_hash(examples: Sequence[TrainingExample]) -> str:
    """First 16 hex digits of SHA-256 over the token ids, in their order."""
    content = json.dumps([[example.prompt, example.completion] for example in examples])
    return hashlib.sha256(content.encode()).hexdigest()[:16]
