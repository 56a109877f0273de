"""Engines that the members of a pool build for themselves, and what they answer."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from layercut.engine.base import GenerationRequest
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from tests.support.fake_engine import FakeEngine

ASKED = "asked.txt"


def text_of(request: GenerationRequest, plan: CutPlan) -> str:
    return f"{request.id} {plan.key}"


def slow_engine(folder: Path, seconds: float) -> FakeEngine:
    """Takes its time over every answer, and writes down (process, plan, request) before it gives it.

    It dies over a request called ``poison``, and refuses one called ``wrong``.
    """

    def answer(request: GenerationRequest, plan: CutPlan) -> str:
        with (folder / ASKED).open("a") as file:
            file.write(f"{os.getpid()} {plan.key} {request.id}\n")
        time.sleep(seconds)
        if request.id == "poison":
            os._exit(1)
        if request.id == "wrong":
            raise InputError("the request 'wrong' is wrong.")
        return text_of(request, plan)

    return FakeEngine(texts=answer, num_layers=6, batch_size=4)


def asked(folder: Path) -> list[tuple[int, str, str]]:
    """What all processes were asked so far."""
    lines = (folder / ASKED).read_text().splitlines() if (folder / ASKED).exists() else []
    return [(int(pid), key, name) for pid, key, name in (line.split(" ") for line in lines)]


def forget(folder: Path) -> None:
    """Nothing was asked."""
    (folder / ASKED).unlink(missing_ok=True)


def tiny_shared_engine() -> SharedEngine:
    """Over a random model that is the same in every process."""
    from tests.support.loaded import tiny_loaded

    return SharedEngine(tiny_loaded("llama"), batch_size=4)


def no_engine() -> Any:
    raise InputError("this machine has no such model; give a path that all machines see.")


def flat(found: Iterator[tuple[CutPlan, Sequence[Any]]]) -> dict[tuple[str, str], Any]:
    """Answers by plan key and request; each must have come once."""
    answers: dict[tuple[str, str], Any] = {}
    for plan, some in found:
        for answer in some:
            assert (plan.key, answer.id) not in answers
            answers[plan.key, answer.id] = answer
    return answers


def processes(pool: Any) -> list[int]:
    """Of a pool's members, between two blocks."""
    import ray

    return ray.get([actor.__ray_call__.remote(lambda _: os.getpid()) for actor in pool._actors])
