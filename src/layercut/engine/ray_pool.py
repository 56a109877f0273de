"""RayPool: an engine that runs in many processes, each with its own copy of the model.

    pool = RayPool("local:2", build)                  # two processes of this machine
    pool = RayPool("ray://head:10001", build)         # one for each GPU of a cluster
    pool = RayPool("ray://head:10001?gpus=4", build)  # one for every four, over which its model is spread

A call is split into blocks of items and plans (``pool_blocks``); each free member takes the next block. ``wanted`` is
called before a block is sent and after a block returns, and cancelled plans stop where they run. If a member dies,
only its current block is lost, and another member repeats it. In float32 the answers equal those of one process; in
half precision they differ as with other batches, and with another number of members.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

from layercut.engine.base import (
    GREEDY,
    Decoding,
    Divergence,
    Engine,
    HiddenStates,
    LikelihoodRequest,
    Plans,
    Request,
    Under,
    Wanted,
    always,
)
from layercut.engine.pool_blocks import Block, blocks_of, group_size, item_groups, portable
from layercut.engine.pool_worker import EngineCall
from layercut.engine.ray_members import Members
from layercut.progress.activity import wrote
from layercut.settings import PoolAddress
from layercut.surgery.plan import CutPlan

GROUP_BATCHES = 2
"""Batches of an engine that a group of items fills, so that answers of one may grow while another one's end."""


class RayPool(Engine):
    """Engine over many processes. Nothing is started before the first question."""

    shares_work = True

    def __init__(self, where: str, build: Callable[[], Engine]) -> None:
        """``build`` is called in each member, so it must travel there: a function of a module, or a partial of one.

        Raises:
            InputError: ``where`` is no pool.
        """
        self._members = Members(PoolAddress.parse(where), build)
        self._numbers = count(1)

    @property
    def num_layers(self) -> int:
        return self._members.ready().num_layers

    @property
    def has_chat_template(self) -> bool:
        return self._members.ready().has_chat_template

    def describe(self) -> Mapping[str, Any]:
        """Settings that decide the numbers: what its members say, all the same, but not how many they are."""
        return self._members.ready().description

    @property
    def pids(self) -> list[int]:
        self._members.ready()
        return [member.pid for member in self._members if member.pid is not None]

    def wait(self) -> None:
        """Until all members are up; work begins as soon as one is."""
        self._members.ready()
        while len(self.pids) < len(self._members):
            self._members.collect()

    @property
    def num_deaths(self) -> int:
        return self._members.deaths

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always
    ) -> Under[Any]:
        return self._run("ask", portable(requests), plans, (decoding,), wanted)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always
    ) -> Under[Divergence]:
        return self._run("compare", requests, plans, (reference,), wanted)

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        """See Engine; by one member, a batch at a time, because the states are far larger than the texts."""
        return self._members.hidden_states(texts, plan)

    def close(self) -> None:
        self._members.close()

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self, method: str, requests: Sequence[Any], plans: Plans, rest: tuple[Any, ...], wanted: Wanted
    ) -> Under[Any]:
        members = self._members
        most = GROUP_BATCHES * int(members.ready().description.get("batch_size", 32))
        by_key = {plan.key: plan for plan in plans}
        size = group_size(requests, len(by_key), len(members), most)
        queue = deque(blocks_of(item_groups(requests, size), plans, len(members), self._numbers))
        kept: dict[int, Any] = {}
        under_way: list[Block] = []
        try:
            while queue or under_way:
                members.ready()  # waits if all have died
                for member in members:
                    if member.is_free and (block := _next(queue, wanted)) is not None:
                        if block.group not in kept:
                            kept[block.group] = members.keep(block.requests)
                        asked = block.asked(wanted)
                        block.plans = [plan for plan in block.plans if plan.key in asked]
                        call = EngineCall(block.number, method, tuple(block.plans), rest, asked)
                        members.give(member, block, call, kept[block.group])
                        under_way.append(block)
                members.collect()
                for block in [block for block in under_way if block.is_over]:
                    under_way.remove(block)
                    if block.error is not None:
                        raise block.error
                    if block.is_lost:
                        block.is_lost = False
                        queue.appendleft(block)
                    for key, answers in block.found or ():
                        if tokens := sum(getattr(one, "num_new_tokens", 0) for one in answers):
                            wrote(tokens)  # members write elsewhere: their tokens are heard of with their answers
                        yield by_key[key], answers
                self._drop_unwanted(under_way, wanted)
        finally:
            self._drop_unwanted(under_way, lambda plan, request_id: False)

    def _drop_unwanted(self, blocks: Sequence[Block], wanted: Wanted) -> None:
        """Notify members of plans that were cancelled since their block was sent."""
        for member in self._members:
            block = member.block
            if block is not None and block in blocks:
                asked = block.asked(wanted)
                self._members.drop(member, [plan for plan in block.plans if plan.key not in asked])
                block.plans = [plan for plan in block.plans if plan.key in asked]


def _next(queue: deque[Block], wanted: Wanted) -> Block | None:
    """The next block of which something is wanted still."""
    while queue:
        block = queue.popleft()
        if block.asked(wanted):
            return block
    return None
