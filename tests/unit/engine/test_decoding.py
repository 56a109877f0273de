"""Attention of one step of decoding; what attention asks for beyond that is refused by the argument's name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from layercut.engine.attention import Heads, KeyValue, attention_asks
from layercut.engine.base import GenerationRequest
from layercut.engine.decoding import _Attends
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS

NUM_KV, NUM_GROUPS, SIZE, NUM_ROWS, LONGEST, LAYER = 2, 3, 16, 9, 50, 4


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def kv(*shape: int, dtype: torch.dtype) -> KeyValue:
    keys = drawn(*shape, dtype=dtype)
    return KeyValue(keys, keys.flip(-1))


def by_hand(heads: Heads, row: int, keys_KTd: Tensor, values_KTd: Tensor) -> Tensor:
    """One row's output (H, d): every query head over the keys of its key-value head that the window shows."""
    keys, values = (part[:, -(heads.window or 1000) :].double() for part in (keys_KTd, values_KTd))
    query_KGd = heads.query_HTd[:, row].double().view(NUM_KV, NUM_GROUPS, SIZE)
    scores_KGT = query_KGd @ keys.transpose(-1, -2) * heads.scaling
    if heads.softcap is not None:
        scores_KGT = heads.softcap * torch.tanh(scores_KGT / heads.softcap)
    return (torch.softmax(scores_KGT, dim=-1) @ values).view(-1, SIZE)


@pytest.mark.parametrize(
    ("sizes", "is_skipped", "window", "softcap"),
    [
        *(((size,), is_skipped, None, None) for size in (0, 7) for is_skipped in (False, True)),
        *(((7, 20, 0), False, *how) for how in ((None, None), (6, None), (6, 1.5), (30, 1.5))),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_see_their_prefix_their_own_tokens_and_themselves(dtype, sizes, is_skipped, window, softcap):
    """Rows of different lengths, behind prefixes of one or several; of two plans one skips the layer."""
    several = len(sizes) > 1
    lengths = [2 + 5 * row if several else LONGEST - 1 - 4 * row for row in range(NUM_ROWS)]
    prefixes = [{LAYER: kv(NUM_KV, size, SIZE, dtype=dtype)} if size else {} for size in sizes]
    rows: list[Any] = []
    for row, length in enumerate(lengths):
        of_row = row % len(sizes)
        prefix = {} if is_skipped and row % 3 == 1 else prefixes[of_row]
        rows.append(SimpleNamespace(prefix=prefix, num_prefix=sizes[of_row], num_own=length))
    held, new = {LAYER: kv(16, NUM_KV, 64, SIZE, dtype=dtype)}, kv(NUM_KV, NUM_ROWS, SIZE, dtype=dtype)
    heads = Heads(drawn(NUM_KV * NUM_GROUPS, NUM_ROWS, SIZE, dtype=dtype), new, SIZE**-0.5, window, softcap)
    output = _Attends(held, rows, torch.device("cpu")).attend(LAYER, heads)
    assert output.dtype == torch.float32
    for slot, row in enumerate(rows):
        if is_skipped and slot % 3 == 1:
            continue  # its plan skips the layer, and nothing reads what is computed for it
        own = [held[LAYER][part][slot, :, : row.num_own] for part in (0, 1)]
        seen = [[*(kv[part] for kv in row.prefix.values()), own[part], new[part][:, slot, None]] for part in (0, 1)]
        expected = by_hand(heads, slot, *(torch.cat(parts, dim=1) for parts in seen))
        assert several or expected.abs().mean() > 0.05
        atol = (8 if several else 4) * torch.finfo(dtype).eps
        torch.testing.assert_close(output[:, slot].double(), expected, rtol=0, atol=atol)


def test_attention_sinks_are_refused_by_name_and_run_in_the_plain_engine(monkeypatch):
    """gpt_oss gives its attention a learned sink for each head."""
    monkeypatch.setitem(CONFIGS, "gpt_oss", CONFIGS["mixtral"] | {"layer_types": ["full_attention"] * 6})
    loaded = tiny_loaded("gpt_oss")
    request = GenerationRequest(id="a", prompt="three sheep and", max_new_tokens=3)
    with pytest.raises(InputError, match="s_aux; use `?engine`? plain"):
        list(completions(SharedEngine(loaded), [request], CutPlan(num_layers=6)))
    assert len(list(completions(PlainEngine(loaded), [request], CutPlan(num_layers=6)))) == 1


@pytest.mark.parametrize(
    "argument",
    [{"attention_mask": torch.zeros(1, 1, 2, 2)}, {"dropout": 0.1}, {"is_causal": False}, {"attention_chunk_size": 4}],
    ids=lambda one: next(iter(one)),
)
def test_masks_and_other_arguments_are_refused_by_name(argument):
    model, name = tiny_loaded("llama").model, next(iter(argument))
    attention = model.model.layers[0].self_attn
    states, turn = torch.zeros(1, 2, 32), torch.zeros(1, 2, 8)
    if name == "dropout":
        attention.attention_dropout = argument["dropout"]
        attention.train()
    call = {"attention_mask": None, **({} if name == "dropout" else argument)}
    with attention_asks(model, None), pytest.raises(InputError, match=f"LlamaAttention .* for {name};"):
        attention(hidden_states=states, position_embeddings=(turn, turn), **call)
