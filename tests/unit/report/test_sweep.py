"""Tables and figures of a sweep, and figures of the retention: every number in them."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.comparison import compare_runs
from layercut.evidence.study import study_results
from layercut.evidence.sweep import Sweep
from layercut.report.charts import draw_picture
from layercut.report.reports import write_reports
from layercut.report.retention import retention_figure
from layercut.report.sweep import layers_figure, sweep_findings, sweep_tables
from layercut.runs.directory import SWEEP, RunFolder
from layercut.text import format_layers
from tests.support.pages import HOLES, curve, printed, sweep_of
from tests.support.run_builder import Result, build_run


@pytest.fixture(scope="module")
def holes() -> Sweep:
    """Three tasks over 30 layers: holes and a flat line, a refusal, and no chance level."""
    return sweep_of(
        curve("gsm_symbolic", "rank", [100] * 30, uncut=0.8, chance=0.25),
        curve("gsm_symbolic", "short", HOLES),
        curve("brackets", "rank", [100] * 30, uncut=0.26, chance=0.25),
        curve("copy", "short", HOLES[::-1], chance=None),
    )


def drawn(sweep: Sweep) -> dict[str, list[dict[str, Any]]]:
    """The points of every panel, by its title."""
    return {panel.title: panel.spec["data"]["values"] for panel in layers_figure(sweep).panels}


def test_the_file_holds_everything(holes, tmp_path):
    holes.save(tmp_path)
    assert Sweep.load(tmp_path) == holes
    row = json.loads((tmp_path / SWEEP).read_text())["rows"][30 + 12]
    assert (row["layer"], row["task"], row["readout"], row["n"]) == (12, "gsm_symbolic", "short", 64)
    assert {"value", "retention", "difference", "seed", "chance", "limit"} <= set(row)
    assert row["retention_above_chance"]["low"] <= row["retention_above_chance"]["value"] < 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"format_version": 99}', "format 99 is not known here"),
        ('{"format_version": 2}', r"is damaged \(KeyError: 'model'\); sweep again"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text, message):
    with pytest.raises(InputError, match="sweep.json: no finished sweep can be read here"):
        Sweep.load(tmp_path)
    (tmp_path / SWEEP).write_text(text)
    with pytest.raises(InputError, match=message):
        Sweep.load(tmp_path)


def test_the_report_comes_from_the_folder_alone(holes, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["layercut", "sweep", "m"])
    with RunFolder.begin(tmp_path / "run", {"model": "m"}) as run:
        holes.save(run.path)
    report = write_reports(tmp_path / "run")["report"]
    first = report.read_bytes()
    write_reports(tmp_path / "run")
    assert first == report.read_bytes()
    text = report.read_text()
    assert "(0-29), 64 items per task (--limit 64), selection items" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| 14 | ")]
    assert "| n/a |" in row
    assert "| command | layercut sweep m |" in text
    assert "(0.25) on 64 items" in text


def test_findings_name_the_layers_with_a_loss(holes):
    flat, deep, refused, _ = sweep_findings(holes)
    assert "at none of 30 layers" in flat
    kept = [22, 23, 25, 27]  # 98, 90, 93 and 93 % of 38 items, which this many items do not tell from 100
    assert not any(row.shows_loss for row in holes.curves[1].rows if row.layer in kept)
    significant = holes.curves[1].significant
    assert f"at {len(significant)} of 30 layers ({format_layers(sorted(significant))})" in deep
    assert "(0.25) on 64 items" in refused


def test_losses_that_stand_among_all_layers_are_marked(holes):
    deep = holes.curves[1]
    shown = {row.layer for row in deep.rows if row.shows_loss}
    assert {0, 12, 14} <= deep.significant < shown
    for layer, p in deep.p_adjusted.items():
        assert (layer in deep.significant) == (p < 0.05)
    text = printed(*sweep_tables(holes), width=160)
    lines = {int(line.split()[0]): line for line in text.splitlines() if line[:5].strip().isdigit()}
    assert "*" in lines[14]
    assert all(("*" in lines[layer]) == (layer in deep.significant | holes.curves[3].significant) for layer in lines)


def test_every_table_fits_its_width(holes):
    for width in (60, 100, 160):
        text = printed(*sweep_tables(holes), width=width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count("layer  ") >= 1
    row = next(line for line in printed(*sweep_tables(holes), width=100).splitlines() if line.startswith("   14 "))
    assert row.split()[1] == "100" and "n/a" in row


def test_the_figure_shows_every_number_no_refusal_and_no_line_over_layers_that_were_not_skipped(holes):
    panels = drawn(holes)
    assert list(panels) == ["gsm_symbolic", "copy"]  # brackets: the original model is not above chance
    for point, row in zip(panels["copy"], (row for row in holes.rows if row.task == "copy"), strict=True):
        shown = (100 * row.kept_share.value, 100 * row.kept_share.low)
        assert point["x"] == row.layer
        assert (point["y"], point["low"]) == pytest.approx(shown, abs=0.01)
    points = drawn(sweep_of(curve("copy", "short", {0: 90, 1: 80, 2: 85, 7: 50, 20: 10, 21: 20})))["copy"]
    parts = {point["part"]: [one["x"] for one in points if one["part"] == point["part"]] for point in points}
    assert list(parts.values()) == [[0, 1, 2], [7], [20, 21]]


def test_items_without_spread_leave_the_band_out():
    bare = []
    for row in curve("copy", "short", [100, 100, 100]):
        kept = row.values.retention_above_chance._replace(low=None, high=None)
        bare.append(replace(row, values=row.values._replace(retention_above_chance=kept)))
    points = drawn(sweep_of(bare))["copy"]
    assert [(point["y"], point["low"], point["high"]) for point in points] == [(100, None, None)] * 3


def test_with_little_address_space_there_is_no_picture_and_one_line(quickstart, tmp_path):
    """V8 would end the process."""
    figure = replace(retention_figure(quickstart[1], compare_runs(*quickstart)), table=None)
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


def test_every_plan_has_its_point_and_interval(quickstart):
    every = compare_runs(*quickstart)
    rows = [row for row in every if row.is_headline and row.kept_share and not row.uncut_is_at_chance]
    values = [panel.spec["data"]["values"] for panel in retention_figure(quickstart[1], every).panels]
    shown = [point for panel in values for point in panel if point["y"] != 100 or point["low"] != 100]
    shares = sorted(100 * row.kept_share.value for row in rows)
    assert sorted(point["y"] for point in shown) == pytest.approx(shares, abs=0.01)
    assert all(point["low"] is not None for point in shown)


def test_extremes_widen_the_scale(extreme):
    for panel in retention_figure(extreme[1], compare_runs(*extreme)).panels:
        low, high = panel.spec["layer"][1]["encoding"]["y"]["scale"]["domain"]
        assert all(low <= point["y"] <= high for point in panel.spec["data"]["values"])
        assert draw_picture(panel, "a")
    assert retention_figure([], []) is None, "nothing to draw"


def test_no_two_lines_look_the_same(tmp_path):
    result = [Result(task="copy", readout="short", score=0.8)]
    build_run(tmp_path / "uncut", result)
    for letter in "abcdefghi":
        build_run(tmp_path / letter, result, removed=(3,), criterion=letter)
    study = study_results(tmp_path)
    figure = retention_figure(study.cuts, study.rows)
    assert len(figure.legend) == 9
    assert len({(key.colour, key.dash) for key in figure.legend}) == 9


@pytest.mark.parametrize("readouts", [("short",), ("rank",), ("rank", "short")])
def test_retention_has_a_panel_for_what_was_measured_and_no_empty_half(readouts, tmp_path):
    for name, removed, score in (("uncut", (), 0.9), ("depth-1", (3,), 0.8)):
        build_run(tmp_path / name, [Result(task="copy", readout=one, score=score) for one in readouts], removed=removed)
    study = study_results(tmp_path)
    figure = retention_figure(study.cuts, study.rows)
    assert len(figure.panels) == figure.columns == len(readouts)
    assert ("Left:" in figure.caption) is ("Right:" in figure.caption) is (len(readouts) == 2)
    assert [panel.column for panel in figure.panels] == ([0] if len(readouts) == 1 else [1, 2])
