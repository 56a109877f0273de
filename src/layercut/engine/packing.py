"""Packs: texts side by side in one row of tokens, behind a prefix that they share, and who sees whom in it."""

# Shapes: T packed tokens, H query heads, K key-value heads, G = H / K, R texts of a group, S tokens of the longest of
# them, P tokens of the prefix, d size of a head.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layercut.engine.attention import MAX_SCORES, Heads, KeyValue, Part, bias_of, softmax_over
from layercut.engine.rows import Tokens


@dataclass(frozen=True)
class Text:
    """One request's own tokens, those behind the shared prefix: a line, or several lines that begin alike, as a tree.

    Each token sees those on its way from the root and itself, so that every line is computed as if it stood alone, and
    what lines have in common once.
    """

    tokens: Tokens
    parents: tuple[int, ...]
    """Per token, the place of the one before it; -1 for the first of a line. Parents come before their children."""

    @classmethod
    def line(cls, tokens: Tokens) -> Text:
        """A single line."""
        return cls(tokens, tuple(range(-1, len(tokens) - 1)))

    @classmethod
    def tree(cls, lines: Sequence[Tokens]) -> tuple[Text, list[list[int]]]:
        """Several lines as one text, and for each line the places of its tokens.

        >>> Text.tree([(5, 6, 7), (5, 8)])
        (Text(tokens=(5, 6, 7, 8), parents=(-1, 0, 1, 0)), [[0, 1, 2], [0, 3]])
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
    def is_line(self) -> bool:
        """Whether it has no branches."""
        return self.parents == tuple(range(-1, len(self) - 1))

    @property
    def positions(self) -> list[int]:
        """How many tokens stand before each on its way from the root."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def visible(self) -> Tensor:
        """(S, S) bool: which tokens each one sees."""
        if self.is_line:
            return torch.ones(len(self), len(self), dtype=torch.bool).tril()
        sees = torch.eye(len(self), dtype=torch.bool)
        for place, parent in enumerate(self.parents):
            if parent >= 0:
                sees[place] |= sees[parent]
        return sees


def shared_prefix(rows: Iterable[tuple[Tokens, int]]) -> Tokens:
    """The longest prefix of all rows; each row (tokens, count) keeps at least its last ``count`` tokens to itself.

    >>> shared_prefix([((1, 2, 3, 4), 1), ((1, 2, 3, 5, 6), 1)])
    (1, 2, 3)
    """
    prefix: Tokens | None = None
    for tokens, own in rows:
        room = tokens[: len(tokens) - own]
        if prefix is None:
            prefix = room
            continue
        same = next((i for i, (a, b) in enumerate(zip(prefix, room, strict=False)) if a != b), None)
        prefix = prefix[: min(len(prefix), len(room)) if same is None else same]
    return prefix or ()


@dataclass
class _Group:
    """Texts of about one length, padded to the longest for the attention alone."""

    index_RS: Tensor
    """Packed index of each token; 0 where there is none."""
    real_RS: Tensor
    position_RS: Tensor
    visible_RSS: Tensor
    """Which tokens of its text each one sees; padding sees itself, as it must see something."""
    biases: dict[int | None, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    """Per window: bias among own tokens (R, S, S) and towards the prefix (R, S, P)."""


class Pack:
    """Texts in one row. ``Attending``: as the layers run, it answers their attention."""

    def __init__(self, texts: Sequence[Text], prefix: Tokens, *, with_prefix: bool, device: torch.device) -> None:
        """Lay the texts out.

        Args:
            texts: what stands behind the prefix, each on its own.
            prefix: P tokens.
            with_prefix: the prefix is computed in this pack, in front; else ``prefix_kv`` must hold it.
            device: of the model.
        """
        self._num_prefix = len(prefix)
        self.with_prefix = with_prefix and bool(prefix)
        self._device = device
        self.prefix_kv: Mapping[int, KeyValue] = {}
        """Per layer, of the branch that is running; read if the prefix is not in this pack."""
        self.last: KeyValue | None = None
        """Keys and values (K, T, d) of the layer that ran last."""
        self.ids: list[int] = list(prefix) if self.with_prefix else []
        self.positions: list[int] = list(range(len(self.ids)))
        self.starts: list[int] = []
        """Packed index of each text's first token."""
        for text in texts:
            self.starts.append(len(self.ids))
            self.ids += text.tokens
            self.positions += [len(prefix) + place for place in text.positions]
        self._groups = [self._group(texts, members) for members in _by_length(texts, len(prefix))]
        self._prefix_biases: dict[int | None, Tensor] = {}

    def prefix_part(self, own: KeyValue) -> KeyValue:
        """What of a layer's keys and values belongs to the prefix, copied out so that the rest can go."""
        return KeyValue(*(tensor[:, : self._num_prefix].clone() for tensor in own))

    def attend(self, layer: int, heads: Heads) -> Tensor:
        """Causal attention inside each text, and from every text to the prefix."""
        own = self.last = heads.own
        num_heads, num_tokens, size = heads.query_HTd.shape
        num_kv = own.keys.shape[0]
        query_KGTd = heads.query_HTd.view(num_kv, num_heads // num_kv, num_tokens, size)
        output_KGTd = torch.empty(query_KGTd.shape, device=query_KGTd.device)
        prefix = None
        if self.with_prefix:
            P = self._num_prefix
            prefix = KeyValue(own.keys[:, :P], own.values[:, :P])
            part = Part(prefix.keys, prefix.values, self._prefix_bias(heads.window))
            found = softmax_over(query_KGTd[:, None, :, :P], [part], heads.scaling, heads.softcap)
            output_KGTd[:, :, :P] = found[:, 0]
        elif self._num_prefix:
            prefix = self.prefix_kv[layer]
        for group in self._groups:
            index_RS = group.index_RS
            own_bias, prefix_bias = self._bias(group, heads.window)
            parts = [Part(own.keys[:, index_RS], own.values[:, index_RS], own_bias)]
            if prefix is not None and prefix_bias is not None:
                parts.insert(0, Part(prefix.keys, prefix.values, prefix_bias))
            query_KRGSd = query_KGTd[:, :, index_RS].transpose(1, 2)
            found = softmax_over(query_KRGSd, parts, heads.scaling, heads.softcap)
            output_KGTd[:, :, index_RS[group.real_RS]] = found.transpose(1, 2)[:, :, group.real_RS]
        return output_KGTd.reshape(num_heads, num_tokens, size)

    def _group(self, texts: Sequence[Text], members: Sequence[int]) -> _Group:
        longest = max(len(texts[member]) for member in members)
        index, position = (torch.zeros((len(members), longest), dtype=torch.long) for _ in range(2))
        real = torch.zeros(index.shape, dtype=torch.bool)
        visible = torch.eye(longest, dtype=torch.bool).repeat(len(members), 1, 1)
        for row, member in enumerate(members):
            text, start = texts[member], self.starts[member]
            index[row, : len(text)] = torch.arange(start, start + len(text))
            position[row, : len(text)] = torch.tensor(text.positions) + self._num_prefix
            real[row, : len(text)] = True
            visible[row, : len(text), : len(text)] = text.visible()
        index, position, real, visible = (tensor.to(self._device) for tensor in (index, position, real, visible))
        return _Group(index, real, position, visible)

    def _bias(self, group: _Group, window: int | None) -> tuple[Tensor, Tensor | None]:
        if window not in group.biases:
            at, sees = group.position_RS, group.visible_RSS
            prefix = None
            if window is not None:
                sees = sees & (at[:, :, None] - at[:, None, :] < window)
            if self._num_prefix:
                reach = at[:, :, None] - torch.arange(self._num_prefix, device=at.device)
                prefix = bias_of(torch.ones_like(reach, dtype=torch.bool) if window is None else reach < window)
            group.biases[window] = (bias_of(sees), prefix)
        return group.biases[window]

    def _prefix_bias(self, window: int | None) -> Tensor:
        if window not in self._prefix_biases:
            at = torch.arange(self._num_prefix, device=self._device)
            reach = at[:, None] - at[None, :]
            sees = reach >= 0
            if window is not None:
                sees &= reach < window
            self._prefix_biases[window] = bias_of(sees)
        return self._prefix_biases[window]


def _by_length(texts: Sequence[Text], num_prefix: int) -> list[list[int]]:
    """Groups of texts, the longest first, with little padding and a bounded number of scores."""
    order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
    groups: list[list[int]] = []
    longest = 0
    for index in order:
        length = len(texts[index])
        if not groups or 2 * length < longest or (len(groups[-1]) + 1) * longest * (longest + num_prefix) > MAX_SCORES:
            groups.append([])
            longest = length
        groups[-1].append(index)
    return groups
