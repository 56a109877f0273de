"""Packs: texts side by side in one row of tokens after a shared prefix, with the mask of which token attends to
which.
"""

# Shapes: T packed tokens, H query heads, K key-value heads, G = H / K, R texts of a group, S tokens of the longest of
# them, P tokens of the prefix, d size of a head.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from layercut.engine.attention import Heads, KeyValue
from layercut.engine.rows import Tokens
from layercut.engine.text_groups import Group, PackedText, by_length


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


class Pack:
    """Texts in one row. ``Attending``: as the layers run, it answers their attention."""

    def __init__(self, texts: Sequence[PackedText], prefix: Tokens, *, device: torch.device) -> None:
        """Lay the texts out.

        Args:
            texts: what stands behind the prefix, each on its own.
            prefix: P tokens, which are computed in a pack of their own: what a text is computed with must not depend on
                whether it comes first.
        """
        self.has_prefix = bool(prefix)
        self.prefix_kv: Mapping[int, KeyValue] = {}
        """Per layer, of the branch that is running: keys and values of the prefix (K, P, d)."""
        self.last: KeyValue | None = None
        """Keys and values (K, T, d) of the layer that ran last."""
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.starts: list[int] = []
        """Packed index of each text's first token."""
        for text in texts:
            self.starts.append(len(self.ids))
            self.ids += text.tokens
            self.positions += [len(prefix) + place for place in text.positions]
        self._groups = [
            Group([texts[one] for one in members], [self.starts[one] for one in members], len(prefix), device)
            for members in by_length(texts, len(prefix))
        ]

    def attend(self, layer: int, heads: Heads) -> Tensor:
        """Causal attention inside each text, and from every text to the prefix."""
        own = self.last = heads.own
        num_heads, num_tokens, size = heads.query_HTd.shape
        num_kv = own.keys.shape[0]
        query_KGTd = heads.query_HTd.view(num_kv, num_heads // num_kv, num_tokens, size)
        output_KGTd = torch.empty(query_KGTd.shape, device=query_KGTd.device)
        prefix = self.prefix_kv[layer] if self.has_prefix else None
        for group in self._groups:
            index_RS = group.index_RS
            here = KeyValue(own.keys[:, index_RS], own.values[:, index_RS])
            found = group.attend(query_KGTd[:, :, index_RS].transpose(1, 2), here, prefix, heads)
            output_KGTd[:, :, index_RS[group.real_RS]] = found.transpose(1, 2)[:, :, group.real_RS]
        return output_KGTd.reshape(num_heads, num_tokens, size)
