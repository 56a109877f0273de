"""Several seeds of one plan, taken together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.evidence.comparison import compare_runs
from layercut.evidence.study import rows_over_seeds
from layercut.report.reports import write_reports
from layercut.runs.directory import METRICS, RunFolder
from tests.support.run_builder import Result, build_run


def run(path: Path, score: float, seed: int | None = None) -> RunFolder:
    removed = () if seed is None else (27 - seed,)
    built = build_run(path, [Result(task="copy", readout="short", score=score, n=200)], removed=removed, limit=200)
    if seed is not None:
        metrics = json.loads((path / METRICS).read_text())
        metrics["arm"] = {"plan": "random-1", "criterion": "random", "depth": 1, "healing": None, "seed": seed}
        (path / METRICS).write_text(json.dumps(metrics))
    return RunFolder.open(built.path)


def test_an_items_seeds_count_as_one_item(tmp_path: Path) -> None:
    uncut = run(tmp_path / "uncut", 0.9)
    cuts = [run(tmp_path / f"random-1-seed{seed}", score, seed) for seed, score in enumerate((0.7, 0.6, 0.5))]
    rows = compare_runs(uncut, cuts)
    (found,) = rows_over_seeds(cuts, rows)
    scores = [row.values.cut.value for row in rows]
    assert found.values.cut.value == pytest.approx(sum(scores) / 3)
    assert found.values.difference.value == pytest.approx(sum(row.values.difference.value for row in rows) / 3)
    assert found.values.num_clusters == 200
    # Three answers to each item tell less than answers to 600 items would.
    width = found.values.difference.high - found.values.difference.low  # type: ignore[operator]
    alone = [row.values.difference.high - row.values.difference.low for row in rows]  # type: ignore[operator]
    assert min(alone) / 3**0.5 * 1.15 < width < max(alone)
    text = write_reports(tmp_path)["report"].read_text()
    section = text.split("## All seeds together")[1].split("\n## ")[0]
    line = [cell.strip() for cell in section.strip().splitlines()[-1].strip("|").split("|")]
    assert line[:5] == ["random-1", "copy", "short", "3", "200"]
    assert line[7:9] == [f"{100 * min(scores):.1f}", f"{100 * max(scores):.1f}"]


def test_one_seed_of_each_plan_has_no_such_section(tmp_path: Path) -> None:
    uncut, cuts = run(tmp_path / "uncut", 0.9), [run(tmp_path / "random-1", 0.7, 0)]
    assert rows_over_seeds(cuts, compare_runs(uncut, cuts)) == []
    assert "All seeds" not in write_reports(tmp_path)["report"].read_text()
