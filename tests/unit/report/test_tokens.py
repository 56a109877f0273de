"""The curves of trainings that were measured at marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from layercut.evidence.study import study_results
from layercut.report.retention import retention_figure, tokens_figure
from layercut.runs.directory import METRICS
from layercut.runs.notes import Notes
from tests.support.run_builder import Result, build_run

PLANS = {"three": (1, 2, 3), "seven": (1, 2, 3, 4, 5, 6, 7)}
ARMS: dict[str, dict[str, Any]] = {
    "": {},
    "seam": {"healing": "seam", "healed": {"seam_map": "linear"}},
    "kl": {"healing": "kl", "start": "+seam", "healed": {"answer_tokens": 73_590}},
    "kl@10000": {"healing": "kl@10000", "start": "+seam", "healed": {"answer_tokens": 73_590, "mark": 10_000}},
    "once": {"healing": "once", "start": "", "healed": {"answer_tokens": 4000}},
}


def write(folder: Path) -> Path:
    build_run(folder / "uncut", [Result(task="gsm8k", readout="chain", score=0.8, chance=0.0)])
    arms = [{"name": "uncut"}]
    for plan, removed in PLANS.items():
        for place, (arm, about) in enumerate(ARMS.items()):
            name = f"{plan}+{arm}" if arm else plan
            score = 0.1 * place + (0.2 if plan == "three" else 0.1)
            build_run(folder / name, [Result(task="gsm8k", readout="chain", score=score, chance=0.0)], removed=removed)
            file = folder / name / METRICS
            entry = {"plan": plan, "healing": None, "seed": 0, **about}
            if "start" in entry:
                entry["start"] = plan + entry["start"]
            file.write_text(json.dumps({**json.loads(file.read_text()), "arm": entry}))
            arms.append({"name": name})
    Notes(folder).put("arms", arms)
    return folder


def test_a_line_for_each_training_from_the_model_that_it_began_with(tmp_path: Path) -> None:
    found = study_results(write(tmp_path))
    figure = tokens_figure(found.cuts, found.rows)
    assert figure is not None and [key.label for key in figure.legend] == ["three+kl", "seven+kl"]
    (panel,) = figure.panels
    assert panel.spec is not None
    points = panel.spec["data"]["values"]
    shares = {row.cut.name: row.kept_share for row in found.rows}
    for plan in PLANS:
        mine = [point for point in points if point["series"] == f"{plan}+kl"]
        assert [point["x"] for point in mine] == [0, 10, 73.59]
        runs = (f"{plan}+seam", f"{plan}+kl@10000", f"{plan}+kl")
        assert [point["y"] for point in mine] == [round(100 * shares[run].value, 2) for run in runs]  # type: ignore[union-attr]
    assert figure.table is not None
    column = next(one for one in figure.table.columns if one.name == "answer tokens")
    assert [column.value(row) for row in figure.table.rows] == ["0", "73,590", "10,000"] * 2
    assert "n 64 in each panel, seed 0" in figure.caption


def test_marks_are_no_lines_over_depth_and_a_training_without_marks_is_no_curve(tmp_path: Path) -> None:
    found = study_results(write(tmp_path))
    depths = retention_figure(found.cuts, found.rows)
    assert depths is not None and not any("@" in key.label for key in depths.legend)
    assert any("once" in key.label for key in depths.legend)
    unmarked = [run for run in found.cuts if "@" not in run.name]
    assert tokens_figure(unmarked, [row for row in found.rows if "@" not in row.cut.name]) is None
