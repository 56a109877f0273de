"""Rows of comparisons and sweeps share their fields; what they write to disk stays as it was, key by key."""

from __future__ import annotations

import json

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.diagnosis import MeasureRow
from layercut.evidence.paired import PairedRow, TaskRow, compare_paired
from layercut.evidence.sweep import SweepRow

SHARED = {"task": "copy", "version": 1, "readout": "rank", "metric": "accuracy", "chance": 0.25, "limit": 8, "seed": 3}
VALUES = compare_paired([1, 1, 0, 1, 1, 1, 1, 0], [1, 0, 0, 1, 0, 1, 1, 1], chance=0.25, seed=3)
ROW = SweepRow(layer=4, **SHARED, values=VALUES, outcomes={"right": 5, "wrong": 3})  # type: ignore[arg-type]


def test_all_rows_are_paired_rows() -> None:
    assert issubclass(TaskRow, PairedRow) and issubclass(MeasureRow, PairedRow)
    assert issubclass(ComparisonRow, TaskRow) and issubclass(SweepRow, TaskRow)
    assert ROW.kept_share is VALUES.retention_above_chance
    assert ROW.n == 8


def test_a_row_of_a_sweep_on_disk() -> None:
    text = json.dumps(ROW.to_dict())
    keys = "layer task version readout metric value n chance limit seed uncut cut difference retention "
    keys += "retention_above_chance lost gained p_value refused num_clusters test outcomes"
    assert list(json.loads(text)) == keys.split()
    assert text == GOLDEN
    assert SweepRow.from_dict(json.loads(text)) == ROW


def test_a_row_of_a_diagnosis_on_disk() -> None:
    # keys and forms as they stand in folders of earlier versions
    held = {
        "diagnostic": "arithmetic", "measure": "written", "group": "", "arm": "reverse-3", "better": "higher",
        "unit": "share", "chance": 0.25, "n": 8, "uncut": [0.75, 0.4, 0.9], "cut": [0.6, 0.3, 0.8],
        "difference": [-0.15, None, None], "kept": [0.7, 0.1, None], "p_value": 1.0, "test": "mcnemar", "seed": 3,
        "headline": True,
    }  # fmt: skip
    row = MeasureRow.from_dict(held)
    assert json.dumps(row.to_dict()) == json.dumps(held)
    assert row.kept_share is row.values.retention_above_chance and row.is_worse and row.label == "written"


GOLDEN = (
    '{"layer": 4, "task": "copy", "version": 1, "readout": "rank", "metric": "accuracy", "value": 0.625, "n": 8, '
    '"chance": 0.25, "limit": 8, "seed": 3, "uncut": {"value": 0.75, "low": 0.40927543031016883, "high": '
    '0.9285207872478909, "n": 8, "method": "wilson"}, "cut": {"value": 0.625, "low": 0.3057423946026273, "high": '
    '0.8631557141764027, "n": 8, "method": "wilson"}, "difference": {"value": -0.125, "low": '
    '-0.48031855682599656, "high": 0.2876560341490316, "n": 8, "method": "bootstrap"}, "retention": {"value": '
    '0.8333333333333334, "low": 0.41112561860912206, "high": 1.6262576370645068, "n": 8, "method": "bootstrap"}, '
    '"retention_above_chance": {"value": 0.75, "low": 0.10863580136837638, "high": 2.524370383512099, "n": 8, '
    '"method": "bootstrap"}, "lost": 2, "gained": 1, "p_value": 1.0, "refused": "", "num_clusters": null, "test": '
    '"mcnemar", "outcomes": {"right": 5, "wrong": 3}}'
)
