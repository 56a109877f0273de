"""DecodingPool: generates answers under many plans together, one token a step, each row under its own plan.

Every step runs a layer once for all rows; a row whose plan skips the layer keeps its states. Finished rows leave and
new rows take their places (continuous batching), so no step is spent on padding. In a search, one step holds rows of
many candidates, which keeps the machine busy.
"""

# Shapes: A active rows, K key-value heads, G query heads a key-value head, C own tokens held, P tokens of the longest
# prefix, d size of a head, V vocabulary.

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from layercut.engine.attention import Heads, KeyValue, bias_of_visible, capped_scores, joined_pieces
from layercut.engine.products import fast_products
from layercut.progress.activity import report_tokens
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.engine.stack import Stack
    from layercut.engine.stopping import Answer

MAX_ROWS = 1024
_FIRST_SLOTS = 8
_CAPACITY_STEP = 64  # tokens by which space for keys and values grows
_IN_CACHE = 2**18  # numbers in float32 that stay in a core's cache


@dataclass(eq=False)
class DecodingRow:
    """An answer that goes on: its last token is to be fed next."""

    answer: Answer
    plan: CutPlan
    own: Mapping[int, KeyValue]
    """Per kept layer, keys and values (K, tokens, d) of its tokens behind the prefix, all but the last; read when the
    row gets a slot."""
    prefix: Mapping[int, KeyValue]
    """Per kept layer, those of the prefix; the same object for all rows of one plan and prefix."""
    num_prefix: int
    num_own: int  # tokens behind the prefix that there are keys for


class DecodingPool:
    """Rows that are decoded together."""

    def __init__(
        self,
        stack: Stack,
        num_layers: int,
        choose: Callable[[Tensor, Sequence[Answer], Sequence[int]], list[int]],
        num_bytes: int,
    ) -> None:
        """Holds ``num_bytes`` of keys and values at most; ``choose`` gives next tokens from states (A, D)."""
        self._stack, self._num_layers, self._choose, self._num_bytes = stack, num_layers, choose, num_bytes
        self._waiting: deque[DecodingRow] = deque()
        self._active: list[DecodingRow] = []  # a row's place is its slot
        self._held: dict[int, KeyValue] = {}
        """Per layer (slots, K, capacity, d): a row is one piece of memory, and products of some rows copy no keys."""
        self._slots = self._capacity = 0

    @property
    def is_full(self) -> bool:
        return bool(self._waiting)

    @property
    def is_empty(self) -> bool:
        return not self._waiting and not self._active

    def add(self, row: DecodingRow) -> None:
        self._waiting.append(row)
        self._admit()

    def drop(self, unwanted: Callable[[DecodingRow], bool]) -> None:
        self._waiting = deque(row for row in self._waiting if not unwanted(row))
        for slot in reversed(range(len(self._active))):
            if unwanted(self._active[slot]):
                self._free(slot)

    def step(self) -> list[DecodingRow]:
        """One more token for every active row; the rows that ended by it."""
        self._admit()
        self._reserve(len(self._active), max(row.num_own for row in self._active) + 1)
        rows = list(self._active)  # freeing space may have sent rows back to wait
        with torch.no_grad(), fast_products(self._stack.large):
            tokens = self._next_tokens(rows)
        ended = [slot for slot, (row, token) in enumerate(zip(rows, tokens, strict=True)) if row.answer.add(token)]
        for slot in reversed(ended):
            self._free(slot)
        report_tokens(len(tokens), sum(row.answer.num_left for row in (*self._active, *self._waiting)))
        return [rows[slot] for slot in ended]

    def _next_tokens(self, rows: Sequence[DecodingRow]) -> list[int]:
        """Feed each row's last token; the next ones."""
        answers = [row.answer for row in rows]
        positions = [row.num_prefix + row.num_own for row in rows]
        states, calls = self._stack.enter([answer.tokens[-1] for answer in answers], positions)
        attends = _Attends(self._held, rows, states.device)
        for layer in range(self._num_layers):
            keeps = [layer in row.own for row in rows]
            if not any(keeps):
                continue
            after = self._stack.run(layer, states, calls, attends)
            if not all(keeps):
                after = torch.where(torch.tensor(keeps, device=states.device)[None, :, None], after, states)
            states = after
        for row in rows:
            row.num_own += 1
        return self._choose(states[0], answers, [len(answer.tokens) for answer in answers])

    def _admit(self) -> None:
        while self._waiting:
            self._reserve(len(self._active) + 1, self._waiting[0].num_own + 1)
            if len(self._active) >= self._slots:
                return
            row, slot = self._waiting.popleft(), len(self._active)
            for layer, kv in row.own.items():
                for held, own in zip(self._held[layer], kv, strict=True):
                    held[slot, :, : row.num_own] = own
            self._active.append(row)

    def _free(self, slot: int) -> None:
        """Give a slot up; the last row moves there, so that active rows stay together."""
        row, last = self._active.pop(), len(self._active)
        if slot != last:
            for kv in self._held.values():
                for held in kv:
                    held[slot, :, : row.num_own] = held[last, :, : row.num_own]
            self._active[slot] = row

    def _reserve(self, slots: int, capacity: int) -> None:
        """Free space for rows of own tokens, in steps; what does not fit waits, the last first."""
        if slots <= self._slots and capacity <= self._capacity:
            return
        capacity = max(self._capacity, -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP)
        sample = next(iter((self._active or self._waiting)[0].own.values())).keys
        num_kv, _, size = sample.shape
        row_bytes = 2 * self._num_layers * num_kv * capacity * size * sample.element_size()
        most = max(1, min(MAX_ROWS, self._num_bytes // row_bytes))
        # The power of two that is not below.
        slots = min(most, max(_FIRST_SLOTS, self._slots, 1 << max(0, slots - 1).bit_length()))
        if (slots, capacity) == (self._slots, self._capacity):
            return
        while len(self._active) > slots:  # the last row is sent back to wait, with its keys and values
            row, slot = self._active.pop(), len(self._active)
            row.own = {
                layer: KeyValue(*(held[slot, :, : row.num_own].clone() for held in self._held[layer]))
                for layer in row.own
            }
            self._waiting.appendleft(row)
        for layer in range(self._num_layers):
            shape = (slots, num_kv, capacity, size)
            fresh = KeyValue(*(torch.zeros(shape, dtype=sample.dtype, device=sample.device) for _ in range(2)))
            for new, before in zip(fresh, self._held.get(layer, ()), strict=False):
                new[: len(self._active), :, : self._capacity] = before[: len(self._active)]
            self._held[layer] = fresh
        self._slots, self._capacity = slots, capacity


_Shared = tuple[KeyValue, Tensor | slice]  # keys and values of a prefix, and the slots of the rows behind it


class _Attends:
    """Attention of one step: each row's one query sees its prefix, its own tokens and itself."""

    def __init__(self, held: Mapping[int, KeyValue], rows: Sequence[DecodingRow], device: torch.device) -> None:
        self._held = held
        self._num_prefix = max(row.num_prefix for row in rows)
        self._longest = max(row.num_own for row in rows) + 1
        self._prefix_A = torch.tensor([row.num_prefix for row in rows], device=device)
        self._length_A = torch.tensor([row.num_own for row in rows], device=device)
        self._slots_A = torch.arange(len(rows), device=device)
        groups: dict[int, list[int]] = {}
        for slot, row in enumerate(rows):
            groups.setdefault(id(row.prefix), []).append(slot)
        self._groups: list[tuple[Mapping[int, KeyValue], Tensor | slice]] = [
            (rows[slots[0]].prefix, torch.tensor(slots, device=device) if len(groups) > 1 else slice(None))
            for slots in groups.values()
        ]
        self._biases: dict[int | None, Tensor] = {}

    def attend(self, layer: int, heads: Heads) -> Tensor:
        """(H, A, d): queries, keys and values of the tokens that are fed."""
        held = self._held[layer]
        for kept, new_KAd in zip(held, heads.own, strict=True):
            kept[self._slots_A, :, self._length_A] = new_KAd.transpose(0, 1)
        num_heads, num_rows, size = heads.query_HTd.shape
        keys_AKCd, values_AKCd = (kept[:num_rows, :, : self._longest] for kept in held)
        query_AKGd = heads.query_HTd.view(keys_AKCd.shape[1], -1, num_rows, size).permute(2, 0, 1, 3)
        here = [(prefix[layer], slots) for prefix, slots in self._groups if layer in prefix]
        fuses = keys_AKCd.device.type == "cpu" and keys_AKCd.dtype != torch.float32
        fuses = fuses and heads.softcap is None and heads.window is None
        way = self._fused if fuses else self._in_float32
        output_AKGd = way(query_AKGd, keys_AKCd, values_AKCd, here, heads)
        return output_AKGd.reshape(num_rows, num_heads, size).transpose(0, 1)

    def _in_float32(
        self, query_AKGd: Tensor, keys_AKCd: Tensor, values_AKCd: Tensor, here: Sequence[_Shared], heads: Heads
    ) -> Tensor:
        num_groups = query_AKGd.shape[2]
        query_AKGd = query_AKGd.float() * heads.scaling
        pieces = _pieces(keys_AKCd)
        scores = joined_pieces([query_AKGd[rows] @ keys_AKCd[rows].float().transpose(-1, -2) for rows in pieces], dim=0)
        if self._num_prefix:
            ahead_AKGP = scores.new_zeros((*scores.shape[:3], self._num_prefix))
            for kv, slots in here:
                products_KQP = _by_head(query_AKGd[slots]) @ kv.keys.float().transpose(-1, -2)
                ahead_AKGP[slots, ..., : products_KQP.shape[-1]] = _by_row(products_KQP, num_groups)
            scores = torch.cat([ahead_AKGP, scores], dim=-1)
        weights = torch.softmax(capped_scores(scores, heads.softcap) + self._bias(heads.window)[:, None, None], dim=-1)
        weights_AKGC = weights[..., self._num_prefix :]
        output_AKGd = joined_pieces([weights_AKGC[rows] @ values_AKCd[rows].float() for rows in pieces], dim=0)
        for kv, slots in here:
            ahead_KQd = _by_head(weights[slots, ..., : kv.values.shape[1]]) @ kv.values.float()
            output_AKGd[slots] += _by_row(ahead_KQd, num_groups)
        return output_AKGd

    def _fused(
        self, query_AKGd: Tensor, keys_AKCd: Tensor, values_AKCd: Tensor, here: Sequence[_Shared], heads: Heads
    ) -> Tensor:
        """In half precision on a CPU by torch's kernel, which copies no keys; the prefix apart, then joined."""
        num_groups = query_AKGd.shape[2]
        output, log_sum_AKG = _flash(query_AKGd, keys_AKCd, values_AKCd, self._mask, heads.scaling)
        for kv, slots in here:
            keys_1KPd, values_1KPd = (kept.unsqueeze(0) for kept in kv)
            query_1KQd = _by_head(query_AKGd[slots]).unsqueeze(0)
            ahead_1KQd, ahead_1KQ = _flash(query_1KQd, keys_1KPd, values_1KPd, None, heads.scaling)
            ahead_AKG1 = _by_row(ahead_1KQ[0].unsqueeze(-1), num_groups)
            share = torch.sigmoid(ahead_AKG1 - log_sum_AKG[slots].unsqueeze(-1))
            output[slots] = torch.lerp(output[slots], _by_row(ahead_1KQd[0], num_groups), share)
        return output

    @cached_property
    def _mask(self) -> Tensor:
        """(A, 1, 1, C), of own tokens, in the dtype of the keys."""
        dtype = next(iter(self._held.values())).keys.dtype
        return self._bias(None)[:, None, None, self._num_prefix :].to(dtype)

    def _bias(self, window: int | None) -> Tensor:
        """(A, P + C): prefixes that are shorter than the longest one are followed by nothing."""
        if window not in self._biases:
            at_P, at_C = (torch.arange(num, device=self._length_A.device) for num in (self._num_prefix, self._longest))
            prefix_A1, length_A1 = self._prefix_A[:, None], self._length_A[:, None]
            sees = torch.cat([at_P < prefix_A1, at_C <= length_A1], dim=1)
            if window is not None:
                sees &= torch.cat([prefix_A1 + length_A1 - at_P, length_A1 - at_C], dim=1) < window
            self._biases[window] = bias_of_visible(sees)
        return self._biases[window]


def _by_head(rows_AKG_: Tensor) -> Tensor:
    """(K, A * G, last dimension): what all rows ask of one key-value head, for one product."""
    return rows_AKG_.transpose(0, 1).flatten(1, 2)


def _by_row(heads_KQ_: Tensor, num_groups: int) -> Tensor:
    return heads_KQ_.view(len(heads_KQ_), -1, num_groups, heads_KQ_.shape[-1]).transpose(0, 1)


def _pieces(kept_AKCd: Tensor) -> list[slice]:
    """Rows to convert to float32 at once: on a CPU as many as its cache holds, as a copy in memory would cost more."""
    num_rows, num_kv, num_tokens, size = kept_AKCd.shape
    if kept_AKCd.device.type != "cpu" or kept_AKCd.dtype == torch.float32:
        return [slice(None)]
    each = max(1, _IN_CACHE // (num_kv * num_tokens * size))
    return [slice(start, start + each) for start in range(0, num_rows, each)]


def _flash(
    query_BKSd: Tensor, keys_BKCd: Tensor, values_BKCd: Tensor, mask: Tensor | None, scaling: float
) -> tuple[Tensor, Tensor]:
    """Attention output (B, K, S, d) in float32 and the log of the sum of exponentials (B, K, S)."""
    output, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query_BKSd, keys_BKCd, values_BKCd, 0.0, False, attn_mask=mask, scale=scaling
    )
    return output.float(), log_sum
