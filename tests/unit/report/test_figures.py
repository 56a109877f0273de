"""Figures of scores: every number in them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from layercut.evidence.comparison import compare_runs
from layercut.evidence.study import study_results
from layercut.report.charts import draw_picture
from layercut.report.elements import Figure
from layercut.report.retention import retention_figure
from layercut.runs.directory import RunFolder
from tests.support.run_builder import Result, build_run


def figure_of(runs: tuple[RunFolder, list[RunFolder]]) -> Figure:
    figure = retention_figure(runs[1], compare_runs(*runs))
    assert figure is not None
    return figure


def test_with_little_address_space_there_is_no_picture_and_one_line(quickstart, tmp_path: Path) -> None:
    """V8 would end the process."""
    figure = replace(figure_of(quickstart), table=None)
    (tmp_path / "figure.pickle").write_bytes(pickle.dumps(figure))
    code = f"""
import logging, pathlib, pickle, resource
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_AS, (10 * 2**30,) * 2)
from layercut.report.charts import draw_picture
figure = pickle.loads(pathlib.Path({str(tmp_path / "figure.pickle")!r}).read_bytes())
first, second, *_ = figure.panels
print(draw_picture(first, "a"), draw_picture(second, "b"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[] []\n"), done.stderr
    assert done.stderr.count("\n") == 1 and "no pictures" in done.stderr


def test_every_plan_has_its_point_and_interval(quickstart) -> None:
    every = compare_runs(*quickstart)
    rows = [row for row in every if row.is_headline and row.kept_share and not row.uncut_is_at_chance]
    values = [panel.spec["data"]["values"] for panel in figure_of(quickstart).panels]
    shown = [point for panel in values for point in panel if point["y"] != 100 or point["low"] != 100]
    assert sorted(point["y"] for point in shown) == pytest.approx(
        sorted(100 * row.kept_share.value for row in rows if row.kept_share), abs=0.01
    )
    assert all(point["low"] is not None for point in shown)


def test_extremes_widen_the_scale(extreme) -> None:
    figure = figure_of(extreme)
    for panel in figure.panels:
        low, high = panel.spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
        assert all(low <= point["y"] <= high for point in panel.spec["data"]["values"])
        assert draw_picture(panel, "a")


def test_nothing_to_draw_is_no_figure() -> None:
    assert retention_figure([], []) is None


def test_no_two_lines_look_the_same(tmp_path: Path) -> None:
    result = [Result(task="copy", readout="short", score=0.8)]
    build_run(tmp_path / "uncut", result)
    for letter in "abcdefghi":
        build_run(tmp_path / letter, result, removed=(3,), criterion=letter)
    study = study_results(tmp_path)
    figure = retention_figure(study.cuts, study.rows)
    assert figure is not None and len(figure.legend) == 9
    assert len({(key.colour, key.dash) for key in figure.legend}) == 9


@pytest.mark.parametrize("readouts", [("short",), ("rank",), ("rank", "short")])
def test_retention_has_a_panel_for_what_was_measured_and_no_empty_half(
    readouts: tuple[str, ...], tmp_path: Path
) -> None:
    for name, removed, score in (("uncut", (), 0.9), ("depth-1", (3,), 0.8)):
        build_run(tmp_path / name, [Result(task="copy", readout=one, score=score) for one in readouts], removed=removed)
    study = study_results(tmp_path)
    figure = retention_figure(study.cuts, study.rows)
    assert figure is not None and len(figure.panels) == figure.columns == len(readouts)
    assert ("Left:" in figure.caption) is ("Right:" in figure.caption) is (len(readouts) == 2)
    assert [panel.column for panel in figure.panels] == ([0] if len(readouts) == 1 else [1, 2])
