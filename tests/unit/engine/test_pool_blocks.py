"""How work is cut into blocks, and how a pool is named. Without Ray."""

from __future__ import annotations

from itertools import count

import pytest

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.engine.ray_pool import FEWEST_ROWS, blocks_of, group_size, item_groups, portable_requests
from layercut.errors import InputError
from layercut.settings import PoolAddress
from layercut.surgery.plan import CutPlan

PLANS = [CutPlan(num_layers=9, removed=(layer,)) for layer in range(9)]


def ask(name: str, length: int = 1, new: int = 1) -> GenerationRequest:
    return GenerationRequest(id=name, prompt="x" * length, max_new_tokens=new)


def test_what_fits_stays_together_in_its_order() -> None:
    requests = [ask("b", 3), ask("a", 9), ask("c", 1)]
    assert item_groups(requests, 3) == [requests]
    assert item_groups([], 3) == []


def test_groups_are_made_of_the_requests_alone_longest_first() -> None:
    requests = [ask("a", 1), ask("b", 5), ask("c", 3), ask("d", 1, new=9), ask("e", 5)]
    names = [[one.id for one in group] for group in item_groups(requests, 2)]
    assert names == [["d", "b"], ["e", "c"], ["a"]]
    assert item_groups(requests[::-1], 2) == item_groups(requests, 2)


def test_a_row_a_continuation() -> None:
    requests = [LikelihoodRequest(id=str(i), prompt="x", continuations=("a", "b", "c")) for i in range(3)]
    assert [len(group) for group in item_groups(requests, 6)] == [2, 1]
    assert [len(group) for group in item_groups(requests, 2)] == [1, 1, 1]


def test_a_question_that_is_written_and_ranked_stays_together() -> None:
    both = [ask(name) for name in "abc"]
    both += [LikelihoodRequest(id=name, prompt="x", continuations=("a", "b")) for name in "abc"]
    assert [{one.id for one in group} for group in item_groups(both, 6)] == [{"a", "b"}, {"c"}]


def test_members_share_the_items_of_plans_that_are_fewer_than_they() -> None:
    requests = [ask(str(number)) for number in range(60)]
    requests += [LikelihoodRequest(id=str(number), prompt="x", continuations=("a", "b")) for number in range(20)]
    sizes = [(1, 1), (1, 2), (1, 8), (2, 8), (8, 8), (29, 8)]
    assert [group_size(requests, *size, 64) for size in sizes] == [64, 50, 13, 25, 64, 64]
    for num_plans, num_members in sizes:
        groups = item_groups(requests, group_size(requests, num_plans, num_members, 64))
        blocks = list(blocks_of(groups, PLANS[:num_plans], num_members, count()))
        assert len(blocks) >= num_members, "none is idle"
    assert group_size(requests, 1, 50, 64) == group_size(requests[:3], 1, 2, 64) == FEWEST_ROWS


@pytest.mark.parametrize(("num_groups", "num_members", "num_parts"), [(1, 2, 4), (1, 8, 9), (2, 2, 2), (7, 2, 1)])
def test_every_plan_meets_every_item_once_items_in_turn(num_groups: int, num_members: int, num_parts: int) -> None:
    groups = [[ask(f"{group}")] for group in range(num_groups)]
    blocks = list(blocks_of(groups, [*PLANS, PLANS[0]], num_members, count(5)))
    assert len(blocks) == num_groups * num_parts
    assert [block.number for block in blocks] == list(range(5, 5 + len(blocks)))
    assert [block.group for block in blocks] == sorted(block.group for block in blocks)
    for group in range(num_groups):
        of_group = [plan for block in blocks if block.group == group for plan in block.plans]
        assert of_group == PLANS


def test_a_block_asks_what_is_wanted() -> None:
    (block,) = blocks_of([[ask("a"), ask("b")]], PLANS[:1], 1, count())
    assert block.asked(lambda plan, item: item == "a") == {PLANS[0].key: frozenset({"a"})}
    assert block.asked(lambda plan, item: False) == {}


def test_a_verdict_that_cannot_travel_stays_behind() -> None:
    import threading

    lock = threading.Lock()
    stays = GenerationRequest(id="a", prompt="x", max_new_tokens=1, settled=lambda text: bool(lock))
    goes = GenerationRequest(id="b", prompt="x", max_new_tokens=1, settled=lambda text: True)
    sent = portable_requests([stays, goes])
    assert sent[0].settled is None
    assert sent[1] is goes


def test_names_of_pools() -> None:
    assert PoolAddress.parse("local:4") == PoolAddress(None, 4, None)
    assert PoolAddress.parse("local:2?gpus=2") == PoolAddress(None, 2, 2.0)
    assert PoolAddress.parse("ray://head:10001") == PoolAddress("ray://head:10001", None, None)
    assert PoolAddress.parse("ray://10.0.0.1:10001?members=3&gpus=0.5") == PoolAddress("ray://10.0.0.1:10001", 3, 0.5)
    assert PoolAddress.parse("auto").address == "auto"


@pytest.mark.parametrize(
    "text",
    ["", "2", "local", "local:0", "local:-1", "local:2?members=3", "local:2?cpus=1", "ray://h:1?gpus=x", "http://h:1"],
)
def test_what_is_no_pool(text: str) -> None:
    with pytest.raises(InputError, match="write local:2"):
        PoolAddress.parse(text)
