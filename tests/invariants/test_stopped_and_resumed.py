"""Stopped behind any item and resumed = run through, bit by bit: text, tokens and log-likelihoods."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layercut.engine.base import Decoding, Engine
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.runs.records import Journal
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.evaluate import evaluate
from tests.support.loaded import tiny_loaded

NUM_ITEMS = 11
ENGINES = {"plain": PlainEngine, "shared": SharedEngine}
CUT = CutPlan(num_layers=6, removed=(2, 3))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("readout", ["rank", "gold", "short"])
@pytest.mark.parametrize("kind", ENGINES)
def test_stopped_behind_any_item(tmp_path: Path, kind: str, readout: str, dtype: str) -> None:
    loaded = tiny_loaded("llama")
    loaded.model.to(getattr(torch, dtype))

    def run(path: Path) -> list[str]:
        engine: Engine = ENGINES[kind](loaded, batch_size=3)  # a new process has empty caches
        with Journal(path) as journal:
            evaluate(
                load_task("arithmetic", seed=1),
                engine,
                CUT,
                readout=readout,
                limit=NUM_ITEMS,
                decoding=Decoding(),
                journal=journal,
            )
        return path.read_text().splitlines()

    whole = run(tmp_path / "whole.jsonl")
    assert len(whole) == NUM_ITEMS
    for stopped in range(1, NUM_ITEMS):
        path = tmp_path / f"stopped-{stopped}.jsonl"
        path.write_text("\n".join(whole[:stopped]) + "\n" + whole[stopped][:20])
        assert sorted(run(path)) == sorted(whole), f"stopped behind item {stopped}"
