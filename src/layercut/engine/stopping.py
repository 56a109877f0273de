"""Answer: one row while it is generated, how its tokens are drawn, and where it ends.

It ends at a stop token of the checkpoint's own configuration, a stop string or the length limit. Noise depends only on
the request, so that the tokens are the same in any batch and any order. Gumbel-max: token = argmax over v of
(s_v + g_v), with s the scores after temperature, top-k and top-p and g independent Gumbel(0, 1) noise, is a draw from
softmax(s). g comes from a counter-based generator (Philox 4x64) that is keyed by the seed and the request's id and set
to the step. It does not depend on the plan: an original and a pruned model answer a request with common random numbers
and differ only by the effect of the cut.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from layercut.engine.base import Completion, Decoding, FinishReason, Message
from layercut.engine.rows import GenerationRow, Tokens, apply_template
from layercut.errors import InputError
from layercut.progress.activity import report_tokens

# Shapes: B batch, T tokens, V vocabulary.


_BELOW_ONE = np.float32(1 - 2**-24)


def noise_key(seed: int, request_id: str) -> int:
    """128-bit key of one request's noise. Neighbouring seeds or ids share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{request_id}".encode()).digest()[:16], "little")


def gumbel_noise(key: int, step: int, size: int) -> npt.NDArray[np.float32]:
    """Noise of one step, (V,) float32; its first entries are the same for every ``size``."""
    generator = np.random.Philox(key=key, counter=[0, step, 0, 0])
    draws = generator.random_raw((size + 1) // 2).astype("<u8", copy=False).view("<u4")[:size]
    return gumbel_values(draws)


def gumbel_values(draws: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """Gumbel(0, 1) values of uniform 32-bit integers k: g = -ln(-ln(1 - u)) with u = (k + 1/2) / 2^32. Always finite.

    Written in 1 - u because the token that wins has u near 0, where float32 is fine-grained. With the usual 24-bit
    uniform numbers, noise of +inf comes up about once in 100 steps of a vocabulary of 150,000, and then picks a token
    whatever the model says.
    """
    uniform = (draws.astype(np.float32) + np.float32(0.5)) * np.float32(2**-32)
    np.minimum(uniform, _BELOW_ONE, out=uniform)
    noise: npt.NDArray[np.float32] = -np.log(-np.log1p(-uniform))
    return noise


def next_tokens(scores_NV: Tensor, decoding: Decoding, request_ids: Sequence[str], steps: Sequence[int]) -> list[int]:
    """The next token of each of N rows of logits: the likeliest, or a draw by the noise of its request at its step."""
    scores_NV = scores_NV if decoding.is_greedy else _noisy(scores_NV, decoding, request_ids, steps)
    tokens: list[int] = scores_NV.argmax(dim=-1).tolist()
    return tokens


class RequestNoise(LogitsProcessor):  # type: ignore[misc]
    """Turns a batch's logits into scores whose argmax is a draw, by each row's own noise."""

    def __init__(self, decoding: Decoding, request_ids: Sequence[str], num_prompt_tokens: int) -> None:
        self._decoding, self._request_ids, self._num_prompt_tokens = decoding, request_ids, num_prompt_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """``input_ids`` (B, T) with the prompts padded to a common length; ``scores`` (B, V) float32."""
        step = input_ids.shape[1] - self._num_prompt_tokens
        return _noisy(scores, self._decoding, self._request_ids, [step] * len(self._request_ids))


def _noisy(scores_NV: Tensor, decoding: Decoding, request_ids: Sequence[str], steps: Sequence[int]) -> Tensor:
    """Scores after temperature, top-k and top-p (transformers' own, in its order), and with the requests' noise."""
    warpers: list[LogitsProcessor] = []
    if decoding.temperature != 1:
        warpers.append(TemperatureLogitsWarper(float(decoding.temperature)))  # it refuses an int
    if decoding.top_k:
        warpers.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p < 1:
        warpers.append(TopPLogitsWarper(float(decoding.top_p)))
    scores_NV = scores_NV.float()
    for warper in warpers:
        scores_NV = warper(None, scores_NV)
    keys = [noise_key(decoding.seed, name) for name in request_ids]
    noise_NV = np.stack([gumbel_noise(key, step, scores_NV.shape[1]) for key, step in zip(keys, steps, strict=True)])
    return scores_NV + torch.from_numpy(noise_NV).to(scores_NV.device)


Decode = Callable[[Sequence[int]], str]
_PROBE = "layercut"
_SPARE_TOKENS = 8


def stop_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None) -> tuple[int, ...]:
    """Every token that ends an answer: generation config's, tokenizer's EOS, chat template's end of turn. Ascending."""
    listed = generation_config.eos_token_id if generation_config else None
    tokens = {*(listed if isinstance(listed, (list, tuple)) else [listed]), tokenizer.eos_token_id}
    tokens.add(end_of_turn(tokenizer))
    return tuple(sorted(token for token in tokens if token is not None))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The added token that a chat template writes after an assistant's message, found by rendering one; or None."""
    if not tokenizer.chat_template:
        return None
    user, assistant = Message("user", "?"), Message("assistant", _PROBE)
    added = {str(token.content): index for index, token in tokenizer.added_tokens_decoder.items()}
    # The last turn of a conversation comes first: gpt-oss ends earlier ones in another way. Some templates leave the
    # last turn open; there it is what stands before the next one.
    for turns in ((user, assistant), (user, assistant, user)):
        try:
            _, probe, after = apply_template(tokenizer, turns).rpartition(_PROBE)
        except InputError:
            continue
        tail = after.lstrip() if probe else ""
        ends = [content for content in added if content.strip() and tail.startswith(content)]
        if ends:
            return added[max(ends, key=len)]
    return None


class Answer:
    """One row's answer under one plan."""

    def __init__(
        self,
        row: GenerationRow,
        stop_tokens: Collection[int],
        decode: Decode,
        *,
        draft: Tokens = (),
        settles: bool = True,
    ) -> None:
        """No tokens yet. ``draft`` may come and decides nothing; ``settles``: heed the request's early verdict."""
        self.row = row
        self.draft = draft
        self.tokens: list[int] = []
        self._stop_tokens = stop_tokens
        self._decode = decode
        # Tokens at the end that a stop string which is complete now must lie in: a token is a byte or more.
        self._tail = max((len(string.encode()) for string in row.request.stop), default=0) + _SPARE_TOKENS
        self._settles = row.request.settled if settles else None
        self._settled: str | None = None

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def num_left(self) -> int:
        return self.row.limit - len(self.tokens)

    @property
    def follows_draft(self) -> bool:
        return tuple(self.tokens) == self.draft[: len(self.tokens)]

    def add(self, token: int) -> bool:
        """Take the next token; whether the answer has ended by it."""
        self.tokens.append(token)
        if token in self._stop_tokens or self.num_left <= 0 or self._holds_stop():
            return True
        if self._settles is not None:
            text = self._decode(self.tokens)
            if self._settles(text):
                self._settled = text
        return self._settled is not None

    def _holds_stop(self) -> bool:
        """True if a stop string has come; what the last tokens seem to hold is confirmed on all."""
        stop, num = self.row.request.stop, len(self.tokens)
        return bool(stop) and all(
            self._stops_in(self.tokens[-length:]) for length in dict.fromkeys((min(self._tail, num), num))
        )

    def _stops_in(self, tokens: Sequence[int]) -> bool:
        text = self._decode(tokens)
        return any(string in text for string in self.row.request.stop)

    def completion(self) -> Completion:
        """The finished completion: cut at the first stop token, stop string or the limit, whichever comes first.

        A stop string counts from the token that completes it, and the text ends before it; where that token completes
        two, before the earlier. "Answer: 5\\nQ" with the stop string "\\nQ" gives "Answer: 5".
        """
        has_stop_token = bool(self.tokens) and self.tokens[-1] in self._stop_tokens
        kept = self.tokens[:-1] if has_stop_token else self.tokens
        num_new, stop = len(self.tokens), self.row.request.stop
        reason: FinishReason = "stop" if has_stop_token else "length"
        text = self._decode(kept)
        if any(string in text for string in stop):
            num_new = bisect_left(range(len(kept)), True, key=lambda length: self._stops_in(kept[:length]))
            text, reason = self._decode(kept[:num_new]), "stop"
            text = text[: min(text.find(string) for string in stop if string in text)]
        if self._settled is not None:
            text, reason = self._settled, "settled"
        return Completion(
            id=self.id,
            text=self.row.given + text,
            finish_reason=reason,
            num_prompt_tokens=len(self.row.prompt),
            num_new_tokens=num_new,
            tokens=tuple(self.tokens[:num_new]),
        )


class RowStops(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch where its answer ends, and counts tokens as they are written."""

    def __init__(self, answers: Sequence[Answer], num_prompt_tokens: int) -> None:
        self._open = dict(enumerate(answers))
        self._num_rows, self._num_prompt_tokens = len(answers), num_prompt_tokens

    def __call__(self, input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        num_open = len(self._open)
        for row, answer in list(self._open.items()):
            new = input_ids[row, self._num_prompt_tokens + len(answer.tokens) :].tolist()
            if any(answer.add(token) for token in new):
                del self._open[row]
        report_tokens(num_open, sum(answer.num_left for answer in self._open.values()))
        return torch.tensor([row not in self._open for row in range(self._num_rows)], device=input_ids.device)
