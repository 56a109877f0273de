"""Attention of a group of texts against attention over each text alone, and which requests share a text."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from layercut.engine.attention import Heads, KeyValue
from layercut.engine.base import LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.rows import Scoring, make_scorings
from layercut.engine.scores import Reading, group_neighbours
from layercut.engine.shared import SharedEngine
from layercut.engine.text_groups import Group, PackedText, group_by_length
from layercut.surgery.plan import CutPlan
from tests.support.engines import by_id, log_likelihoods
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS

K, G, D = 2, 3, 8
CPU = torch.device("cpu")


def by_hand(query_KGd: Tensor, keys_KCd: Tensor, values_KCd: Tensor, heads: Heads) -> Tensor:
    """One query over keys that it all sees."""
    scores = (query_KGd @ keys_KCd.transpose(-1, -2)) * heads.scaling
    if heads.softcap is not None:
        scores = heads.softcap * torch.tanh(scores / heads.softcap)
    return torch.softmax(scores, dim=-1) @ values_KCd


@pytest.mark.parametrize(("window", "softcap", "num_prefix"), product([None, 5, 50], [None, 2.0], [0, 3, 90]))
def test_each_token_sees_the_prefix_and_its_way_from_the_root(window, softcap, num_prefix):
    torch.manual_seed(0)
    trunk = tuple(range(70))
    texts = [
        PackedText.line(tuple(range(80))),
        PackedText.tree([(*trunk, 1, 2), (*trunk, 1, 3, 4), (*trunk[:9], 5)])[0],
    ]
    starts = [4, 90]
    group = Group(texts, starts, num_prefix, CPU)
    rows, longest = group.index_RS.shape
    query = torch.randn(K, rows, G, longest, D)
    own = KeyValue(*torch.randn(2, K, rows, longest, D))
    prefix = KeyValue(*torch.randn(2, K, num_prefix, D)) if num_prefix else None
    heads = Heads(torch.empty(0), own, 0.3, window, softcap)
    found = group.attend(query, own, prefix, heads)
    for row, text in enumerate(texts):
        assert group.index_RS[row, : len(text)].tolist() == list(range(starts[row], starts[row] + len(text)))
        for place in range(0, len(text), 7):
            way, at = [], place
            while at >= 0:
                way.insert(0, at)
                at = text.parents[at]
            keys, values = own.keys[:, row, way], own.values[:, row, way]
            if prefix is not None:
                keys, values = torch.cat([prefix.keys, keys], 1), torch.cat([prefix.values, values], 1)
            reach = len(way) + num_prefix if window is None else window
            expected = by_hand(query[:, row, :, place], keys[:, -reach:], values[:, -reach:], heads)
            torch.testing.assert_close(found[:, row, :, place], expected, rtol=1e-4, atol=1e-5)


def test_short_texts_share_a_group_and_long_ones_stand_alone():
    texts = [PackedText.line(tuple(range(size))) for size in (700, 10, 600, 12, 5)]
    assert group_by_length(texts, 100) == [[0], [2], [3, 1], [4]]


SHOTS = "worked examples that all items of a subject have in common, at some length. "


def few_shot(subject: str, number: int) -> list[LikelihoodRequest]:
    shots, options = f"{subject} {SHOTS * (1 + len(subject))}", (" yes", " no", " y")
    return [LikelihoodRequest(id=f"{subject}{n}", prompt=f"{shots}{n}?", continuations=options) for n in range(number)]


def test_items_behind_the_same_examples_are_one_text():
    loaded = tiny_loaded("llama")
    requests = [one for pair in zip(few_shot("b", 3), few_shot("cc", 3), strict=True) for one in pair]
    work: list[Scoring] = group_neighbours(make_scorings(loaded, requests))
    assert [item.id for item in work] == ["cc0", "cc1", "cc2", "b0", "b1", "b2"]
    reading = Reading(work, 0)
    assert len(reading.texts) == 2
    assert sum(map(len, reading.texts)) < 0.45 * sum(len(row.tokens) for item in work for row in item.rows[:1])


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "gpt2"])
def test_shared_examples_change_no_score(model_type):
    loaded = tiny_loaded(model_type)
    plans = [CutPlan(num_layers=NUM_LAYERS), CutPlan(num_layers=NUM_LAYERS, removed=(2, 4))]
    requests = [*few_shot("b", 5), *few_shot("cc", 4), *few_shot("d", 1)]
    for plan in plans:
        expected = by_id(log_likelihoods(PlainEngine(loaded), requests, plan))
        for size in (1, 3, 32):
            ours = by_id(log_likelihoods(SharedEngine(loaded, batch_size=size), requests, plan))
            assert ours.keys() == expected.keys()
            for name, scores in ours.items():
                assert scores.log_likelihoods == pytest.approx(expected[name].log_likelihoods, rel=1e-4, abs=1e-3)
