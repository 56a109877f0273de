"""RayPool: an engine that runs in many processes, each with its own copy of the model.

    pool = RayPool("local:2", build)                  # two processes of this machine
    pool = RayPool("ray://head:10001", build)         # one for each GPU of a cluster
    pool = RayPool("ray://head:10001?gpus=4", build)  # one for every four, over which its model is spread

A call is split into blocks of items and plans; each free member takes the next block. ``wanted`` is called before a
block is sent and while blocks are under way, and cancelled plans stop where they run. Ray starts a member that died
again and repeats its current block. In float32 the answers equal those of one process; in half precision they differ as
with other batches, and with another number of members.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import count
from typing import Any, NamedTuple

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
    always_wanted,
    distinct_plans,
)
from layercut.errors import InputError, MissingExtra
from layercut.progress.activity import report_tokens
from layercut.settings import PoolAddress
from layercut.surgery.plan import CutPlan
from layercut.text import count_of

BLOCKS_PER_MEMBER = 2
"""Blocks of the same items for each member: fast members take over from slow ones, and a member that is asked to stop
stops soon; more of them would share less between plans."""
FEWEST_ROWS = 8  # rows of a group of items that are not divided any more: a step with fewer takes as long
GROUP_BATCHES = 2
"""Batches of an engine that a group of items fills, so that answers of one may grow while another one's end."""
MOST_DEATHS = 3  # members that may die over one block, or while they start, before the pool gives up
START_SECONDS = 900.0  # until all members have to be up, for example those of a machine that is to come back
_CHECK_EVERY = 0.5  # seconds between checks of what is still wanted
_CONTROL = "control"  # the thread of a member that hears what is not wanted any more


@dataclass(eq=False)
class Block:
    """Some requests under some plans."""

    number: int
    group: int  # which of the item groups it asks
    requests: Sequence[Any]
    plans: list[CutPlan]

    def asked(self, wanted: Wanted) -> dict[str, frozenset[str]]:
        """Ids that are wanted of it now, by plan key, without plans of which nothing is."""
        names = [request.id for request in self.requests]
        ids = {plan.key: frozenset(name for name in names if wanted(plan, name)) for plan in self.plans}
        return {key: asked for key, asked in ids.items() if asked}


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
    num_groups = -(-num_members // max(1, num_plans))
    return min(most, max(FEWEST_ROWS, -(-sum(map(_num_rows, requests)) // num_groups)))


def blocks_of(
    groups: Sequence[Sequence[Any]], plans: Sequence[CutPlan], num_members: int, numbers: Iterator[int]
) -> Iterator[Block]:
    """All plans on the first group of items, then all on the next: so a race ends everywhere at once.

    Neighbours in the list of plans share a block, as they share the most layers.
    """
    plans = distinct_plans(plans)
    num_parts = min(len(plans), max(1, -(-BLOCKS_PER_MEMBER * num_members // max(1, len(groups)))))
    for group, requests in enumerate(groups):
        for part in range(num_parts):
            chosen = plans[part * len(plans) // num_parts : (part + 1) * len(plans) // num_parts]
            yield Block(next(numbers), group, requests, chosen)


def portable_requests(requests: Sequence[Any]) -> list[Any]:
    """The requests as another process can take them: an early verdict that cannot travel stays behind.

    It changes the speed and no score.
    """
    import cloudpickle

    sent = []
    for request in requests:
        try:
            cloudpickle.dumps(getattr(request, "settled", None))
        except (pickle.PicklingError, TypeError, AttributeError, ValueError):
            request = replace(request, settled=None)
        sent.append(request)
    return sent


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


class PoolWorker:
    """Runs in a process of its own. The engine is built by the first call, so that its errors are raised as such."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._dropped: set[tuple[int, str]] = set()  # numbers of blocks and keys of plans

    @cached_property
    def engine(self) -> Engine:
        """The engine, over a model of this process's own."""
        return self._build()

    def metadata(self) -> MemberMetadata:
        engine = self.engine
        return MemberMetadata(engine.num_layers, engine.has_chat_template, dict(engine.describe()), os.getpid())

    def answer(
        self, number: int, method: str, plans: Plans, rest: Any, asked: Mapping[str, Any], requests: Sequence[Any]
    ) -> tuple[int, list[tuple[str, list[Any]]]]:
        """The block's number, and plan keys with answers, as far as not dropped meanwhile.

        ``rest`` is the method's argument between plans and wanted; ``asked`` has the ids to be answered, by plan key.
        """

        def wanted(plan: CutPlan, request_id: str) -> bool:
            return (number, plan.key) not in self._dropped and request_id in asked[plan.key]

        replies = getattr(self.engine, method)(requests, plans, rest, wanted)
        answers = [(plan.key, list(some)) for plan, some in replies]
        self._dropped = {(later, key) for later, key in self._dropped if later > number}
        return number, answers

    def drop(self, number: int, keys: Sequence[str]) -> None:
        """Leave plans of a block that may be under way here; called beside ``answer``, from another thread."""
        self._dropped |= {(number, key) for key in keys}

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        # Ray sends into the generator, which an iterator behind `yield from` refuses.
        for states in self.engine.hidden_states(texts, plan):  # noqa: UP028
            yield states


class RayPool(Engine):
    """Engine over many processes. Nothing is started before the first question."""

    shares_work = True

    def __init__(self, where: str, build: Callable[[], Engine]) -> None:
        """``build`` is called in each member, so it must travel there: a function of a module, or a partial of one.

        Raises:
            MissingExtra: Ray is not installed.
            InputError: ``where`` is no pool.
        """
        try:
            import ray
            import ray.exceptions
            import ray.util
        except ImportError as error:
            raise MissingExtra("a pool of engines", "ray") from error
        self._ray: Any = ray
        self._where, self._build, self._numbers = PoolAddress.parse(where), build, count(1)
        self._actors: list[Any] = []
        self._metadata: MemberMetadata | None = None
        self._owns_ray = False

    @property
    def num_layers(self) -> int:
        return self._ready().num_layers

    @property
    def has_chat_template(self) -> bool:
        return self._ready().has_chat_template

    def describe(self) -> Mapping[str, Any]:
        """Settings that decide the numbers: what its members say, all the same, but not how many they are."""
        return self._ready().description

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        return self._run("ask", portable_requests(requests), plans, decoding, wanted)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always_wanted
    ) -> Under[Divergence]:
        return self._run("compare", requests, plans, reference, wanted)

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        """See Engine; by one member, a batch at a time, because the states are far larger than the texts.

        Raises:
            InputError: through ``ray://``, which has no streams.
        """
        if (self._where.address or "").startswith("ray://"):
            raise InputError(
                "hidden states cannot be sent through ray://; run layercut on a machine of the cluster, with "
                "`engine_pool` auto, or without a pool."
            )
        self._ready()
        options = {"num_returns": "streaming", "_generator_backpressure_num_objects": 2}
        for batch in self._actors[0].hidden_states.options(**options).remote(list(texts), plan):
            yield self._result(partial(self._ray.get, batch), "while computing hidden states")

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors, self._metadata = [], None
        if self._owns_ray:
            self._ray.shutdown()
            self._owns_ray = False

    def _run(self, method: str, requests: Sequence[Any], plans: Plans, rest: Any, wanted: Wanted) -> Under[Any]:
        most = GROUP_BATCHES * int(self._ready().description.get("batch_size", 32))
        by_key = {plan.key: plan for plan in plans}
        groups = item_groups(requests, group_size(requests, len(by_key), len(self._actors), most))
        queue = deque(blocks_of(groups, plans, len(self._actors), self._numbers))
        pool, stored = self._ray.util.ActorPool(self._actors), dict[int, Any]()
        under_way: dict[int, Block] = {}
        try:
            while queue or under_way:
                while queue and pool.has_free():
                    block = queue.popleft()
                    asked = block.asked(wanted)
                    if not asked:
                        continue
                    if block.group not in stored:  # put where all members can read them
                        stored[block.group] = self._ray.put(list(block.requests))
                    block.plans = [plan for plan in block.plans if plan.key in asked]
                    call = (block.number, method, tuple(block.plans), rest, asked, stored[block.group])
                    pool.submit(lambda actor, what: actor.answer.remote(*what), call)
                    under_way[block.number] = block
                if not under_way:
                    return
                over = f"on the same {count_of(len(next(iter(under_way.values())).requests), 'request')}"
                with suppress(TimeoutError):
                    next_reply = partial(pool.get_next_unordered, timeout=_CHECK_EVERY)
                    number, replies = self._result(next_reply, over)
                    del under_way[number]
                    for key, answers in replies:
                        if tokens := sum(getattr(answer, "num_new_tokens", 0) for answer in answers):
                            report_tokens(
                                tokens
                            )  # members write elsewhere: their tokens are heard of with their answers
                        yield by_key[key], answers
                self._drop_unwanted(under_way.values(), wanted)
        finally:
            self._drop_unwanted(under_way.values(), lambda plan, request_id: False)
            while pool.has_next():
                with suppress(Exception):  # of a question that nobody waits for any more
                    pool.get_next_unordered()

    def _drop_unwanted(self, blocks: Iterable[Block], wanted: Wanted) -> None:
        """Notify members of plans that were cancelled since their block was sent."""
        for block in blocks:
            asked = block.asked(wanted)
            if keys := [plan.key for plan in block.plans if plan.key not in asked]:
                for actor in self._actors:
                    actor.drop.options(concurrency_group=_CONTROL).remote(block.number, keys)
                block.plans = [plan for plan in block.plans if plan.key in asked]

    def _ready(self) -> MemberMetadata:
        """Start the members if there are none, and wait until they are up.

        Raises:
            InputError: no cluster, one without space for them, or members that cannot build their engine.
        """
        if self._metadata is not None:
            return self._metadata
        num_members, options = self._connect()
        worker = self._ray.remote(**options)(PoolWorker)
        self._actors = [worker.remote(self._build) for _ in range(num_members)]
        starting = [actor.metadata.remote() for actor in self._actors]
        up, _ = self._ray.wait(starting, num_returns=num_members, timeout=START_SECONDS)
        if len(up) < num_members:
            raise InputError(
                f"{num_members - len(up)} of {num_members} members of the pool did not start within "
                f"{START_SECONDS:.0f} s; check free CPUs and GPUs with `ray status`."
            )
        members = [self._result(partial(self._ray.get, each), "while they start") for each in starting]
        first: MemberMetadata = members[0]
        for member in members[1:]:
            if member.description != first.description:
                raise InputError(
                    f"members of the pool do not run the same model: {member.description} is not "
                    f"{first.description}. Give every machine the same files, devices and versions."
                )
        self._metadata = first
        return first

    def _connect(self) -> tuple[int, dict[str, Any]]:
        """Join or start Ray; the number of members, and the options of an actor: what it may use."""
        where, ray = self._where, self._ray
        if not ray.is_initialized():
            how = {"address": where.address} if where.address else {"address": "local", "include_dashboard": False}
            try:
                ray.init(**how, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray raises nearly anything here, bare Exceptions too
                place = where.address or "this machine"
                token = "; if it asks for a token (~/.ray/auth_token), set RAY_AUTH_MODE=token" if where.address else ""
                raise InputError(f"no Ray cluster answers at {place}: {_line(error)}{token}.") from error
            self._owns_ray = True
        resources = ray.cluster_resources()
        num_gpus, num_cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
        each = min(1.0, num_gpus) if where.gpus is None else where.gpus
        machines = sum(bool(node["Alive"]) for node in ray.nodes())
        num = where.members or (int(num_gpus // each) if each else machines)
        if num < 1 or num * each > num_gpus:
            raise InputError(
                f"{max(num, 1)} members with {each:g} GPUs each do not fit in a pool that has {num_gpus:g}; ask for "
                "fewer (local:N, ?members=M) or for fewer GPUs each (?gpus=K)."
            )
        # As many threads as cores; where there are more processes than cores they share them.
        cpus = min(1.0, num_cpus) if each else math.floor(num_cpus / num)
        again = {"max_restarts": -1, "max_task_retries": MOST_DEATHS - 1}
        return num, {"num_cpus": cpus, "num_gpus": each, "concurrency_groups": {_CONTROL: 1}, **again}

    def _result(self, get: Callable[[], Any], over: str) -> Any:
        """The result, or what was raised in the member as if raised here; ``over``: what members died over."""
        try:
            return get()
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, Exception) else RuntimeError(str(error))) from error
        except self._ray.exceptions.RayError as error:
            raise InputError(
                f"{MOST_DEATHS} members of the pool died {over} ({_line(error)}); if memory ran out, use a smaller "
                "`batch_size` or fewer members on a machine."
            ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
