"""PoolWorker: one member of a pool. It has its own engine, answers blocks, and drops cancelled plans."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from layercut.engine.base import Engine, HiddenStates
from layercut.surgery.plan import CutPlan


class MemberMetadata(NamedTuple):
    """Properties of a member that a pool needs."""

    num_layers: int
    has_chat_template: bool
    description: dict[str, Any]  # settings that decide its numbers; the same for all members
    pid: int


class EngineCall(NamedTuple):
    """One question on some requests and plans."""

    number: int  # number of the block, by which plans are dropped
    method: str  # ``ask`` or ``compare``
    plans: tuple[CutPlan, ...]
    rest: tuple[Any, ...]  # arguments between plans and wanted: the decoding, or the reference plan
    asked: Mapping[str, frozenset[str]]  # plan key to the ids of the requests that it is to answer


class PoolWorker:
    """Runs in a process of its own. The engine is built by the first call, so that its errors are raised as such."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._engine: Engine | None = None
        self._dropped: set[tuple[int, str]] = set()

    @property
    def engine(self) -> Engine:
        """The engine, over a model of this process's own."""
        if self._engine is None:
            self._engine = self._build()
        return self._engine

    def metadata(self) -> MemberMetadata:
        engine = self.engine
        return MemberMetadata(engine.num_layers, engine.has_chat_template, dict(engine.describe()), os.getpid())

    def answer(self, call: EngineCall, requests: Sequence[Any]) -> list[tuple[str, list[Any]]]:
        """Plan keys and answers, as far as they are asked and not dropped meanwhile."""

        def wanted(plan: CutPlan, request_id: str) -> bool:
            return (call.number, plan.key) not in self._dropped and request_id in call.asked[plan.key]

        found = getattr(self.engine, call.method)(requests, call.plans, *call.rest, wanted)
        answers = [(plan.key, answers) for plan, answers in found]
        self._dropped = {(number, key) for number, key in self._dropped if number > call.number}
        return answers

    def drop(self, number: int, keys: Sequence[str]) -> None:
        """Leave plans of a block that is under way, or will be; called beside ``answer``, from another thread."""
        self._dropped |= {(number, key) for key in keys}

    def hidden_states(self, texts: Sequence[str], plan: CutPlan) -> Iterator[HiddenStates]:
        yield from self.engine.hidden_states(texts, plan)
