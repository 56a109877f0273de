"""The picture: same bytes for the same rows, nothing left out, no pyplot."""

import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from layercut.report.compare import compare_runs
from layercut.report.plots import can_plot, figure, plot


def texts(picture) -> set[str]:
    found = {label.get_text() for axes in picture.axes for label in axes.get_yticklabels()}
    found |= {text.get_text() for axes in picture.axes for text in axes.texts}
    return found | {text.get_text() for legend in picture.legends for text in legend.get_texts()}


def test_same_rows_same_bytes(quickstart, tmp_path, monkeypatch):
    rows = compare_runs(*quickstart)
    plot(rows, tmp_path / "a.png")
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)  # somebody's own style
    plot(rows, tmp_path / "b.png")
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert b"Software" not in data
    assert int.from_bytes(data[16:20], "big") == 1600
    assert matplotlib.rcParams["font.size"] == 30  # left as it was


def test_ranked_and_generated_stand_side_by_side(quickstart):
    picture = figure(compare_runs(*quickstart))
    labels = [label.get_text() for label in picture.axes[0].get_yticklabels()]
    assert labels[:2] == ["arithmetic\nranked by likelihood", "arithmetic\nshort answer"]
    assert labels[-1] == "gsm_symbolic\nchain of steps"
    assert {"uncut", "reverse-3", "random-3", "guessing", "generated", "n/a: uncut is not above chance"} <= texts(
        picture
    )


def test_every_model_has_its_point_and_interval(quickstart):
    rows = [row for row in compare_runs(*quickstart) if row.is_headline]
    scores, retention = figure(rows).axes
    drawn = sorted(
        round(line.get_xdata()[0], 6) for line in scores.lines if line.get_marker() not in ("None", "", None)
    )
    expected = [100 * row.values.cut.value for row in rows] + [100 * row.values.uncut.value for row in rows[:8]]
    assert drawn == sorted(round(x, 6) for x in expected)
    kept = [row.kept_share for row in rows if row.kept_share is not None]
    points = [line for line in retention.lines if line.get_marker() not in ("None", "", None)]
    assert len(points) == len(kept)
    assert sum(type(collection).__name__ == "LineCollection" for collection in retention.collections) == len(kept)


def test_six_plans_and_extremes(extreme, tmp_path):
    rows = compare_runs(*extreme)
    picture = figure(rows)
    assert "text\nranked by likelihood" not in texts(picture)  # not between 0 and 1
    assert "one_item\nshort answer" in texts(picture)
    low, high = picture.axes[1].get_xlim()
    assert -50 <= low < 0 < 100 < high <= 200
    plot(rows, tmp_path / "a.png")


def test_all_that_is_written_lies_inside_the_picture(extreme, quickstart):
    for rows in (compare_runs(*extreme), compare_runs(*quickstart)):
        picture = figure(rows)
        picture.canvas.draw()
        box = picture.get_tightbbox(picture.canvas.get_renderer())
        width, height = picture.get_size_inches()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_nothing_to_draw():
    assert not can_plot([])


def test_pyplot_stays_out():
    code = "import sys, layercut.report.plots; print('matplotlib.pyplot' in sys.modules)"
    source = str(Path(__file__).parents[3] / "src")
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": source, "HOME": "/tmp"},
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["a_task_with_a_name_that_is_far_too_long_for_a_plot", "x"])
def test_names_of_any_length(tmp_path, name):
    from tests.support.run_builder import Result, build_run

    result = Result(task=name, readout="rank", score=0.9, n=20)
    rows = compare_runs(build_run(tmp_path / "uncut", [result]), [build_run(tmp_path / "p", [result], removed=(1,))])
    picture = figure(rows)
    picture.canvas.draw()
    assert picture.get_tightbbox(picture.canvas.get_renderer()).x0 >= 0
