"""Pairing by item, refusals, and findings that the intervals support."""

import json
from dataclasses import replace

import pytest

from layercut.errors import InputError
from layercut.evidence.comparison import ComparedRun, ComparisonRow, compare_runs, left_out
from layercut.evidence.intervals import Estimate, adjust_by_holm
from layercut.evidence.paired import compare_paired
from layercut.report.words import how_scores_made
from layercut.runs.directory import RunFolder
from tests.support.run_builder import Result, build_run

COPY = Result(task="copy", readout="short", score=0.8, n=30, chance=0.0)


def rewrite(run: RunFolder, change) -> None:
    """Change the records of copy.short behind the run's back."""
    file = run.path / "samples" / "copy.short.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(record) + "\n" for record in change(records)))


@pytest.fixture
def pair(tmp_path):
    uncut = build_run(tmp_path / "uncut", [COPY], num_parameters=1000)
    cut = build_run(tmp_path / "cut", [COPY], removed=(5, 2), num_parameters=900, seed=1)
    return uncut, cut


def test_rows_follow_the_runs_with_their_metrics_scores_and_p_values_of_all_together(quickstart):
    uncut, cuts = quickstart
    rows = compare_runs(uncut, cuts)
    assert [row.cut.name for row in rows] == ["reverse-3"] * 9 + ["random-3"] * 9
    metrics = [(row.task, row.readout, row.metric) for row in rows[7:9]]
    assert metrics == [("gsm_symbolic", "chain", name) for name in ("accuracy", "flexible")]
    assert [row.is_headline for row in rows[:9]] == [True] * 8 + [False]
    assert rows[0].cut == ComparedRun(
        name="reverse-3", num_layers=30, removed=(29, 28, 27), criterion="position", num_parameters=123_895_000
    )
    assert left_out(uncut, cuts) == []
    assert json.loads(json.dumps([row.to_dict() for row in rows], allow_nan=False))[0]["finding"] == rows[0].finding
    uncut, cuts = quickstart
    for row, own in zip(compare_runs(uncut, cuts[:1]), uncut.metrics()["rows"], strict=True):
        assert row.values.uncut == Estimate(own["value"], own["low"], own["high"], own["n"], own["method"])
        assert sum(row.uncut_outcomes.values()) == row.n == 64
    rows = compare_runs(*quickstart)
    assert [row.p_value for row in rows] == pytest.approx(adjust_by_holm([row.values.p_value for row in rows]))
    assert any(row.p_value > row.values.p_value for row in rows)
    assert rows[0].to_dict()["p_adjusted"] == rows[0].p_value


def test_items_are_paired_by_id_whatever_their_order(pair):
    uncut, cut = pair
    (before,) = compare_runs(uncut, [cut])
    rewrite(cut, lambda records: records[::-1])
    (after,) = compare_runs(uncut, [cut])
    assert after == before
    by_hand = compare_paired(
        [r["metrics"]["accuracy"] for r in uncut.records("copy", "short")],
        [r["metrics"]["accuracy"] for r in reversed(cut.records("copy", "short"))],
        chance=0.0,
    )
    assert after.values == by_hand
    assert by_hand.lost + by_hand.gained > 0  # or the order could not matter


def test_what_only_one_run_holds_is_left_out_and_told(pair, tmp_path):
    uncut, cut = pair
    assert compare_runs(uncut, [cut])[0].note == ""
    rewrite(cut, lambda records: records[10:])
    (row,) = compare_runs(uncut, [cut])
    assert row.n == 20
    assert "uncut has 30, cut has 20" in row.note
    assert sum(row.uncut_outcomes.values()) == 20
    more = build_run(tmp_path / "more", [COPY, Result(task="brackets", readout="rank", score=0.5, n=5)], removed=(1,))
    assert len(compare_runs(pair[0], [more])) == 1
    assert [line.partition(":")[0] for line in left_out(pair[0], [more])] == ["brackets (rank)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda records: [{**r, "id": f"x{r['id']}"} for r in records], "share no item of copy"),
        (lambda records: [*records, records[3]], r"item \w+ of copy \(short\) occurs twice"),
        (lambda records: [{**r, "gold": "other"} for r in records], "right answer '10' in uncut and 'other' in cut"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused(pair, change, message):
    uncut, cut = pair
    rewrite(cut, change)
    with pytest.raises(InputError, match=message):
        compare_runs(uncut, [cut])


def test_versions_and_tasks_must_agree_and_runs_be_finished(tmp_path, pair):
    uncut, cut = pair
    other = build_run(tmp_path / "other", [Result(task="brackets", readout="short", score=0.5, n=5)], removed=(1,))
    with pytest.raises(InputError, match="no task in common"):
        compare_runs(uncut, [other])
    metrics = cut.metrics()
    metrics["rows"][0]["version"] = 2
    (cut.path / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(InputError, match="version 1 in uncut"):
        compare_runs(uncut, [cut])
    (cut.path / "metrics.json").unlink()
    with pytest.raises(InputError, match="cut is not finished"):
        compare_runs(uncut, [cut])


def row(uncut: list[float], cut: list[float], chance: float | None = 0.25) -> ComparisonRow:
    named = {"uncut": ComparedRun(name="uncut"), "cut": ComparedRun(name="cut")}
    named |= {"task": "t", "version": 1, "readout": "rank", "metric": "accuracy", "limit": None, "seed": 0, "note": ""}
    values = compare_paired(uncut, cut, chance=chance)
    flags = {"is_headline": True, "is_share": True, "uncut_outcomes": {}, "cut_outcomes": {}}
    return ComparisonRow(**named, **flags, chance=chance, values=values)


def ones(right: int, n: int = 200) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


@pytest.mark.parametrize(
    ("uncut", "cut", "chance", "finding"),
    [
        (ones(60), ones(20), 0.25, "at chance"),  # 30 % of 200 is [24, 37]
        (ones(160), ones(160), 0.25, "kept"),
        (ones(160), ones(157), 0.25, "kept"),  # maybe a small loss, but 90 % are there for sure
        (ones(160), ones(110), 0.25, "damaged"),
        (ones(160), ones(55), 0.25, "lost"),  # 27.5 % of 200 is [22, 34]
        (ones(160), ones(0), 0.25, "lost"),
        (ones(160), ones(1), 0.0, "damaged"),  # chance 0: one right answer is above it
        (ones(160), ones(0), 0.0, "lost"),
        (ones(100), ones(130), 0.25, "better"),
        (ones(16, 20), ones(14, 20), 0.25, "undecided"),
        (ones(60), ones(175), 0.25, "gained"),  # 30 % of 200 is not above guessing, 88 % is
        (ones(10), ones(40), 0.25, "at chance"),  # better, but still below guessing
        ([1.0], [1.0], 0.25, "at chance"),  # one item on four options shows nothing
        ([1.0], [0.0], 0.0, "undecided"),
        ([0.5], [0.1], 0.0, "at chance"),
        ([-1.0 - 0.1 * i for i in range(9)], [-3.0 - 0.2 * i for i in range(9)], None, "damaged"),
        (ones(20, 24), ones(16, 24), 0.25, "undecided"),  # 4 lost, none gained: the interval is below 0, p = 0.12
        ([0.5, 0.6, 0.7], [0.4, 0.5, 0.6], 0.0, "undecided"),  # no spread, no interval
    ],
)
def test_findings(uncut, cut, chance, finding):
    assert row(uncut, cut, chance).finding == finding


def test_a_loss_that_does_not_stand_among_many_is_not_claimed():
    alone = row(ones(160), ones(153), 0.25)  # 7 lost, none gained: p = 0.016
    assert replace(alone, values=alone.values._replace(retention_above_chance=None)).finding == "damaged"
    among = replace(alone, values=alone.values._replace(retention_above_chance=None), p_adjusted=0.16)
    assert among.finding == "undecided"


def test_items_of_one_template_are_counted_by_it(pair):
    uncut, cut = pair
    (apart,) = compare_runs(uncut, [cut])
    for run in pair:
        rewrite(run, lambda records: [{**r, "cluster": f"template {i // 3}"} for i, r in enumerate(records)])
    (together,) = compare_runs(uncut, [cut])
    assert together.values.num_clusters == 10
    assert together.values.difference.method == "clustered bootstrap"
    assert together.values.difference.value == apart.values.difference.value
    assert "copy (10 contexts)" in " ".join(how_scores_made([together]))
