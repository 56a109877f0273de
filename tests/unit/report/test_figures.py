"""Figures of scores, and figures as PNG: same bytes for the same rows, every number in it."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from layercut.evidence.comparison import compare_runs
from layercut.evidence.study import NOT_HEALED, Place, study_results
from layercut.report.charts import curve_chart
from layercut.report.elements import Figure, Key, Panel
from layercut.report.picture import picture_spec, save_picture
from layercut.report.retention import _in_rows, _line_styles, retention_figure
from layercut.runs.directory import RunFolder
from tests.support.run_builder import Result, build_run


def figure_of(runs: tuple[RunFolder, list[RunFolder]]) -> Figure:
    figure = retention_figure(runs[1], compare_runs(*runs))
    assert figure is not None
    return figure


def test_same_rows_same_bytes(quickstart, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        assert save_picture(figure_of(quickstart), tmp_path / name)
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert 1400 < int.from_bytes(data[16:20], "big") < 1900, "made to be shown at 800 pixels"


def test_with_little_address_space_there_is_no_picture_and_one_line(quickstart, tmp_path: Path) -> None:
    """V8 would end the process."""
    figure = replace(figure_of(quickstart), table=None)
    (tmp_path / "figure.pickle").write_bytes(pickle.dumps(figure))
    code = f"""
import logging, pathlib, pickle, resource
logging.basicConfig(format="%(message)s")
resource.setrlimit(resource.RLIMIT_AS, (10 * 2**30,) * 2)
from layercut.report.picture import draw_picture, save_picture
figure = pickle.loads(pathlib.Path({str(tmp_path / "figure.pickle")!r}).read_bytes())
first, second, *_ = figure.panels
picture = pathlib.Path({str(tmp_path / "a.png")!r})
print(save_picture(figure, picture), draw_picture(first, "a"), draw_picture(second, "b"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "False [] []\n"), done.stderr
    assert done.stderr.count("\n") == 1 and "no pictures" in done.stderr
    assert not (tmp_path / "a.png").exists()


def test_every_plan_has_its_point_and_interval(quickstart) -> None:
    every = compare_runs(*quickstart)
    rows = [row for row in every if row.is_headline and row.kept_share and not row.uncut_is_at_chance]
    values = [panel.spec["data"]["values"] for panel in figure_of(quickstart).panels]
    shown = [point for panel in values for point in panel if point["y"] != 100 or point["low"] != 100]
    assert sorted(point["y"] for point in shown) == pytest.approx(
        sorted(min(140, 100 * row.kept_share.value) for row in rows if row.kept_share), abs=0.01
    )
    assert all(point["low"] is not None for point in shown)


def test_extremes_stay_inside(extreme, tmp_path: Path) -> None:
    figure = figure_of(extreme)
    points = [point for panel in figure.panels for point in panel.spec["data"]["values"]]
    assert all(-30 <= point["y"] <= 140 for point in points)
    assert save_picture(figure, tmp_path / "a.png")


def test_nothing_to_draw_writes_nothing(tmp_path: Path) -> None:
    assert retention_figure([], []) is None
    assert not save_picture(None, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_a_figure_is_one_specification_in_the_pages_light_colours_with_its_legend() -> None:
    spec = {"config": {}, "mark": "point", "data": {"values": []}, "width": "container", "autosize": {"type": "fit-x"}}
    panels = [Panel(spec=spec, label="", title=name, column=column) for name, column in (("a", 1), ("b", 1), ("c", 2))]
    keys = [Key(label=f"plan {number}", colour="var(--series-1)", hollow=number == 0) for number in range(12)]
    whole = picture_spec(Figure(name="x", title="x", panels=panels, caption="", legend=keys))
    text = json.dumps(whole)
    assert "#117733" in text and "var(" not in text and "container" not in text
    legend, *views = whole["vconcat"]
    assert legend["height"] > 20, "twelve keys take more than one line"
    marks = [layer["mark"] for layer in legend["layer"]]
    assert [mark["text"] for mark in marks if mark["type"] == "text"] == [key.label for key in keys]
    assert [[view.get("title") for view in row["hconcat"]] for row in views] == [[["a"]], [["b"], ["c"]]]
    assert vl_convert.vegalite_to_svg(whole).startswith("<svg")


@pytest.mark.parametrize("columns", [1, 2])
def test_each_panel_has_the_colours_and_dashes_of_its_own_series(columns: int) -> None:
    def panel(name: str, colour: str, dash: tuple[int, int]) -> Panel:
        point = {"y": 50, "low": 40, "high": 60, "series": name, "part": name, "hollow": True, "about": {}}
        points = [{"x": x, **point} for x in (0, 1)]
        looks: dict[str, Any] = {"colours": {name: colour}, "dashes": {name: dash}}
        spec = curve_chart(points, x_title="layer", y_title="kept", x=(-1, 2), y=(0, 100), **looks)
        return Panel(spec=spec, label=name, title=name)

    panels = [panel("written", "#aa0000", (6, 3)), panel("ranked", "#0000aa", (1, 0))]
    figure = Figure(name="f", title="F", panels=panels, caption="", columns=columns)
    svg = vl_convert.vegalite_to_svg(picture_spec(figure))
    looks = [dict(re.findall(r'([\w-]+)="([^"]*)"', path)) for path in re.findall(r"<path [^>]*>", svg)]
    lines = [look for look in looks if look.get("aria-roledescription") == "line mark"]
    assert [(line["stroke"], line["stroke-dasharray"]) for line in lines] == [("#aa0000", "6,3"), ("#0000aa", "1,0")]
    outlines = [look["stroke"] for look in looks if look.get("aria-roledescription") == "point" and "stroke" in look]
    assert {*outlines} == {"#aa0000", "#0000aa"}


def test_tasks_that_are_read_one_way_share_a_row() -> None:
    pairs = [("gsm8k", "chain"), ("copy", "rank"), ("copy", "short"), ("code", "chain"), ("arc", "rank")]
    assert _in_rows(pairs) == [
        ("copy", "rank"), ("copy", "short"), ("arc", "rank"), ("gsm8k", "chain"), ("code", "chain"),
    ]  # fmt: skip


@pytest.mark.parametrize(("num_criteria", "num_arms"), [(1, 9), (2, 8), (3, 4), (8, 2), (9, 1)])
def test_no_two_lines_look_the_same(num_criteria: int, num_arms: int) -> None:
    found = [
        Place(criterion=f"plan {plan}", arm=NOT_HEALED if arm == 0 else f"arm {arm}", depth=1, part="")
        for plan in range(num_criteria)
        for arm in range(num_arms)
    ]
    looks = _line_styles(found)
    assert len(looks) == len(found)
    assert len({(colour, tuple(dash)) for colour, dash in looks.values()}) == len(found)


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
