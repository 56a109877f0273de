"""Attention over packed rows: many texts in one row of tokens without padding, with one prompt prefix for all of them.

transformers lets a model's attention be replaced by name (its AttentionInterface), and everything else in a layer works
token by token. So texts of any length lie side by side in one packed row, and the function here decides which tokens
attend to which. Everything is computed in float32 (but for half precision on a CPU in decoding, see ``decoding``).
"""

# Shapes: T packed tokens, H query heads, K key-value heads, G = H / K query heads a key-value head, R texts, S tokens
# of a text, C keys, P tokens of the prefix, d size of a head.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from layercut.errors import InputError
from layercut.models.structure import language_configs

NAME = "layercut_packed"
_WITHOUT_EFFECT = {"position_ids", "cache_position", "use_cache"}  # arguments of a layer that change nothing here
MAX_SCORES = 2**22  # attention scores per head that are held at once


class KeyValue(NamedTuple):
    """Keys and values of one layer, (K, tokens, d) each."""

    keys: Tensor
    values: Tensor


class Heads(NamedTuple):
    """One layer's queries, keys and values, and how it attends."""

    query_HTd: Tensor
    own: KeyValue
    scaling: float
    window: int | None  # a token sees this many tokens, itself the last; None for all
    softcap: float | None  # scores s become softcap * tanh(s / softcap)


class Attending(Protocol):
    """Decides who sees whom."""

    def attend(self, layer: int, heads: Heads) -> Tensor:
        """The layer's attention output (H, T, d) in float32."""


class KeySpan(NamedTuple):
    """Keys that queries look at, and with what bias on their scores."""

    keys: Tensor  # (K, R, C, d), or (K, C, d) if all texts share them
    values: Tensor
    bias: Tensor  # 0 where a query sees a key and -inf where not; broadcasts to (R, S, C)


def softmax_over(query_KRGSd: Tensor, parts: Sequence[KeySpan], scaling: float, softcap: float | None) -> Tensor:
    """Attention output (K, R, G, S, d) over the keys of all parts: softmax(q k^T * scaling + bias) v, in float32."""
    counts = [part.keys.shape[-2] for part in parts]
    length = max(1, MAX_SCORES // (query_KRGSd.shape[1] * sum(counts)))
    pieces = []
    for start in range(0, query_KRGSd.shape[3], length):
        piece = slice(start, start + length)
        query = query_KRGSd[:, :, :, piece].float() * scaling
        query_KRQd = query.flatten(2, 3)
        scores = []
        for part in parts:
            products = _times(query_KRQd, part.keys.float().transpose(-1, -2))
            bias = part.bias[..., piece, :].unsqueeze(-3)
            scores.append(capped_scores(products, softcap).view(*query.shape[:4], -1) + bias)
        weights = torch.softmax(torch.cat(scores, dim=-1), dim=-1)
        output = torch.zeros_like(query_KRQd)
        for part, own in zip(parts, weights.split_with_sizes(counts, dim=-1), strict=True):
            output += _times(own.flatten(2, 3), part.values.float())
        pieces.append(output.view(query.shape))
    return joined_pieces(pieces, dim=3)


def fused_attention(
    query_KRGSd: Tensor, keys_KRCd: Tensor, values_KRCd: Tensor, sees: Tensor | None, scaling: float
) -> Tensor:
    """Attention output (K, R, G, S, d) by torch's own kernel, in float32. ``sees``, bool, (S, C) or (R, S, C), says
    which keys a query sees, at least one; None where S = C and each sees those up to its own.
    """
    num_kv, num_texts, num_groups, num_tokens, size = query_KRGSd.shape
    query_RHSd = query_KRGSd.float().transpose(0, 1).reshape(num_texts, num_kv * num_groups, num_tokens, size)
    # Repeated by hand: not every kernel takes fewer heads of keys than of queries.
    keys, values = (
        part.float().transpose(0, 1).repeat_interleave(num_groups, dim=1) for part in (keys_KRCd, values_KRCd)
    )
    # Of two or four dimensions, or the kernel does not take it.
    mask = sees if sees is None or sees.dim() == 2 else sees.unsqueeze(-3)
    output_RHSd = scaled_dot_product_attention(query_RHSd, keys, values, mask, is_causal=sees is None, scale=scaling)
    return output_RHSd.view(num_texts, num_kv, num_groups, num_tokens, size).transpose(0, 1)


def joined_pieces(pieces: Sequence[Tensor], dim: int) -> Tensor:
    """Pieces side by side; a single one without a copy."""
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim=dim)


def capped_scores(scores: Tensor, softcap: float | None) -> Tensor:
    """Scores s as softcap * tanh(s / softcap)."""
    return scores if softcap is None else softcap * torch.tanh(scores / softcap)


def _times(left_KRQ_: Tensor, right: Tensor) -> Tensor:
    """Matrix products per key-value head and text; where texts share the right side, one product for all of them."""
    if right.dim() == 4:
        return left_KRQ_ @ right
    num_kv, num_texts, num_rows, inner = left_KRQ_.shape
    return (left_KRQ_.reshape(num_kv, num_texts * num_rows, inner) @ right).view(num_kv, num_texts, num_rows, -1)


def bias_of_visible(visible: Tensor) -> Tensor:
    """0 where true, -inf elsewhere."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, float("-inf"))


_current: list[Attending | None] = []


@contextmanager
def attention_asks(model: PreTrainedModel, who: Attending | None) -> Iterator[None]:
    """Have the model's attention ask ``who`` inside a ``with`` block, and make no masks; None if no layer runs."""
    configs = language_configs(model)
    own = [config._attn_implementation for config in configs]
    for config in configs:
        config._attn_implementation = NAME
    _current.append(who)
    try:
        yield
    finally:
        _current.pop()
        for config, before in zip(configs, own, strict=True):
            config._attn_implementation = before


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' interface: (1, heads, T, d) in, (1, T, H, d) out; what is not computed here is refused."""
    arguments = {**kwargs, "attention_mask": attention_mask, "dropout": kwargs.get("dropout") or None}
    if others := sorted(name for name, given in arguments.items() if given is not None and name not in _WITHOUT_EFFECT):
        raise InputError(f"{type(module).__name__} asks its attention for {others[0]}; use `engine` plain.")
    heads = Heads(
        query_HTd=query[0],
        own=KeyValue(key[0], value[0]),
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
    )
    who = _current[-1]
    assert who is not None, "a layer ran where none should"
    output_HTd = who.attend(int(module.layer_idx), heads)  # type: ignore[arg-type]
    return output_HTd.transpose(0, 1).unsqueeze(0).to(query.dtype), None


AttentionInterface.register(NAME, _attention)
