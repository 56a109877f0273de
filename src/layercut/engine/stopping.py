"""Decide where an answer ends: at a stop token of the model, a stop string of the request, or the length limit.

Stop tokens come from the checkpoint's own configuration, never from the model's name. ``ending`` decides on the
finished row; ``RowStops`` only ends generation early when it would decide so.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from transformers import StoppingCriteria

from layercut.engine.base import FinishReason, Message
from layercut.engine.prompts import apply_template
from layercut.errors import InputError
from layercut.progress.activity import wrote

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedTokenizerBase

Decode = Callable[[Sequence[int]], str]
_PROBE = "layercut"
_SPARE_TOKENS = 8


class Ending(NamedTuple):
    """The end of one row."""

    text: str
    finish_reason: FinishReason
    num_new_tokens: int


def stop_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None) -> tuple[int, ...]:
    """Every token that ends an answer: those of the generation config, the tokenizer's EOS and the chat template's
    end of turn. Ascending."""
    listed = generation_config.eos_token_id if generation_config else None
    tokens = set(listed if isinstance(listed, (list, tuple)) else [listed])
    tokens |= {tokenizer.eos_token_id, end_of_turn(tokenizer)}
    return tuple(sorted(token for token in tokens if token is not None))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that a chat template writes after an assistant's message, found by rendering one; None without one.

    It counts only if it is an added token: a template that ends turns with ordinary words has no end of turn token.
    """
    if not tokenizer.chat_template:
        return None
    user, assistant = Message("user", "?"), Message("assistant", _PROBE)
    added = {str(token.content): index for index, token in tokenizer.added_tokens_decoder.items()}
    # The last turn of a conversation comes first: gpt-oss ends earlier ones in another way. Some templates leave the
    # last turn open; there it is what stands before the next one.
    for turns in ((user, assistant), (user, assistant, user)):
        try:
            text = apply_template(tokenizer, turns)
        except InputError:
            continue
        tail = text[text.rfind(_PROBE) + len(_PROBE) :].lstrip() if _PROBE in text else ""
        ends = [content for content in added if content.strip() and tail.startswith(content)]
        if ends:
            return added[max(ends, key=len)]
    return None


def ending(
    tokens: Sequence[int], *, limit: int, stop_tokens: Collection[int], stop: Sequence[str], decode: Decode
) -> Ending:
    """Cut one row's new tokens at the first stop token, stop string or at ``limit``, whichever comes first.

    A stop string counts from the token that completes it, and the text ends before it; where that token completes two,
    before the earlier. "Answer: 5\\nQ" with the stop string "\\nQ" gives "Answer: 5".
    """
    tokens = list(tokens[:limit])
    end = next((i for i, token in enumerate(tokens) if token in stop_tokens), None)
    kept = tokens if end is None else tokens[:end]

    def stopped(length: int) -> bool:
        text = decode(kept[:length])
        return any(string in text for string in stop)

    if stop and stopped(len(kept)):
        length = bisect_left(range(len(kept)), True, key=stopped)
        text = decode(kept[:length])
        return Ending(text[: min(text.find(string) for string in stop if string in text)], "stop", length)
    if end is None:
        return Ending(decode(kept), "length", len(kept))
    return Ending(decode(kept), "stop", end + 1)


class RowStops(StoppingCriteria):  # type: ignore[misc]
    """Ends each row at its own limit and stop strings, so that rows of one batch may differ in both, and counts tokens
    as they are written (``layercut.progress.activity``).

    Only a row's tail is decoded at every step: as many tokens as the longest stop string has bytes, since a token is a
    byte or more, and a few to spare. What the tail seems to hold is confirmed on the whole row. Rows end at stop tokens
    elsewhere; here these only end their count.
    """

    def __init__(
        self,
        limits: Sequence[int],
        stops: Sequence[Sequence[str]],
        num_prompt_tokens: int,
        decode: Decode,
        stop_tokens: Collection[int] = (),
    ) -> None:
        self._limits = limits
        self._stops = stops
        self._tails = [tail_length(stop) for stop in stops]
        self._has_own_ends = any(stops) or len(set(limits)) > 1
        self._num_prompt_tokens = num_prompt_tokens
        self._decode = decode
        self._stop_tokens = frozenset(stop_tokens)
        self._open = set(range(len(limits)))

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        """(B,) bool: which rows of ``input_ids`` (B, T) have ended."""
        num_new = input_ids.shape[1] - self._num_prompt_tokens
        ended = [
            self._has_own_ends
            and (
                num_new >= limit
                or (bool(stop) and holds_stop(input_ids[row, -num_new:].tolist(), stop, tail, self._decode))
            )
            for row, (limit, stop, tail) in enumerate(zip(self._limits, self._stops, self._tails, strict=True))
        ]
        num_open, last = len(self._open), input_ids[:, -1].tolist()
        self._open -= {row for row, has_ended in enumerate(ended) if has_ended or last[row] in self._stop_tokens}
        left = [self._limits[row] - num_new for row in self._open if self._limits[row] > num_new]
        wrote(num_open, sum(left), len(left))
        return torch.tensor(ended, device=input_ids.device)


def tail_length(stop: Sequence[str]) -> int:
    """Tokens at the end of an answer that a stop string which is complete now must lie in."""
    return max((len(string.encode()) for string in stop), default=0) + _SPARE_TOKENS


def holds_stop(tokens: Sequence[int], stop: Sequence[str], tail: int, decode: Decode) -> bool:
    """True if one of the strings stands in the text; it was not there one token before."""
    for length in dict.fromkeys((min(tail, len(tokens)), len(tokens))):
        text = decode(tokens[-length:])
        if not any(string in text for string in stop):
            return False
    return True
