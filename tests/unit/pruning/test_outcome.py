"""What answers took, against sums by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layercut.pruning.outcome import task_costs
from layercut.pruning.speed import RequestTime
from layercut.runs.directory import RunFolder
from layercut.surgery.plan import CutPlan


def write_evaluation(folder: Path, found: list[dict[str, Any]]) -> RunFolder:
    """A finished run of one task with these records."""
    row = {"task": "sums", "version": 1, "readout": "short", "metric": "exact", "value": 0.5, "low": 0.4, "high": 0.6,
           "n": len(found), "chance": 0.0, "outcomes": {}, "limit": None}  # fmt: skip
    with RunFolder.begin(folder, {"model": "tiny"}) as run:
        with run.journal("sums", "short") as journal:
            journal.append(found)
        run.write_metrics([row], plan=CutPlan(num_layers=4).to_dict())
    return RunFolder.open(folder)


def records(values: list[int], tokens: list[int]) -> list[dict[str, Any]]:
    return [
        {"id": f"i{number}", "gold": "1", "metrics": {"exact": float(value)}, "outcome": "right" if value else "wrong",
         "completion": "x", "num_prompt_tokens": 10, "num_new_tokens": new}
        for number, (value, new) in enumerate(zip(values, tokens, strict=True))
    ]  # fmt: skip


@pytest.fixture
def both(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    rng = np.random.default_rng(0)
    before = records([1] * 30 + [0] * 10, [int(one) for one in rng.integers(20, 40, 40)])
    after = records([1] * 20 + [0] * 20, [int(one) for one in rng.integers(30, 80, 40)])
    return write_evaluation(tmp_path / "uncut", before), write_evaluation(tmp_path / "cut", after)


def test_seconds_of_a_solved_request_are_those_of_all_by_the_solved_ones(both: tuple[RunFolder, RunFolder]) -> None:
    times = RequestTime(0.01, 0.1), RequestTime(0.008, 0.07)
    (cost,) = task_costs(*both, times, seed=0)
    seconds = [
        [time.read * 10 + time.written * (one["num_new_tokens"] - 1) for one in run.records("sums", "short")]
        for run, time in zip(both, times, strict=True)
    ]
    assert cost.seconds.uncut.value == pytest.approx(np.mean(seconds[0]))
    assert cost.seconds.this.value == pytest.approx(np.mean(seconds[1]))
    assert cost.per_solved is not None
    assert cost.per_solved.uncut.value == pytest.approx(sum(seconds[0]) / 30)
    assert cost.per_solved.this.value == pytest.approx(sum(seconds[1]) / 20)
    assert cost.per_solved.ratio.value == pytest.approx(sum(seconds[1]) / 20 / (sum(seconds[0]) / 30))
    for one in (cost.tokens, cost.seconds, cost.per_solved):
        for part in (one.uncut, one.this, one.ratio):
            assert part.low is not None and part.high is not None and part.low < part.value < part.high
            assert part.n == 40
    assert task_costs(*both, times, seed=0) == (cost,), "the same seed gives the same interval"


def test_nothing_solved_costs_without_end(tmp_path: Path, both: tuple[RunFolder, RunFolder]) -> None:
    none = write_evaluation(tmp_path / "none", records([0] * 40, [30] * 40))
    (cost,) = task_costs(both[0], none, (RequestTime(0.01, 0.1), RequestTime(0.01, 0.1)), seed=0)
    assert cost.per_solved is None and cost.tokens.this.value == 30


def test_ranked_options_have_no_such_costs(tmp_path: Path) -> None:
    ranked = [{name: one[name] for name in ("id", "gold", "metrics", "outcome")} for one in records([1] * 9, [1] * 9)]
    runs = [write_evaluation(tmp_path / name, ranked) for name in ("a", "b")]
    assert task_costs(runs[0], runs[1], (RequestTime(0, 1), RequestTime(0, 1)), seed=0) == ()


def test_the_interval_of_a_mean_is_that_of_student(tmp_path: Path) -> None:
    """Tokens of many items: the Bayesian bootstrap and mean +- t * s / sqrt(n) agree."""
    tokens = [int(one) for one in np.random.default_rng(1).integers(10, 100, 400)]
    runs = [write_evaluation(tmp_path / name, records([1] * 400, tokens)) for name in ("a", "b")]
    (cost,) = task_costs(runs[0], runs[1], (RequestTime(0.0, 1.0), RequestTime(0.0, 1.0)), seed=3)
    half = 1.97 * np.std(tokens, ddof=1) / 20
    assert cost.tokens.this.low == pytest.approx(np.mean(tokens) - half, rel=0.01)
    assert cost.tokens.this.high == pytest.approx(np.mean(tokens) + half, rel=0.01)
