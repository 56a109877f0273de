"""A search by a pool of two processes on SmolLM2 finds what one process finds, also when a member is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from layercut.engine.base import Engine
from layercut.engine.handle import ModelHandle
from layercut.selection.answers import ObjectiveTask
from layercut.selection.base import Context
from layercut.selection.objective import TaskObjective
from layercut.selection.task_criteria import task_accuracy
from layercut.settings import ModelSettings
from layercut.tasks import load_task
from tests.support.pool_engine import processes

pytest.importorskip("ray", reason="needs the extra [ray]")
pytestmark = pytest.mark.slow

MODEL = ModelSettings(model="bundled:smollm2-135m", dtype="float32", device="cpu")
ALL_BUT_FOUR = frozenset(range(30)) - {9, 17, 22, 27}


def search(engine: Engine, progress: Callable[[str, int, int], None] = lambda what, done, total: None) -> Any:
    """Four candidates, then three."""
    parts = [ObjectiveTask(task=load_task(name), readout="short", limit=24) for name in ("arithmetic", "copy")]
    objective = TaskObjective(engine, parts, progress=progress)
    return task_accuracy(Context(num_layers=engine.num_layers, num_remove=2, protect=ALL_BUT_FOUR, objective=objective))


def test_a_pool_finds_what_one_process_finds() -> None:
    from layercut.engine.ray_pool import RayPool

    alone = search(ModelHandle(MODEL).engine)
    pooled = ModelSettings(model=MODEL.model, dtype="float32", device="cpu", engine_pool="local:2")
    pool = ModelHandle(pooled).engine
    assert isinstance(pool, RayPool)
    with closing(pool):
        assert search(pool) == alone
        killed: list[int] = []

        def kill(what: str, done: int, total: int) -> None:
            if done > 60 and not killed:
                killed.append(processes(pool)[0])
                os.kill(killed[0], signal.SIGKILL)

        assert search(pool, kill) == alone
        assert killed and killed[0] not in processes(pool)
