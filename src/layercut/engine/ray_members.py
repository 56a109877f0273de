"""The members of a pool as Ray actors: start them, send them work, collect results, replace dead ones."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layercut.engine.base import Engine, HiddenStates
from layercut.engine.pool_blocks import Block
from layercut.engine.pool_worker import EngineCall, MemberMetadata, PoolWorker
from layercut.errors import InputError, MissingExtra
from layercut.settings import PoolAddress
from layercut.surgery.plan import CutPlan
from layercut.text.counting import counted

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise MissingExtra("a pool of engines", "ray") from error

logger = logging.getLogger(__name__)
MOST_DEATHS = 3  # members that may die over one block, or for each place while they start, before the pool gives up
START_SECONDS = 900.0
"""Seconds that a pool without any living member waits for one, for example for a machine that is to come back."""
_CHECK_EVERY = 0.5  # seconds between checks of what is still wanted
_CONTROL = "control"


@dataclass(eq=False)
class Member:
    """One actor and what it has in hand."""

    actor: Any
    pending: Any | None  # the unanswered request: a block, or to start
    block: Block | None = None
    pid: int | None = None  # once it is up

    @property
    def is_free(self) -> bool:
        """True if it is up and has nothing in hand."""
        return self.pid is not None and self.pending is None


class Members:
    """All members of one pool. Nothing is started before ``ready``."""

    def __init__(self, where: PoolAddress, build: Callable[[], Engine]) -> None:
        self._where = where
        self._build = build
        self._members: list[Member] = []
        self._metadata: MemberMetadata | None = None
        self._options: dict[str, Any] = {}
        self._owns_ray = False
        self._failed_starts = 0
        self.deaths = 0  # members that died so far

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members))

    def __len__(self) -> int:
        return len(self._members)

    def ready(self) -> MemberMetadata:
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
            self.collect()
        return self._metadata

    def give(self, member: Member, block: Block, call: EngineCall, requests: Any) -> None:
        """Hand a block to a member; ``requests`` is what ``keep`` gave."""
        member.block, member.pending = block, member.actor.answer.remote(call, requests)

    @staticmethod
    def keep(requests: Sequence[Any]) -> Any:
        """Put requests where all members can read them."""
        return ray.put(list(requests))

    @staticmethod
    def drop(member: Member, plans: Sequence[CutPlan]) -> None:
        """Plans of the block that a member has in hand are not wanted any more."""
        if member.block is not None and plans:
            keys = [plan.key for plan in plans]
            member.actor.drop.options(concurrency_group=_CONTROL).remote(member.block.number, keys)

    def collect(self) -> None:
        """Wait a moment for members to finish what they have in hand, and write it into their blocks."""
        pending = [member.pending for member in self._members if member.pending is not None]
        ready = ray.wait(pending, num_returns=1, timeout=_CHECK_EVERY)[0] if pending else []
        for member in [member for member in self._members if member.pending in ready]:
            block = member.block
            try:
                found = _got(member.pending)
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
                self._started(member, found)
            else:
                block.found = found

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        """Hidden states from one member, a batch at a time; another one goes on where it dies.

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
            self.ready()
            member = next(member for member in self._members if member.pid is not None)
            method = member.actor.hidden_states.options(num_returns="streaming", _generator_backpressure_num_objects=2)
            try:
                for number, batch in enumerate(method.remote(list(texts), plan)):
                    states = _got(batch)
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

    def _started(self, member: Member, metadata: MemberMetadata) -> None:
        member.pid = metadata.pid
        self._failed_starts = 0
        self._metadata = self._metadata or metadata
        if metadata.description != self._metadata.description:
            raise InputError(
                f"members of the pool do not run the same model: {metadata.description} is not "
                f"{self._metadata.description}. Give every machine the same files, devices and versions."
            )

    def _replace(self, member: Member, error: Exception) -> None:
        """A member died: its block is to be done again, and another one takes its place."""
        self.deaths += 1
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

    def _start(self) -> Member:
        actor_class: Any = _untyped(ray).remote(**self._options)(PoolWorker)
        actor = actor_class.remote(self._build)
        return Member(actor, actor.metadata.remote())

    def _connect(self) -> int:
        """Join or start Ray, and find out what a member may use; the number of members."""
        where, api = self._where, _untyped(ray)
        if not api.is_initialized():
            how = {"address": where.address or "local", **({} if where.address else {"include_dashboard": False})}
            try:
                api.init(**how, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray raises nearly anything here, bare Exceptions too
                place = where.address or "this machine"
                asked = "; if it asks for a token (~/.ray/auth_token), set RAY_AUTH_MODE=token" if where.address else ""
                raise InputError(f"no Ray cluster answers at {place}: {_line(error)}{asked}.") from error
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
        self._options = {"num_cpus": cpus, "num_gpus": each, "max_restarts": 0, "concurrency_groups": {_CONTROL: 1}}
        return num


def _got(reference: Any) -> Any:
    """The result, or what was raised in the member as if it had been raised here."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, Exception) else RuntimeError(str(error))) from error


def _untyped(module: Any) -> Any:
    return module


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(". ")
