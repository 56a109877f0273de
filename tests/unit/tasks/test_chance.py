"""Chance is that of the whole split, whatever the limit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from layercut.engine.base import GenerationRequest
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Task
from layercut.tasks.evaluate import evaluate
from tests.support.fake_engine import FakeEngine

UNCUT = CutPlan(num_layers=4)


def of_constant_answer(task: Task) -> float:
    samples = task.samples("report", None)
    return Counter(sample.gold for sample in samples).most_common(1)[0][1] / len(samples)


def answers(request: GenerationRequest, plan: CutPlan) -> str:
    return " 7\n"


@pytest.mark.parametrize("limit", [2, 4, 16, 100, None])
@pytest.mark.parametrize("readout", ["short", "rank"])
def test_a_limit_does_not_move_the_chance_of_a_built_in_task(limit: int | None, readout: str) -> None:
    task = load_task("arithmetic")
    engine = FakeEngine(texts=answers, scores=lambda request, plan: [-1.0] * len(request.continuations))
    (row,) = evaluate(task, engine, UNCUT, readout=readout, limit=limit).metrics
    expected = of_constant_answer(task) if readout == "short" else 0.25
    assert row["chance"] == expected and row["version"] == task.version
    assert of_constant_answer(task) < 0.04


def test_a_limit_does_not_move_the_chance_of_a_data_file(tmp_path: Path) -> None:
    golds = [3, 3, *range(100, 138)]
    rows = [{"question": f"Question {i}?", "answer": f"So.\n#### {gold}"} for i, gold in enumerate(golds)]
    for name in ("train", "test"):
        text = "".join(json.dumps({**row, "question": f"{name} {row['question']}"}) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    task = load_task("gsm8k", data=str(tmp_path))
    engine = FakeEngine(texts=answers)
    for row in evaluate(task, engine, UNCUT, readout="chain", limit=2).metrics:
        assert row["chance"] == 2 / 40


def test_gold_has_no_chance() -> None:
    assert load_task("chain_sum").split_chance("report", "gold") == {}
