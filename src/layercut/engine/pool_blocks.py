"""Blocks: a call of an engine, split into blocks of items and plans; and the members of a pool, which answer them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from layercut.engine.base import Engine, GenerationRequest, HiddenStates, Wanted, distinct
from layercut.surgery.plan import CutPlan

BLOCKS_PER_MEMBER = 2
"""Blocks of the same items for each member: fast members take over from slow ones, and a member that is asked to stop
stops soon; more of them would share less between plans."""
FEWEST_ROWS = 8  # rows of a group of items that are not divided any more: a step with fewer takes as long


@dataclass(eq=False)
class Block:
    """Some requests under some plans."""

    number: int
    group: int  # which of the item groups it asks
    requests: Sequence[Any]
    plans: list[CutPlan]

    def asked(self, wanted: Wanted) -> dict[str, frozenset[str]]:
        """Ids that are wanted of it now, by plan key, without plans of which nothing is."""
        ids = {plan.key: frozenset(one.id for one in self.requests if wanted(plan, one.id)) for plan in self.plans}
        return {key: found for key, found in ids.items() if found}


def item_groups(requests: Sequence[Any], size: int) -> list[list[Any]]:
    """Requests in groups of at most ``size`` rows, by the requests alone: as they stand if they fit in one.

    Otherwise the longest come first, as in an engine's own batches, so that what shares a group ends together. Each
    continuation counts as a row. Requests with one id ask about one question and stay together.
    """
    by_id: dict[str, list[Any]] = {}
    for request in requests:
        by_id.setdefault(request.id, []).append(request)
    rows = {name: sum(map(_num_rows, same)) for name, same in by_id.items()}
    if sum(rows.values()) <= size:
        return [list(requests)] if requests else []
    groups: list[list[Any]] = []
    room = 0
    for name in sorted(by_id, key=lambda name: (-max(map(_length, by_id[name])), name)):
        if rows[name] > room:
            groups.append([])
            room = size
        groups[-1] += by_id[name]
        room -= rows[name]
    return groups


def group_size(requests: Sequence[Any], num_plans: int, num_members: int, most: int) -> int:
    """Rows of a group of items: at most ``most``, and fewer where there are fewer plans than members.

    Then each member gets some items of a plan, such as the original model or the leader of a race, which one member
    would answer alone.
    """
    wanted = -(-num_members // max(1, num_plans))
    share = -(-sum(map(_num_rows, requests)) // wanted)
    return min(most, max(FEWEST_ROWS, share))


def blocks_of(
    groups: Sequence[Sequence[Any]], plans: Sequence[CutPlan], num_members: int, numbers: Iterator[int]
) -> Iterator[Block]:
    """All plans on the first group of items, then all on the next: so a race ends everywhere at once.

    Neighbours in the list of plans share a block, as they share the most layers.
    """
    plans = distinct(plans)
    num_parts = min(len(plans), max(1, -(-BLOCKS_PER_MEMBER * num_members // max(1, len(groups)))))
    for index, requests in enumerate(groups):
        for part in range(num_parts):
            chosen = plans[part * len(plans) // num_parts : (part + 1) * len(plans) // num_parts]
            yield Block(number=next(numbers), group=index, requests=requests, plans=chosen)


def portable(requests: Sequence[Any]) -> list[Any]:
    """The requests as another process can take them: an early verdict that cannot travel stays behind.

    It changes the speed and no score.
    """
    return [
        replace(request, settled=None)
        if isinstance(request, GenerationRequest) and request.settled is not None and not _travels(request.settled)
        else request
        for request in requests
    ]


def _travels(what: Any) -> bool:
    try:
        import cloudpickle

        cloudpickle.dumps(what)
    except (pickle.PicklingError, TypeError, AttributeError, ValueError):
        return False
    return True


def _num_rows(request: Any) -> int:
    """One, or one for each continuation."""
    return len(getattr(request, "continuations", ())) or 1


def _length(request: Any) -> int:
    """Characters to be read, and tokens to be written."""
    parts = [request.prompt] if isinstance(request.prompt, str) else [message.content for message in request.prompt]
    return sum(map(len, parts)) + int(getattr(request, "max_new_tokens", 0))


class MemberMetadata(NamedTuple):
    """Properties of a member that the pool needs."""

    num_layers: int
    has_chat_template: bool
    description: dict[str, Any]  # settings that decide its numbers; the same for all members
    pid: int


class EngineCall(NamedTuple):
    """One question to an engine, on some requests and plans."""

    number: int  # number of the block, by which plans are dropped
    method: str  # ``ask`` or ``compare``
    plans: tuple[CutPlan, ...]
    rest: tuple[Any, ...]  # arguments between plans and wanted: the decoding, or the reference plan
    asked: Mapping[str, frozenset[str]]  # plan key to the ids of the requests that it is to answer


class PoolWorker:
    """Runs in a process of its own. The engine is built by the first call, so that its errors are raised as such."""

    def __init__(self, build: Callable[[], Engine], place: int) -> None:
        self._build = build
        self._place = place
        self._dropped: set[tuple[int, str]] = set()

    @cached_property
    def engine(self) -> Engine:
        """The engine, over a model of this process's own."""
        return self._build()

    def metadata(self) -> MemberMetadata:
        engine = self.engine
        return MemberMetadata(engine.num_layers, engine.has_chat_template, dict(engine.describe()), os.getpid())

    def answer(self, call: EngineCall, requests: Sequence[Any]) -> tuple[int, int, int, list[tuple[str, list[Any]]]]:
        """Its place and process, the block, and plan keys with answers, as far as asked and not dropped meanwhile."""

        def wanted(plan: CutPlan, request_id: str) -> bool:
            return (call.number, plan.key) not in self._dropped and request_id in call.asked[plan.key]

        replies = getattr(self.engine, call.method)(requests, call.plans, *call.rest, wanted)
        answers = [(plan.key, list(some)) for plan, some in replies]
        self._dropped = {(number, key) for number, key in self._dropped if number > call.number}
        return self._place, os.getpid(), call.number, answers

    def drop(self, number: int, keys: Sequence[str]) -> None:
        """Leave plans of a block that may be under way here; called beside ``answer``, from another thread."""
        self._dropped |= {(number, key) for key in keys}

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        # Ray sends into the generator, which an iterator behind `yield from` refuses.
        for states in self.engine.hidden_states(texts, plan):  # noqa: UP028
            yield states
