"""Attention of one step of decoding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from layercut.engine.attention import Heads, KeyValue
from layercut.engine.decoding import _Attends

NUM_KV, NUM_GROUPS, SIZE, NUM_ROWS, LONGEST = 2, 3, 16, 9, 50


def drawn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("num_prefix", [0, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_float32_within_rounding(dtype: torch.dtype, num_prefix: int) -> None:
    """Rows of different lengths under two plans, of which one skips the layer."""

    def kv(*shape: int) -> KeyValue:
        return KeyValue(drawn(*shape, dtype=dtype), drawn(*shape, dtype=dtype).flip(-1))

    prefixes: list[dict[int, KeyValue]] = [{4: kv(NUM_KV, num_prefix, SIZE)} if num_prefix else {}, {}]
    rows: list[Any] = [SimpleNamespace(prefix=prefixes[row % 3 == 1]) for row in range(NUM_ROWS)]
    lengths = [LONGEST - 1 - 4 * row for row in range(NUM_ROWS)]
    held = {4: kv(NUM_KV, 16, 64, SIZE)}
    query = drawn(NUM_KV * NUM_GROUPS, NUM_ROWS, SIZE, dtype=dtype)
    heads = Heads(query, kv(NUM_KV, NUM_ROWS, SIZE), SIZE**-0.5, None, None)
    attends = _Attends(held, rows, lengths, num_prefix, torch.device("cpu"))
    found = attends.attend(4, heads)
    own = KeyValue(*(kept[:, :NUM_ROWS, :LONGEST] for kept in held[4]))
    expected = attends._in_float32(4, heads, own)
    keeps = [row for row in range(NUM_ROWS) if row % 3 != 1]
    assert found.dtype == torch.float32 and expected.abs().mean() > 0.1
    torch.testing.assert_close(found[:, keeps], expected[:, keeps], rtol=0, atol=4 * torch.finfo(dtype).eps)
