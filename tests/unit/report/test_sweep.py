from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.errors import InputError
from layercut.evidence.sweep import Sweep
from layercut.report.reports import write_reports
from layercut.report.sweep import layers_figure, sweep_findings, sweep_tables
from layercut.runs.directory import SWEEP, RunFolder
from layercut.text import format_layers
from tests.support.sweeps import HOLES, curve, sweep_of


@pytest.fixture(scope="module")
def holes() -> Sweep:
    """Three tasks over 30 layers: holes and a flat line, a refusal, and no chance level."""
    return sweep_of(
        curve("gsm_symbolic", "rank", [100] * 30, uncut=0.8, chance=0.25),
        curve("gsm_symbolic", "short", HOLES),
        curve("brackets", "rank", [100] * 30, uncut=0.26, chance=0.25),
        curve("copy", "short", HOLES[::-1], chance=None),
    )


def printed(sweep: Sweep, width: int = 100) -> str:
    console = Console(width=width, highlight=False, record=True, file=io.StringIO())
    for block in sweep_tables(sweep):
        console.print(block)
    return console.export_text()


def drawn(sweep: Sweep) -> dict[str, list[dict[str, Any]]]:
    """The points of every panel, by its title."""
    figure = layers_figure(sweep)
    assert figure is not None
    return {panel.title: panel.spec["data"]["values"] for panel in figure.panels}


def test_the_file_holds_everything(holes: Sweep, tmp_path: Path) -> None:
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
def test_a_damaged_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match="sweep.json: no finished sweep can be read here"):
        Sweep.load(tmp_path)
    (tmp_path / SWEEP).write_text(text)
    with pytest.raises(InputError, match=message):
        Sweep.load(tmp_path)


def test_the_report_comes_from_the_folder_alone(holes: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["layercut", "sweep", "m"])
    with RunFolder.begin(tmp_path / "run", {"model": "m"}) as run:
        holes.save(run.path)
    report = write_reports(tmp_path / "run")["report"]
    first = report.read_bytes()
    write_reports(tmp_path / "run")
    assert first == report.read_bytes()
    text = report.read_text()
    assert "(0-29), 64 items per task (--limit 64), selection items" in text
    rows = [line for line in text.splitlines() if line.startswith("| 14 | ")]
    assert len(rows) == 1
    assert "| n/a |" in rows[0]
    assert "| command | layercut sweep m |" in text
    assert "(0.25) on 64 items" in text


def test_findings_name_the_layers_with_a_loss(holes: Sweep) -> None:
    flat, deep, refused, _ = sweep_findings(holes)
    assert "at none of 30 layers" in flat
    kept = [22, 23, 25, 27]  # 98, 90, 93 and 93 % of 38 items, which this many items do not tell from 100
    assert not any(row.shows_loss for row in holes.curves[1].rows if row.layer in kept)
    significant = holes.curves[1].significant
    assert f"at {len(significant)} of 30 layers ({format_layers(sorted(significant))})" in deep
    assert "(0.25) on 64 items" in refused


def test_losses_that_stand_among_all_layers_are_marked(holes: Sweep) -> None:
    deep = holes.curves[1]
    shown = {row.layer for row in deep.rows if row.shows_loss}
    assert {0, 12, 14} <= deep.significant < shown
    for layer, p in deep.p_adjusted.items():
        assert (layer in deep.significant) == (p < 0.05)
    lines = {int(line.split()[0]): line for line in printed(holes, 160).splitlines() if line[:5].strip().isdigit()}
    assert "*" in lines[14]
    assert all(("*" in lines[layer]) == (layer in deep.significant | holes.curves[3].significant) for layer in lines)


def test_every_table_fits_its_width(holes: Sweep) -> None:
    for width in (60, 100, 160):
        text = printed(holes, width)
        assert max(map(len, text.splitlines())) <= width
        assert text.count("layer  ") >= 1
    row = next(line for line in printed(holes).splitlines() if line.startswith("   14 "))
    assert row.split()[1] == "100"
    assert "n/a" in row


def test_the_figure_shows_every_number_and_no_refusal(holes: Sweep) -> None:
    panels = drawn(holes)
    assert list(panels) == ["gsm_symbolic", "copy"]  # brackets: the original model is not above chance
    for point, row in zip(panels["copy"], (row for row in holes.rows if row.task == "copy"), strict=True):
        share = row.kept_share
        assert share is not None
        assert point["x"] == row.layer
        assert point["y"] == pytest.approx(100 * share.value, abs=0.01)
        assert point["low"] == pytest.approx(100 * share.low, abs=0.01)  # type: ignore[operator]


def test_a_line_does_not_run_over_layers_that_were_not_skipped() -> None:
    points = drawn(sweep_of(curve("copy", "short", {0: 90, 1: 80, 2: 85, 7: 50, 20: 10, 21: 20})))["copy"]
    parts = {point["part"]: [one["x"] for one in points if one["part"] == point["part"]] for point in points}
    assert list(parts.values()) == [[0, 1, 2], [7], [20, 21]]


def test_items_without_spread_leave_the_band_out() -> None:
    bare = []
    for row in curve("copy", "short", [100, 100, 100]):
        kept = row.values.retention_above_chance._replace(low=None, high=None)  # type: ignore[union-attr]
        bare.append(replace(row, values=row.values._replace(retention_above_chance=kept)))
    points = drawn(sweep_of(bare))["copy"]
    assert [(point["y"], point["low"], point["high"]) for point in points] == [(100, None, None)] * 3
