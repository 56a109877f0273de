"""RayPool: an engine that runs in many processes, each with its own copy of the model.

    pool = RayPool("local:2", build)                  # two processes of this machine
    pool = RayPool("ray://head:10001", build)         # one for each GPU of a cluster
    pool = RayPool("ray://head:10001?gpus=4", build)  # one for every four, over which its model is spread

A call is split into blocks of items and plans (``pool_blocks``); each free member takes the next block. ``wanted`` is
called before a block is sent and while blocks are under way, and cancelled plans stop where they run. Ray starts a
member that died again and repeats its current block. In float32 the answers equal those of one process; in half
precision they differ as with other batches, and with another number of members.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
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
from layercut.engine.pool_blocks import (
    Block,
    EngineCall,
    MemberMetadata,
    PoolWorker,
    blocks_of,
    group_size,
    item_groups,
    portable,
)
from layercut.errors import InputError, MissingExtra
from layercut.progress.activity import wrote
from layercut.settings import PoolAddress
from layercut.surgery.plan import CutPlan
from layercut.text import counted

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util import ActorPool
except ImportError as error:
    raise MissingExtra("a pool of engines", "ray") from error

GROUP_BATCHES = 2
"""Batches of an engine that a group of items fills, so that answers of one may grow while another one's end."""
MOST_DEATHS = 3  # members that may die over one block, or while they start, before the pool gives up
START_SECONDS = 900.0  # until all members have to be up, for example those of a machine that is to come back
_CHECK_EVERY = 0.5  # seconds between checks of what is still wanted
_CONTROL = "control"  # the thread of a member that hears what is not wanted any more


class RayPool(Engine):
    """Engine over many processes. Nothing is started before the first question."""

    shares_work = True

    def __init__(self, where: str, build: Callable[[], Engine]) -> None:
        """``build`` is called in each member, so it must travel there: a function of a module, or a partial of one.

        Raises:
            InputError: ``where`` is no pool.
        """
        self._where = PoolAddress.parse(where)
        self._build = build
        self._numbers = count(1)
        self._actors: list[Any] = []
        self._pids: dict[int, int] = {}  # by the place of a member, its process when it was last heard of
        self._metadata: MemberMetadata | None = None
        self._owns_ray = False
        self.num_deaths = 0  # members that were seen to have died

    @property
    def num_layers(self) -> int:
        return self._ready().num_layers

    @property
    def has_chat_template(self) -> bool:
        return self._ready().has_chat_template

    def describe(self) -> Mapping[str, Any]:
        """Settings that decide the numbers: what its members say, all the same, but not how many they are."""
        return self._ready().description

    @property
    def pids(self) -> list[int]:
        """Processes of the members."""
        self._ready()
        return list(self._pids.values())

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always
    ) -> Under[Any]:
        return self._run("ask", portable(requests), plans, (decoding,), wanted)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always
    ) -> Under[Divergence]:
        return self._run("compare", requests, plans, (reference,), wanted)

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
        method = self._actors[0].hidden_states
        streamed = method.options(num_returns="streaming", _generator_backpressure_num_objects=2)
        for batch in streamed.remote(list(texts), plan):
            yield _result(partial(ray.get, batch), "while computing hidden states")

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        self._actors, self._metadata, self._pids = [], None, {}
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(
        self, method: str, requests: Sequence[Any], plans: Plans, rest: tuple[Any, ...], wanted: Wanted
    ) -> Under[Any]:
        most = GROUP_BATCHES * int(self._ready().description.get("batch_size", 32))
        by_key = {plan.key: plan for plan in plans}
        size = group_size(requests, len(by_key), len(self._actors), most)
        queue = deque(blocks_of(item_groups(requests, size), plans, len(self._actors), self._numbers))
        pool, kept = ActorPool(self._actors), dict[int, Any]()
        under_way: dict[int, Block] = {}
        try:
            while queue or under_way:
                while queue and pool.has_free():
                    block = queue.popleft()
                    asked = block.asked(wanted)
                    if not asked:
                        continue
                    if block.group not in kept:  # put where all members can read them
                        kept[block.group] = ray.put(list(block.requests))
                    block.plans = [plan for plan in block.plans if plan.key in asked]
                    call = EngineCall(block.number, method, tuple(block.plans), rest, asked)
                    pool.submit(lambda actor, what: actor.answer.remote(*what), (call, kept[block.group]))
                    under_way[block.number] = block
                if not under_way:
                    return
                over = f"on the same {counted(len(next(iter(under_way.values())).requests), 'request')}"
                with suppress(TimeoutError):
                    place, pid, number, replies = _result(lambda: pool.get_next_unordered(timeout=_CHECK_EVERY), over)
                    self._heard_of(place, pid)
                    del under_way[number]
                    for key, answers in replies:
                        if tokens := sum(getattr(answer, "num_new_tokens", 0) for answer in answers):
                            wrote(tokens)  # members write elsewhere: their tokens are heard of with their answers
                        yield by_key[key], answers
                self._drop_unwanted(under_way.values(), wanted)
        finally:
            self._drop_unwanted(under_way.values(), lambda plan, request_id: False)
            while pool.has_next():
                with suppress(Exception):  # of a question that nobody waits for any more
                    pool.get_next_unordered()

    def _heard_of(self, place: int, pid: int) -> None:
        self.num_deaths += self._pids.get(place, pid) != pid
        self._pids[place] = pid

    def _drop_unwanted(self, blocks: Any, wanted: Wanted) -> None:
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
        actor_class: Any = ray.remote(**options)(PoolWorker)
        self._actors = [actor_class.remote(self._build, place) for place in range(num_members)]
        starting = [actor.metadata.remote() for actor in self._actors]
        up, _ = ray.wait(starting, num_returns=num_members, timeout=START_SECONDS)
        if len(up) < num_members:
            raise InputError(
                f"{num_members - len(up)} of {num_members} members of the pool did not start within "
                f"{START_SECONDS:.0f} s; check free CPUs and GPUs with `ray status`."
            )
        members = [_result(partial(ray.get, each), "while they start") for each in starting]
        first: MemberMetadata = members[0]
        for place, member in enumerate(members):
            self._heard_of(place, member.pid)
            if member.description != first.description:
                raise InputError(
                    f"members of the pool do not run the same model: {member.description} is not "
                    f"{first.description}. Give every machine the same files, devices and versions."
                )
        self._metadata = first
        return first

    def _connect(self) -> tuple[int, dict[str, Any]]:
        """Join or start Ray; the number of members, and the options of an actor: what it may use."""
        where, api = self._where, ray
        if not api.is_initialized():
            how = {"address": where.address or "local", **({} if where.address else {"include_dashboard": False})}
            try:
                api.init(**how, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray raises nearly anything here, bare Exceptions too
                place = where.address or "this machine"
                token = "; if it asks for a token (~/.ray/auth_token), set RAY_AUTH_MODE=token" if where.address else ""
                raise InputError(f"no Ray cluster answers at {place}: {_line(error)}{token}.") from error
            self._owns_ray = True
        resources: Mapping[str, float] = api.cluster_resources()
        num_gpus, num_cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
        each = min(1.0, num_gpus) if where.gpus is None else where.gpus
        machines = sum(bool(node["Alive"]) for node in api.nodes())
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


def _result(get: Callable[[], Any], over: str) -> Any:
    """The result, or what was raised in the member as if it had been raised here; ``over``: what members died over."""
    try:
        return get()
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else RuntimeError(str(error))) from error
    except RayError as error:
        raise InputError(
            f"{MOST_DEATHS} members of the pool died {over} ({_line(error)}); if memory ran out, use a smaller "
            "`batch_size` or fewer members on a machine."
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
