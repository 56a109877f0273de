"""Build vLLM requests from rows of tokens, and read scores from its outputs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from layercut.engine.base import Decoding
from layercut.engine.rows import GenerationRow, LikelihoodRow, Tokens
from layercut.engine.sampling import noise_key
from layercut.engine.scores import ContinuationScore

MOST_TOKEN_IDS = 128  # next tokens that vLLM scores by their ids in one request


def drawing(vllm: Any, row: GenerationRow, decoding: Decoding, stop_tokens: Collection[int]) -> Any:
    """``SamplingParams`` for an answer. The caller checks where it ends, except at stop tokens."""
    drawn: dict[str, Any] = {}
    if not decoding.is_greedy:
        seed = noise_key(decoding.seed, row.id) % 2**63
        drawn = {"top_p": decoding.top_p, "top_k": decoding.top_k, "seed": seed}
    return vllm.SamplingParams(
        temperature=decoding.temperature,
        max_tokens=row.limit,
        stop_token_ids=sorted(stop_tokens),
        ignore_eos=True,  # it is among the stop tokens
        detokenize=False,
        output_kind=vllm.sampling_params.RequestOutputKind.DELTA,
        **drawn,
    )


def scoring(vllm: Any, row: LikelihoodRow, continuations: Sequence[Tokens]) -> Any:
    """``SamplingParams`` for scores of continuations that differ in their last token alone.

    That token is scored by its id at the row's end. Only what stands before it, inside of continuations of several
    tokens, needs scores along the prompt, and only those requests cannot begin with a cached prefix.
    """
    return vllm.SamplingParams(
        temperature=0.0,
        max_tokens=1,
        ignore_eos=True,
        detokenize=False,
        prompt_logprobs=None if row.num_scored == 1 else 0,  # 0: of the prompt's own tokens
        logprob_token_ids=list(dict.fromkeys(tokens[-1] for tokens in continuations)),
        output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
    )


def read_off(row: LikelihoodRow, continuations: Sequence[Tokens], output: Any) -> list[ContinuationScore]:
    """Scores from a ``RequestOutput``, as ``scoring`` asked for them."""
    inner = row.tokens[len(row.tokens) - row.num_scored + 1 :]
    along = output.prompt_logprobs[-len(inner) :] if inner else ()
    read = [entry[token] for token, entry in zip(inner, along, strict=True)]
    shared, is_greedy = sum(found.logprob for found in read), all(found.rank == 1 for found in read)
    answer = output.outputs[0]
    (likeliest,), (after,) = answer.token_ids, answer.logprobs
    return [
        ContinuationScore(shared + after[tokens[-1]].logprob, is_greedy and tokens[-1] == likeliest)
        for tokens in continuations
    ]
