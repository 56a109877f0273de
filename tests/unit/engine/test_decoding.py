"""Attention of one step of decoding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from layercut.engine.attention import Heads, KeyValue
from layercut.engine.decoding import _Attends

NUM_KV, NUM_GROUPS, SIZE, NUM_ROWS, LONGEST, LAYER = 2, 3, 16, 9, 50, 4


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def by_hand(heads: Heads, row: int, keys_KTd: Tensor, values_KTd: Tensor) -> Tensor:
    """One row's output (H, d): every query head over the keys of its key-value head."""
    query_KGd = heads.query_HTd[:, row].double().view(NUM_KV, NUM_GROUPS, SIZE)
    scores_KGT = query_KGd @ keys_KTd.double().transpose(-1, -2) * heads.scaling
    return (torch.softmax(scores_KGT, dim=-1) @ values_KTd.double()).view(-1, SIZE)


@pytest.mark.parametrize("num_plans", [1, 2])
@pytest.mark.parametrize("num_prefix", [0, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_see_their_prefix_their_own_tokens_and_themselves(
    dtype: torch.dtype, num_prefix: int, num_plans: int
) -> None:
    """Rows of different lengths; of two plans one skips the layer."""

    def kv(*shape: int) -> KeyValue:
        return KeyValue(drawn(*shape, dtype=dtype), drawn(*shape, dtype=dtype).flip(-1))

    prefixes: list[dict[int, KeyValue]] = [{LAYER: kv(NUM_KV, num_prefix, SIZE)} if num_prefix else {}, {}]
    lengths = [LONGEST - 1 - 4 * row for row in range(NUM_ROWS)]
    rows: list[Any] = [
        SimpleNamespace(prefix=prefixes[num_plans == 2 and row % 3 == 1], num_prefix=num_prefix, num_own=length)
        for row, length in enumerate(lengths)
    ]
    held = {LAYER: kv(16, NUM_KV, 64, SIZE)}
    new = kv(NUM_KV, NUM_ROWS, SIZE)
    heads = Heads(drawn(NUM_KV * NUM_GROUPS, NUM_ROWS, SIZE, dtype=dtype), new, SIZE**-0.5, None, None)
    found = _Attends(held, rows, torch.device("cpu")).attend(LAYER, heads)
    assert found.dtype == torch.float32
    for slot, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        if num_plans == 2 and row.prefix is prefixes[1]:
            continue  # its plan skips the layer, and nothing reads what is computed for it
        ahead = [row.prefix[LAYER]] if num_prefix else []
        seen = [
            (*(one[part] for one in ahead), held[LAYER][part][slot, :, :length], new[part][:, slot, None])
            for part in (0, 1)
        ]
        expected = by_hand(heads, slot, *(torch.cat(one, dim=1) for one in seen))
        assert expected.abs().mean() > 0.05
        torch.testing.assert_close(found[:, slot].double(), expected, rtol=0, atol=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize(("window", "softcap"), [(None, None), (6, None), (6, 1.5), (30, 1.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_behind_prefixes_of_several_lengths(dtype: torch.dtype, window: int | None, softcap: float | None) -> None:
    """Two prefixes, and rows that have none; a window begins in the prefix or behind it."""
    prefixes: list[dict[int, KeyValue]] = [
        {LAYER: KeyValue(*(drawn(NUM_KV, size, SIZE, dtype=dtype) + part for part in (0, 1)))} if size else {}
        for size in (7, 20, 0)
    ]
    sizes = [(7, 20, 0)[row % 3] for row in range(NUM_ROWS)]
    lengths = [2 + 5 * row for row in range(NUM_ROWS)]
    rows: list[Any] = [
        SimpleNamespace(prefix=prefixes[row % 3], num_prefix=size, num_own=length)
        for row, (size, length) in enumerate(zip(sizes, lengths, strict=True))
    ]
    held = {LAYER: KeyValue(*(drawn(16, NUM_KV, 64, SIZE, dtype=dtype) + part for part in (0, 1)))}
    new = KeyValue(*(drawn(NUM_KV, NUM_ROWS, SIZE, dtype=dtype) + part for part in (0, 1)))
    heads = Heads(drawn(NUM_KV * NUM_GROUPS, NUM_ROWS, SIZE, dtype=dtype), new, SIZE**-0.5, window, softcap)
    found = _Attends(held, rows, torch.device("cpu")).attend(LAYER, heads)
    for slot, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        seen = [
            [*(kv[part] for kv in row.prefix.values()), held[LAYER][part][slot, :, :length], new[part][:, slot, None]]
            for part in (0, 1)
        ]
        keys, values = (torch.cat(parts, dim=1)[:, -(window or 1000) :].double() for parts in seen)
        query_KGd = heads.query_HTd[:, slot].double().view(NUM_KV, NUM_GROUPS, SIZE)
        scores = query_KGd @ keys.transpose(-1, -2) * heads.scaling
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        expected = (torch.softmax(scores, dim=-1) @ values).view(-1, SIZE)
        torch.testing.assert_close(found[:, slot].double(), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
