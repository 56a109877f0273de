"""RayPool: an engine that runs in many processes, each with its own copy of the model.

A call is split into blocks of items and plans, and each free member takes the next one of what is still wanted. Ray
starts a member that died again and repeats its block. In float32 the answers equal those of one process.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

from layercut.engine.base import (
    GREEDY,
    Decoding,
    Divergence,
    Engine,
    LikelihoodRequest,
    Plans,
    Request,
    Under,
    Wanted,
    always_wanted,
    distinct_plans,
)
from layercut.errors import InputError, MissingExtra, one_line
from layercut.progress.activity import report_tokens
from layercut.settings import PoolAddress
from layercut.surgery.plan import CutPlan

BLOCKS_PER_MEMBER = 2  # of the same items: fast members take over from slow ones; more would share less between plans
FEWEST = 8  # items of a block that are not divided any more: a step with fewer takes as long
MOST_DEATHS = 3  # members that may die over one block, or while they start, before the pool gives up
START_SECONDS = 900.0  # until all members have to be up, for example those of a machine that is to come back


def split_in_blocks(
    requests: Sequence[Any], plans: Plans, num_members: int, most: int
) -> list[tuple[list[Any], Plans]]:
    """Blocks of at most ``most`` items, the longest first: all plans on the first, then all on the next, so that a race
    ends everywhere at once. Requests with one id stay together, and plans that are neighbours: they share most layers.
    """
    by_id: dict[str, list[Any]] = {}
    for request in requests:
        by_id.setdefault(request.id, []).append(request)
    plans = distinct_plans(plans)

    def length(request: Any) -> int:  # characters to be read, and tokens to be written, about
        return len(str(request.prompt)) + int(getattr(request, "max_new_tokens", 0))

    size = min(most, max(FEWEST, math.ceil(len(by_id) * len(plans) / num_members)))
    longest = sorted(by_id, key=lambda name: (-max(map(length, by_id[name])), name))
    groups = [
        [request for name in longest[start : start + size] for request in by_id[name]]
        for start in range(0, len(longest), size)
    ]
    num_parts = min(len(plans), max(1, math.ceil(BLOCKS_PER_MEMBER * num_members / max(1, len(groups)))))
    ends = [part * len(plans) // num_parts for part in range(num_parts + 1)] if plans else []
    return [(group, plans[start:end]) for group in groups for start, end in pairwise(ends)]


class PoolWorker:
    """Runs in a process of its own. The engine is built by the first call, so that its errors are raised as such."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._engine = cache(build)

    def describe(self) -> tuple[dict[str, Any], int]:
        engine = self._engine()
        return dict(engine.describe()), engine.num_layers

    def answer(
        self, method: str, requests: Sequence[Any], plans: Plans, rest: Any, ids: Mapping[str, Collection[str]]
    ) -> list[tuple[str, list[Any]]]:
        """Plan keys with answers to the ``ids``, which are by plan key; ``rest`` is the method's third argument."""
        replies = getattr(self._engine(), method)(requests, plans, rest, lambda plan, name: name in ids[plan.key])
        return [(plan.key, list(some)) for plan, some in replies]


class RayPool(Engine):
    """Engine over many processes. Nothing is started before the first question."""

    shares_work = True
    gives_not = "a pool of engines does not give"

    def __init__(self, where: str, build: Callable[[], Engine]) -> None:
        """``build`` is called in each member, so it must travel there: a function of a module, or a partial of one."""
        try:
            import ray
            import ray.exceptions
            import ray.util
        except ImportError as error:
            raise MissingExtra("a pool of engines", "ray") from error
        self._ray: Any = ray
        self._where, self._build = PoolAddress.parse(where), build
        self._actors: list[Any] = []

    @property
    def num_layers(self) -> int:
        return self._member[1]

    def describe(self) -> Mapping[str, Any]:
        return self._member[0]

    def ask(
        self, requests: Sequence[Request], plans: Plans, decoding: Decoding = GREEDY, wanted: Wanted = always_wanted
    ) -> Under[Any]:
        return self._run("ask", requests, plans, decoding, wanted)

    def compare(
        self, requests: Sequence[LikelihoodRequest], plans: Plans, reference: CutPlan, wanted: Wanted = always_wanted
    ) -> Under[Divergence]:
        return self._run("compare", requests, plans, reference, wanted)

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
        self.__dict__.pop("_member", None)

    def _run(self, method: str, requests: Sequence[Any], plans: Plans, rest: Any, wanted: Wanted) -> Under[Any]:
        most = int(self.describe().get("batch_size", 32))  # starts the members
        work = deque(split_in_blocks(requests, plans, len(self._actors), most))
        pool, by_key = self._ray.util.ActorPool(self._actors), {plan.key: plan for plan in plans}
        while work or pool.has_next():
            while work and pool.has_free():
                block, of_plans = work.popleft()
                ids = {plan.key: {part.id for part in block if wanted(plan, part.id)} for plan in of_plans}
                if left := [plan for plan in of_plans if ids[plan.key]]:
                    call = (method, block, left, rest, ids)
                    pool.submit(lambda actor, call: actor.answer.remote(*call), call)
            if pool.has_next():
                for key, answers in self._result(pool.get_next_unordered, over="on the same items"):
                    # Members write elsewhere: their tokens are heard of with their answers.
                    report_tokens(sum(getattr(answer, "num_new_tokens", 0) for answer in answers))
                    yield by_key[key], answers

    @cached_property
    def _member(self) -> tuple[dict[str, Any], int]:
        """Start the members, and say what all of them are once they are up; see ``PoolWorker.describe``."""
        number, options = self._connect()
        worker = self._ray.remote(**options)(PoolWorker)
        self._actors = [worker.remote(self._build) for _ in range(number)]
        starting = [actor.describe.remote() for actor in self._actors]
        first, *others = self._result(self._ray.get, starting, timeout=START_SECONDS, over="while they start")
        if other := next((other[0] for other in others if other[0] != first[0]), None):
            raise InputError(
                f"members of the pool do not run the same model: {other} is not {first[0]}. Give every machine the "
                "same files, devices and versions."
            )
        return first  # type: ignore[no-any-return]

    def _connect(self) -> tuple[int, dict[str, Any]]:
        """Join or start Ray; the number of members, and the options of an actor: what it may use."""
        where, ray = self._where, self._ray
        if not ray.is_initialized():
            how = {"address": where.address} if where.address else {"address": "local", "include_dashboard": False}
            try:
                ray.init(**how, log_to_driver=False, logging_level=logging.ERROR)
            except Exception as error:  # Ray raises nearly anything here, bare Exceptions too
                raise InputError(
                    f"no Ray cluster answers at {where.address or 'this machine'}: {one_line(error)}."
                ) from error
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
        return num, {"num_cpus": cpus, "num_gpus": each, **again}

    def _result(self, get: Callable[..., Any], *what: Any, over: str, **how: Any) -> Any:
        """The result, or what was raised in the member as if raised here; ``over``: what members died over."""
        try:
            return get(*what, **how)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else RuntimeError(str(error))) from error
        except self._ray.exceptions.RayError as error:
            raise InputError(
                f"members of the pool died {MOST_DEATHS} times, or did not answer, {over} ({one_line(error)}). Check "
                "free CPUs and GPUs with `ray status`; if memory ran out, use a smaller `batch_size` or fewer members."
            ) from error
