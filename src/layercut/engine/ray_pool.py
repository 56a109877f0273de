"""RayPool: an engine that runs in many processes, each a Ray actor with its own copy of the model.

    pool = RayPool("local:2", build)                  # two processes of this machine
    pool = RayPool("ray://head:10001", build)         # one for each GPU of a cluster
    pool = RayPool("ray://head:10001?gpus=4", build)  # one for every four, over which its model is spread

A call is split into blocks of items and plans (``pool_blocks``); each free member takes the next block. ``wanted`` is
called before a block is sent and after a block returns, and cancelled plans stop where they run. If a member dies,
only its current block is lost, and another member repeats it. In float32 the answers equal those of one process; in
half precision they differ as with other batches, and with another number of members.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from layercut.text.counting import counted

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise MissingExtra("a pool of engines", "ray") from error

logger = logging.getLogger(__name__)
GROUP_BATCHES = 2
"""Batches of an engine that a group of items fills, so that answers of one may grow while another one's end."""
MOST_DEATHS = 3  # members that may die over one block, or for each place while they start, before the pool gives up
START_SECONDS = 900.0
"""Seconds that a pool without any living member waits for one, for example for a machine that is to come back."""
_CHECK_EVERY = 0.5  # seconds between checks of what is still wanted
_CONTROL = "control"
_RAY: Any = ray  # without its types


@dataclass(eq=False)
class _Member:
    """One actor and what it has in hand."""

    actor: Any
    pending: Any | None  # the unanswered request: a block, or to start
    block: Block | None = None
    pid: int | None = None  # once it is up


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
        self._members: list[_Member] = []
        self._metadata: MemberMetadata | None = None
        self._options: dict[str, Any] = {}
        self._owns_ray = False
        self._failed_starts = 0
        self.num_deaths = 0  # members that died so far

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
        self._ready()
        return [member.pid for member in self._members if member.pid is not None]

    def wait(self) -> None:
        """Until all members are up; work begins as soon as one is."""
        while len(self.pids) < len(self._members):
            self._collect()

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always
    ) -> Under[Any]:
        return self._run("ask", portable(requests), plans, (decoding,), wanted)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always
    ) -> Under[Divergence]:
        return self._run("compare", requests, plans, (reference,), wanted)

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        """See Engine; by one member, because the states are far larger than the texts. Another goes on where it dies.

        Raises:
            InputError: through ``ray://``, which has no streams.
        """
        if (self._where.address or "").startswith("ray://"):
            raise InputError(
                "hidden states cannot be sent through ray://; run layercut on a machine of the cluster, with "
                "`engine_pool` auto, or without a pool."
            )
        num_given = num_deaths = 0
        while True:
            self._ready()
            member = next(member for member in self._members if member.pid is not None)
            method = member.actor.hidden_states.options(num_returns="streaming", _generator_backpressure_num_objects=2)
            try:
                for number, batch in enumerate(method.remote(list(texts), plan)):
                    states = _result(batch)
                    if number == num_given:
                        yield states
                        num_given += 1
                return
            except RayError as error:
                num_deaths += 1
                if num_deaths >= MOST_DEATHS:
                    raise InputError(
                        f"{num_deaths} members of the pool died while computing hidden states ({_line(error)})."
                    ) from error
                if member in self._members:
                    self._replace(member, error)

    def close(self) -> None:
        for member in self._members:
            ray.kill(member.actor)
        self._members, self._metadata = [], None
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
        size = group_size(requests, len(by_key), len(self._members), most)
        queue = deque(blocks_of(item_groups(requests, size), plans, len(self._members), self._numbers))
        stored: dict[int, Any] = {}  # by group its requests, where all members can read them
        under_way: list[Block] = []
        try:
            while queue or under_way:
                self._ready()  # waits if all have died
                for member in [member for member in self._members if member.pid and member.pending is None]:
                    if (block := _next(queue, wanted)) is None:
                        break
                    if block.group not in stored:
                        stored[block.group] = ray.put(list(block.requests))
                    asked = block.asked(wanted)
                    block.plans = [plan for plan in block.plans if plan.key in asked]
                    call = EngineCall(block.number, method, tuple(block.plans), rest, asked)
                    member.block, member.pending = block, member.actor.answer.remote(call, stored[block.group])
                    under_way.append(block)
                self._collect()
                for block in [block for block in under_way if block.is_over]:
                    under_way.remove(block)
                    if block.error is not None:
                        raise block.error
                    if block.is_lost:
                        block.is_lost = False
                        queue.appendleft(block)
                    for key, answers in block.found or ():
                        if tokens := sum(getattr(answer, "num_new_tokens", 0) for answer in answers):
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
                if dropped := [plan.key for plan in block.plans if plan.key not in asked]:
                    member.actor.drop.options(concurrency_group=_CONTROL).remote(block.number, dropped)
                block.plans = [plan for plan in block.plans if plan.key in asked]

    def _ready(self) -> MemberMetadata:
        """Start the members if there are none, and wait until one is up.

        Raises:
            InputError: no cluster, one without space for them, or members that cannot build their engine.
        """
        if not self._members:
            self._members = [self._start() for _ in range(self._connect())]
        began = time.monotonic()
        while self._metadata is None or not any(member.pid for member in self._members):
            if time.monotonic() - began > START_SECONDS:
                raise InputError(
                    f"no member of the pool started within {START_SECONDS:.0f} s; check free CPUs and GPUs with `ray "
                    "status`."
                )
            self._collect()
        return self._metadata

    def _collect(self) -> None:
        """Wait a moment for members to finish what they have in hand, and write it into their blocks."""
        pending = [member.pending for member in self._members if member.pending is not None]
        ready = ray.wait(pending, num_returns=1, timeout=_CHECK_EVERY)[0] if pending else []
        for member in [member for member in self._members if member.pending in ready]:
            block = member.block
            try:
                result = _result(member.pending)
            except RayError as error:
                self._replace(member, error)
                continue
            except Exception as error:  # what the engine raised: it is raised to the caller
                member.pending = member.block = None
                if block is None:
                    raise
                block.error = error
                continue
            member.pending = member.block = None
            if block is None:
                self._started(member, result)
            else:
                block.found = result

    def _started(self, member: _Member, metadata: MemberMetadata) -> None:
        member.pid = metadata.pid
        self._failed_starts = 0
        self._metadata = self._metadata or metadata
        if metadata.description != self._metadata.description:
            raise InputError(
                f"members of the pool do not run the same model: {metadata.description} is not "
                f"{self._metadata.description}. Give every machine the same files, devices and versions."
            )

    def _replace(self, member: _Member, error: Exception) -> None:
        """A member died: its block is to be done again, and another one takes its place."""
        self.num_deaths += 1
        logger.warning("a member of the pool died (%s); another one is started", _line(error))
        ray.kill(member.actor)
        self._members[self._members.index(member)] = self._start()
        if member.pid is None:
            self._failed_starts += 1
            if self._failed_starts >= MOST_DEATHS * len(self._members):
                raise InputError(f"members of the pool die while they start ({_line(error)}); see Ray's logs.")
        if (block := member.block) is not None:
            block.deaths += 1
            block.is_lost = True
            if block.deaths >= MOST_DEATHS:
                block.error = InputError(
                    f"{block.deaths} members of the pool died on the same {counted(len(block.requests), 'request')} "
                    f"({_line(error)}); if memory ran out, use a smaller `batch_size` or fewer members on a machine."
                )

    def _start(self) -> _Member:
        actor = _RAY.remote(**self._options)(PoolWorker).remote(self._build)
        return _Member(actor, actor.metadata.remote())

    def _connect(self) -> int:
        """Join or start Ray, and find out what a member may use; the number of members."""
        where = self._where
        if not _RAY.is_initialized():
            how = {"address": where.address or "local", **({} if where.address else {"include_dashboard": False})}
            try:
                _RAY.init(**how, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray raises nearly anything here, bare Exceptions too
                place = where.address or "this machine"
                token = "; if it asks for a token (~/.ray/auth_token), set RAY_AUTH_MODE=token" if where.address else ""
                raise InputError(f"no Ray cluster answers at {place}: {_line(error)}{token}.") from error
            self._owns_ray = True
        resources: Mapping[str, float] = _RAY.cluster_resources()
        num_gpus, num_cpus = resources.get("GPU", 0.0), resources.get("CPU", 1.0)
        each = min(1.0, num_gpus) if where.gpus is None else where.gpus
        machines = sum(bool(node["Alive"]) for node in _RAY.nodes())
        num = where.members or (int(num_gpus // each) if each else machines)
        if num < 1 or num * each > num_gpus:
            raise InputError(
                f"{max(num, 1)} members with {each:g} GPUs each do not fit in a pool that has {num_gpus:g}; ask for "
                "fewer (local:N, ?members=M) or for fewer GPUs each (?gpus=K)."
            )
        # As many threads as cores; where there are more processes than cores they share them.
        cpus = min(1.0, num_cpus) if each else math.floor(num_cpus / num)
        self._options = {"num_cpus": cpus, "num_gpus": each, "max_restarts": 0, "concurrency_groups": {_CONTROL: 1}}
        return num


def _next(queue: deque[Block], wanted: Wanted) -> Block | None:
    """The next block of which something is wanted still."""
    while queue:
        block = queue.popleft()
        if block.asked(wanted):
            return block
    return None


def _result(reference: Any) -> Any:
    """The result, or what was raised in the member as if it had been raised here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else RuntimeError(str(error))) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
