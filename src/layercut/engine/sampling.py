"""Sampling with noise that depends only on the request: the same tokens in any batch and any order.

Gumbel-max: token = argmax over v of (s_v + g_v), with s the scores after temperature, top-k and top-p and g independent
Gumbel(0, 1) noise, is a draw from softmax(s). g comes from a counter-based generator (Philox 4x64) that is keyed by the
seed and the request's id and set to the step, so any token's noise can be made alone. It does not depend on the plan:
an original and a pruned model answer a request with common random numbers and differ only by the effect of the cut.
"""

# Shapes: B batch, T tokens, V vocabulary.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from layercut.engine.base import Decoding

_BELOW_ONE = np.float32(1 - 2**-24)


def noise_key(seed: int, request_id: str) -> int:
    """128-bit key of one request's noise. Neighbouring seeds or ids share nothing."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{request_id}".encode()).digest()[:16], "little")


def gumbel_noise(key: int, step: int, size: int) -> npt.NDArray[np.float32]:
    """Noise of one step, (V,) float32. Its first entries are the same for every ``size``, so a padded vocabulary
    changes nothing."""
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


class Next(NamedTuple):
    """A next token."""

    token: int
    is_close: bool = False
    """True if the runner-up is within one rounding of the logits' dtype; looked for below float32, if greedy."""


def next_tokens(scores_NV: Tensor, decoding: Decoding, request_ids: Sequence[str], steps: Sequence[int]) -> list[Next]:
    """The next token of each of N rows of logits: the likeliest, or a draw.

    Args:
        request_ids: whose noise each row takes.
        steps: tokens that its answer has already.
    """
    if decoding.is_greedy:
        best_N = scores_NV.argmax(dim=-1)
        tokens = best_N.tolist()
        if scores_NV.dtype == torch.float32:
            return [Next(token) for token in tokens]
        at = torch.arange(len(tokens), device=scores_NV.device), best_N
        first_N = scores_NV[at]
        scores_NV[at] = -torch.inf  # the maximum of the rest takes half the time of the two largest
        second_N = scores_NV.amax(dim=-1)
        scores_NV[at] = first_N
        first_N = first_N.float()
        close = first_N - second_N.float() <= torch.finfo(scores_NV.dtype).eps * first_N.abs()
        return [Next(token, is_close) for token, is_close in zip(tokens, close.tolist(), strict=True)]
    return [Next(token) for token in _noisy(scores_NV, decoding, request_ids, steps).argmax(dim=-1).tolist()]


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
