"""How work is cut into blocks, and how a pool is named. Without Ray."""

from __future__ import annotations

import pytest

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.engine.ray_pool import FEWEST, split_in_blocks
from layercut.errors import InputError
from layercut.settings import PoolAddress
from layercut.surgery.plan import CutPlan

PLANS = [CutPlan(num_layers=9, removed=(layer,)) for layer in range(9)]


def ask(name: str, length: int = 1, new: int = 1) -> GenerationRequest:
    return GenerationRequest(id=name, prompt="x" * length, max_new_tokens=new)


def test_groups_are_made_of_the_requests_alone_longest_first():
    requests = [ask(f"{number}", length) for number, length in enumerate((1, 5, 3, 2, 5, 9, 7, 8, 4))]
    requests.append(ask("new", 1, new=9))
    groups = [[one.id for one in block] for block, _ in split_in_blocks(requests, PLANS[:1], 1, FEWEST)]
    assert groups == [["5", "new", "7", "6", "1", "4", "8", "2"], ["3", "0"]]
    assert [[one.id for one in block] for block, _ in split_in_blocks(requests[::-1], PLANS[:1], 1, FEWEST)] == groups
    assert split_in_blocks([], PLANS, 2, 8) == [] == split_in_blocks(requests, [], 2, 8)


def test_a_question_that_is_written_and_ranked_stays_together():
    both = [ask(name) for name in "abc"]
    both += [LikelihoodRequest(id=name, prompt="x", continuations=("a", "b")) for name in "abc"]
    assert [{one.id for one in block} for block, _ in split_in_blocks(both, PLANS[:1], 1, 2)] == [{"a", "b"}, {"c"}]


@pytest.mark.parametrize(
    ("num_plans", "num_members", "size"), [(1, 1, 64), (1, 2, 40), (1, 8, 10), (2, 8, 20), (8, 8, 64), (1, 50, FEWEST)]
)
def test_members_share_the_items_of_plans_that_are_fewer_than_they(num_plans, num_members, size):
    requests = [ask(f"{number:02}") for number in range(80)]
    blocks = split_in_blocks(requests, PLANS[:num_plans], num_members, 64)
    assert max(len(block) for block, _ in blocks) == size and len(blocks) >= min(num_members, 80 // FEWEST)


@pytest.mark.parametrize(("num_groups", "num_members", "num_parts"), [(1, 2, 4), (1, 8, 9), (2, 2, 2), (7, 2, 1)])
def test_every_plan_meets_every_item_once_items_in_turn(num_groups, num_members, num_parts):
    requests = [ask(f"{number:02}") for number in range(num_groups)]
    blocks = split_in_blocks(requests, [*PLANS, PLANS[0]], num_members, 1)
    assert [request.id for block, _ in blocks for request in block] == sorted([one.id for one in requests] * num_parts)
    for request in requests:
        assert [plan for block, plans in blocks if request in block for plan in plans] == PLANS


def test_names_of_pools():
    assert PoolAddress.parse("local:4") == PoolAddress(None, 4, None)
    assert PoolAddress.parse("local:2?gpus=2") == PoolAddress(None, 2, 2.0)
    assert PoolAddress.parse("ray://head:10001") == PoolAddress("ray://head:10001", None, None)
    assert PoolAddress.parse("ray://10.0.0.1:10001?members=3&gpus=0.5") == PoolAddress("ray://10.0.0.1:10001", 3, 0.5)
    assert PoolAddress.parse("auto").address == "auto"


@pytest.mark.parametrize(
    "text",
    ["", "2", "local", "local:0", "local:-1", "local:2?members=3", "local:2?cpus=1", "ray://h:1?gpus=x", "http://h:1"],
)
def test_what_is_no_pool(text):
    with pytest.raises(InputError, match="write local:2"):
        PoolAddress.parse(text)
