"""Texts of a pack, as lines or trees, in groups whose attention is computed together."""

# Shapes: T packed tokens, H query heads, K key-value heads, G = H / K, R texts of a group, S tokens of the longest of
# them, P tokens of the prefix, C keys, d size of a head.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from layercut.engine.attention import Heads, KeySpan, KeyValue, bias_of_visible, fused_attention, softmax_over
from layercut.engine.rows import Tokens

FUSED = 64
"""Own tokens from which on a text's attention goes through torch's kernel. Below, one matrix product of all texts of a
group with the prefix that they share is faster."""
GROUP_SCORES = 2**18
"""Attention scores per head of a group at most: long texts stand alone, and nothing is spent on padding them."""


@dataclass(frozen=True)
class PackedText:
    """One request's own tokens, those behind the shared prefix: a line, or several lines that begin alike, as a tree.

    Each token sees those on its way from the root and itself, so that every line is computed as if it stood alone, and
    what lines have in common once.
    """

    tokens: Tokens
    parents: tuple[int, ...]
    """Per token, the place of the one before it; -1 for the first of a line. Parents come before their children."""

    @classmethod
    def line(cls, tokens: Tokens) -> PackedText:
        return cls(tokens, tuple(range(-1, len(tokens) - 1)))

    @classmethod
    def tree(cls, lines: Sequence[Tokens]) -> tuple[PackedText, list[list[int]]]:
        """Several lines as one text, and for each line the places of its tokens.

        >>> PackedText.tree([(5, 6, 7), (5, 8)])
        (PackedText(tokens=(5, 6, 7, 8), parents=(-1, 0, 1, 0)), [[0, 1, 2], [0, 3]])
        """
        places: dict[tuple[int, int], int] = {}
        lanes: list[list[int]] = []
        for line in lines:
            lanes.append([])
            at = -1
            for token in line:
                at = places.setdefault((at, token), len(places))
                lanes[-1].append(at)
        return cls(tuple(token for _, token in places), tuple(parent for parent, _ in places)), lanes

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def trunk(self) -> int:
        """Tokens before the first branch: all of a line."""
        return next((place for place, parent in enumerate(self.parents) if parent != place - 1), len(self))

    @property
    def positions(self) -> list[int]:
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def visible(self) -> Tensor:
        """(S, S) bool: which tokens each one sees."""
        sees = torch.eye(len(self), dtype=torch.bool)
        if self.trunk == len(self):
            return torch.ones_like(sees).tril()
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                sees[place] |= sees[parent]
        return sees


class Group:
    """Texts of about one length, padded to the longest for the attention alone."""

    def __init__(
        self, texts: Sequence[PackedText], starts: Sequence[int], num_prefix: int, device: torch.device
    ) -> None:
        longest = max(map(len, texts))
        index, position = (torch.zeros((len(texts), longest), dtype=torch.long) for _ in range(2))
        real = torch.zeros(index.shape, dtype=torch.bool)
        visible = torch.eye(longest, dtype=torch.bool).repeat(len(texts), 1, 1)
        for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
            index[row, : len(text)] = torch.arange(start, start + len(text))
            position[row, : len(text)] = torch.tensor(text.positions) + num_prefix
            real[row, : len(text)] = True
            visible[row, : len(text), : len(text)] = text.visible()
        self.index_RS, self.real_RS = index.to(device), real.to(device)
        """Packed index of each token, 0 where there is none; and whether there is one."""
        self._position_RS, self._visible_RSS = position.to(device), visible.to(device)
        """Padding sees itself, as it must see something."""
        self._num_prefix = num_prefix
        self._trunk = min(longest if text.trunk == len(text) else text.trunk for text in texts)
        """Tokens before the first branch of any text; what is behind a line is padding, which nobody reads."""
        self._masks: dict[tuple[int | None, bool], Tensor] = {}

    def attend(self, query_KRGSd: Tensor, own: KeyValue, prefix: KeyValue | None, heads: Heads) -> Tensor:
        """Attention output (K, R, G, S, d) of unscaled queries; own keys are (K, R, S, d), the prefix's (K, P, d)."""
        if heads.softcap is None and self.index_RS.shape[1] >= FUSED:
            return self._fused(query_KRGSd, own, prefix, heads)
        bias, P = self._mask(heads.window, as_bias=True), self._num_prefix
        parts = [KeySpan(own.keys, own.values, bias[..., P:])]
        if prefix is not None:
            parts.insert(0, KeySpan(prefix.keys, prefix.values, bias[..., :P]))
        return softmax_over(query_KRGSd, parts, heads.scaling, heads.softcap)

    def _fused(self, query_KRGSd: Tensor, own: KeyValue, prefix: KeyValue | None, heads: Heads) -> Tensor:
        """First the tokens before any branch, all texts alike; then the others."""
        keys, values = own
        if prefix is not None:
            before = [part[:, None].expand(-1, keys.shape[1], -1, -1) for part in prefix]
            keys, values = torch.cat([before[0], keys], dim=2), torch.cat([before[1], values], dim=2)
        trunk, P = self._trunk, self._num_prefix
        output = torch.empty(query_KRGSd.shape, device=query_KRGSd.device)
        if trunk:
            first, here = query_KRGSd[:, :, :, :trunk], (keys[:, :, : P + trunk], values[:, :, : P + trunk])
            if heads.window is None and trunk >= P:
                # With queries in the prefix's place, which nobody reads, no mask is needed and half the work is done.
                attended = fused_attention(pad(first, (0, 0, P, 0)), *here, None, heads.scaling)[:, :, :, P:]
            else:
                at = torch.arange(P + trunk, device=output.device)
                ago = at[P:, None] - at
                sees = ago >= 0 if heads.window is None else (ago >= 0) & (ago < heads.window)
                attended = fused_attention(first, *here, sees, heads.scaling)
            output[:, :, :, :trunk] = attended
        if trunk < output.shape[3]:
            sees = self._mask(heads.window)[:, trunk:]
            output[:, :, :, trunk:] = fused_attention(query_KRGSd[:, :, :, trunk:], keys, values, sees, heads.scaling)
        return output

    def _mask(self, window: int | None, *, as_bias: bool = False) -> Tensor:
        """(R, S, P + S): which tokens of the prefix and of its text each one sees; as bool, or as biases on scores."""
        if (window, as_bias) not in self._masks:
            at, own_RSS = self._position_RS, self._visible_RSS
            reach_RSP = at[:, :, None] - torch.arange(self._num_prefix, device=at.device)
            prefix_RSP = torch.ones_like(reach_RSP, dtype=torch.bool)
            if window is not None:
                own_RSS = own_RSS & (at[:, :, None] - at[:, None, :] < window)
                prefix_RSP = reach_RSP < window
            sees = torch.cat([prefix_RSP, own_RSS], dim=-1)
            self._masks[window, as_bias] = bias_of_visible(sees) if as_bias else sees
        return self._masks[window, as_bias]


def group_by_length(texts: Sequence[PackedText], num_prefix: int) -> list[list[int]]:
    """Groups of texts, the longest first, with little padding and a bounded number of scores."""
    groups: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(texts)), key=lambda index: -len(texts[index])):
        length = len(texts[index])
        scores = longest * (longest + num_prefix)
        if not groups or 2 * length < longest or (len(groups[-1]) + 1) * scores > GROUP_SCORES:
            groups.append([])
            longest = length
        groups[-1].append(index)
    return groups


def count_common_tokens(left: Tokens, right: Tokens) -> int:
    """Tokens that two lines begin with."""
    pairs = enumerate(zip(left, right, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(left), len(right)))


def shared_prefix(rows: Iterable[tuple[Tokens, int]]) -> Tokens:
    """The longest prefix of all rows; each row (tokens, count) keeps at least its last ``count`` tokens to itself.

    >>> shared_prefix([((1, 2, 3, 4), 1), ((1, 2, 3, 5, 6), 1)])
    (1, 2, 3)
    """
    prefix: Tokens | None = None
    for tokens, own in rows:
        room = tokens[: len(tokens) - own]
        prefix = room if prefix is None else prefix[: count_common_tokens(prefix, room)]
    return prefix or ()


class Pack:
    """Texts in one row. ``Attending``: as the layers run, it answers their attention."""

    def __init__(self, texts: Sequence[PackedText], prefix: Tokens, *, device: torch.device) -> None:
        """Texts behind a prefix of P tokens, which is in another pack: nothing may depend on which text comes first."""
        self._has_prefix = bool(prefix)
        self.prefix_kv: Mapping[int, KeyValue] = {}
        """Per layer, of the branch that is running: keys and values of the prefix (K, P, d)."""
        self.last: KeyValue | None = None  # keys and values (K, T, d) of the layer that ran last
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.starts: list[int] = []  # packed index of each text's first token
        for text in texts:
            self.starts.append(len(self.ids))
            self.ids += text.tokens
            self.positions += [len(prefix) + place for place in text.positions]
        self._groups = [
            Group([texts[text] for text in members], [self.starts[text] for text in members], len(prefix), device)
            for members in group_by_length(texts, len(prefix))
        ]

    def attend(self, layer: int, heads: Heads) -> Tensor:
        own = self.last = heads.own
        num_heads, num_tokens, size = heads.query_HTd.shape
        num_kv = own.keys.shape[0]
        query_KGTd = heads.query_HTd.view(num_kv, num_heads // num_kv, num_tokens, size)
        output_KGTd = torch.empty(query_KGTd.shape, device=query_KGTd.device)
        prefix = self.prefix_kv[layer] if self._has_prefix else None
        for group in self._groups:
            index_RS = group.index_RS
            here = KeyValue(own.keys[:, index_RS], own.values[:, index_RS])
            attended = group.attend(query_KGTd[:, :, index_RS].transpose(1, 2), here, prefix, heads)
            output_KGTd[:, :, index_RS[group.real_RS]] = attended.transpose(1, 2)[:, :, group.real_RS]
        return output_KGTd.reshape(num_heads, num_tokens, size)
