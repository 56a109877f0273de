"""Training examples, their batches, and losses on them: token ids of prompt and completion, the loss on the latter.

The prompt's ids are those that generation begins from; the completion's follow, with the token that ends a turn.

Logits of one chunk of rows exist at a time: the model's body runs once, its head over chunks, and in the backward pass
each chunk is computed again. Liger Kernel (arXiv:2410.10989) and Cut Cross-Entropy (arXiv:2411.09009) do likewise for
the cross-entropy; this is for any loss. Losses of rows do not depend on each other, so only rounding changes.
"""

# Shapes: B rows, T tokens, N tokens in the loss, C of them in a chunk, P columns that have any, D hidden size, V
# vocabulary.

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from layercut.engine.base import GenerationRequest
from layercut.engine.rows import encode_begun, encode_draft
from layercut.engine.stack import HeadInput, body_of_model, logits_with_gradients
from layercut.engine.stopping import end_of_turn
from layercut.errors import InputError
from layercut.healing.prompts import AnswerRecord, record_prompt
from layercut.healing.settings import num_held_out

IGNORED = -100  # label of a token that takes no part in the loss
CHUNK_SIZE = 2**25  # logits of a chunk at most, 128 MB in float32


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
    def hash(self) -> str:
        """First 16 hex digits of SHA-256 over all token ids, training examples first."""
        content = json.dumps([[example.prompt, example.completion] for example in (*self.train, *self.held_out)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def encode_example(
    tokenizer: PreTrainedTokenizerBase, record: AnswerRecord, model: str = "this model"
) -> TrainingExample:
    """Token ids of one record.

    The completion ends with nothing if it ran into the length limit; for a plain prompt with its first stop string
    (``stop``); else with the chat template's end of turn token, or the tokenizer's EOS where there is none. Raises
    InputError: a conversation and no chat template, or a completion that has no tokens.
    """
    prompt, text = record_prompt(record), record["completion"]
    begun = GenerationRequest(id=record["id"], prompt=prompt, begins=record.get("begins", ""), max_new_tokens=1)
    ids, _ = encode_begun(tokenizer, begun, model)
    end = None if isinstance(prompt, str) else end_of_turn(tokenizer)
    end = tokenizer.eos_token_id if end is None else end
    if record.get("finish_reason") == "length":
        end = None
    elif isinstance(prompt, str) and (strings := record.get("stop")):
        text, end = text + strings[0], None
    completion = encode_draft(tokenizer, replace(begun, draft=text), ids)
    if end is not None:
        completion = (*completion, end)
    if not completion:
        raise InputError(f"the answer to {record['id']} has no tokens; drop empty answers.")
    return TrainingExample(record["id"], ids, completion)


def hold_out(examples: Sequence[TrainingExample], share: float, seed: int) -> Data:
    """Hold out a share of the examples by a seeded draw over their ids; InputError if none are left to train on."""
    ids = sorted(example.id for example in examples)
    Random(f"held out {seed}").shuffle(ids)
    aside = set(ids[: num_held_out(len(ids), share)])
    data = Data([e for e in examples if e.id not in aside], [e for e in examples if e.id in aside])
    if not data.train:
        raise InputError("no examples are left to train on; give more prompts, or filter less.")
    return data


class StepsByLength(Sampler[int]):
    """All examples in the random order of a seed and an epoch, each step's sorted by length."""

    def __init__(self, lengths: Sequence[int], step: int, seed: int) -> None:
        """``lengths``: of the examples, in tokens. ``step``: examples a step."""
        self._lengths, self._step, self._seed, self._epoch = lengths, step, seed, 0

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


def prompt_lengths_in(batch: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Tokens outside the loss of each example of a batch."""
    outside_BT = batch["attention_mask"].bool() & (batch["labels"] == IGNORED)
    return [tuple(ids[outside].tolist()) for ids, outside in zip(batch["input_ids"], outside_BT, strict=True)]


def pad_examples(examples: Sequence[TrainingExample]) -> dict[str, Tensor]:
    """``input_ids`` and ``labels`` (B, T) of examples. Padding comes after all real tokens, so no mask is needed."""
    width = max(map(len, examples))
    ids = [[*example.input_ids, *([example.input_ids[-1]] * (width - len(example)))] for example in examples]
    labels = [[*example.labels, *([IGNORED] * (width - len(example)))] for example in examples]
    return {"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)}


def mask_of_loss(batch: Mapping[str, Any]) -> Tensor:
    """(B, T - 1) True where the next token is in the loss."""
    places_BT: Tensor = batch["labels"][:, 1:] != IGNORED
    return places_BT


@dataclass(frozen=True)
class Logits:
    """A model's logits (N, V) at every token in the loss, made when they are asked for."""

    states_ND: Tensor  # input of the head; the logits themselves where ``head`` is None
    vocabulary: int
    head: Callable[[Tensor], Tensor] | None = None

    def of(self, states_CD: Tensor) -> Tensor:
        """Logits (C, V) of a chunk of ``states_ND``."""
        return states_CD if self.head is None else self.head(states_CD)


def lazy_logits_in_loss(model: Any, batch: Mapping[str, Any]) -> Logits:
    """Logits for every token in the loss, in the order of ``mask_of_loss``; those of a large batch are not made yet.

    A model that is wrapped for several processes makes them all, because the wrapper gathers its weights for one
    forward pass only. Under ``torch.no_grad`` the logits have no gradients later either.
    """
    places_BT, inputs = mask_of_loss(batch), {name: value for name, value in batch.items() if name != "labels"}
    row_N, token_N = places_BT.nonzero(as_tuple=True)
    # Tokens of any row, in order. The head, most of the work of a small model, is computed there alone.
    column_P = places_BT.any(0).nonzero().flatten()
    plain = model_without_adapters(model)
    head: Any = plain.get_output_embeddings() if isinstance(plain, PreTrainedModel) else None  # type: ignore[no-untyped-call]
    size = len(inputs["input_ids"]) * len(column_P)
    if head is not None and size * head.weight.shape[0] > CHUNK_SIZE:
        seen: list[Any] = []
        hook = body_of_model(plain).register_forward_hook(lambda _, __, output: seen.append((output, _autocast(plain))))
        try:
            model(**inputs, use_cache=False, logits_to_keep=column_P[:1])
        finally:
            hook.remove()
        if len(seen) == 1:
            output, computes_in = seen[0]
            states_ND = output.last_hidden_state[row_N, token_N]
            return Logits(states_ND, head.weight.shape[0], _head_of(plain, type(output), computes_in))
    logits_BPV: Tensor = model(**inputs, use_cache=False, logits_to_keep=column_P).logits
    logits_NV = logits_BPV[row_N, torch.searchsorted(column_P, token_N)]
    return Logits(logits_NV, logits_NV.shape[-1])


def over_rows(loss: Callable[..., Tensor], *logits: Logits, rows: Sequence[Tensor] = ()) -> Tensor:
    """Values of ``loss`` for all rows, computed for a chunk of rows at a time, and twice only where there are several.

    ``loss`` takes logits (C, V) of each model and the chunk's part of each of ``rows``, which are (N, ...); it gives a
    tensor whose first axis can be joined, such as (C,).
    """
    size = max(1, CHUNK_SIZE // logits[0].vocabulary)
    is_split = len(logits[0].states_ND) > size

    def of_chunk(*tensors: Tensor) -> Tensor:
        logits_of_chunk = [model.of(states) for model, states in zip(logits, tensors, strict=False)]
        return loss(*logits_of_chunk, *tensors[len(logits) :])

    losses = []
    inputs = (*(model.states_ND for model in logits), *rows)
    for chunk in zip(*(torch.split(tensor, size) for tensor in inputs), strict=True):
        if is_split and torch.is_grad_enabled():
            losses.append(checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False))
        else:
            losses.append(of_chunk(*chunk))
    return torch.cat(losses)


def token_losses(logits_CV: Tensor, targets_C: Tensor) -> Tensor:
    """(C,) negative log-likelihood of each target, in nats, in float32 or the dtype of wider logits."""
    return cross_entropy(at_least_float32(logits_CV), targets_C, reduction="none")


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precision as float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def model_without_adapters(model: Any) -> Any:
    """The transformers model without its adapters' wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _autocast(model: Any) -> torch.dtype | None:
    """Dtype of products at the moment, where that is not the dtype of the weights."""
    kind = model.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _head_of(model: PreTrainedModel, output: type[Any], computes_in: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    has_gradients = torch.is_grad_enabled()

    def head(states_CD: Tensor) -> Tensor:
        with (
            torch.set_grad_enabled(has_gradients and torch.is_grad_enabled()),
            torch.autocast(states_CD.device.type, computes_in, enabled=computes_in is not None),
        ):
            return logits_with_gradients(model, HeadInput(states_CD, output), slice(None))

    return head
