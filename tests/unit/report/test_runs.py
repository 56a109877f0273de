"""The scores of one run, the list of runs, rankings of layers and held-out scores as they are printed."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from layercut.report.runs import held_out_line, metrics_table, ranking_table, table_of_runs
from layercut.runs.directory import RunSummary
from tests.support.pages import printed


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_of_one_run(quickstart, width):
    text = printed(metrics_table(quickstart[1][0].metrics()), width=width)
    assert "27-29" in text.splitlines()[0] and "(--limit 64)" in text.splitlines()[0]
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    row = quickstart[1][0].metrics()["rows"][1]
    line = next(line for line in text.splitlines() if line.strip().startswith("short"))
    counts = [row["outcomes"][name] for name in ("right", "wrong", "no_answer", "cut")]
    assert [int(word) for word in line.split()[-4:]] == counts
    assert "score" in printed(metrics_table({"rows": []}), width=width), "without plan or rows"


def test_runs_are_listed():
    runs = [
        RunSummary(Path("runs/a"), "finished", datetime(2026, 1, 1, tzinfo=UTC), "layercut eval " + "a model " * 20),
        RunSummary(Path("runs/b"), "running", datetime(2026, 1, 3, 11, 30, tzinfo=UTC), ""),
        RunSummary(Path("runs/c"), "unfinished", None, "layercut sweep m"),
    ]
    text = printed(table_of_runs(runs, now=datetime(2026, 1, 3, 12, 0, tzinfo=UTC)), width=80)
    lines = [line.rstrip() for line in text.splitlines()][2:]
    assert "layercut eval a model" in lines[0]
    assert lines[0].endswith("…")
    assert lines[1] == "runs/b  running     30 min"
    assert lines[2] == "runs/c  unfinished       ?  layercut sweep m"


RACED: dict[str, Any] = {
    "candidates": [3, 5, 8], "values": [None, 0.75, None], "chosen": 5, "value": 0.75, "ties": [], "runner_up": 8,
    "runner_up_value": 0.75, "upper_bounds": [0.7, 0.75, 0.75], "num_answered": [16, 60, 48], "num_items": 60,
    "runner_up_is_bound": True,
}  # fmt: skip


def shown(**scores: Any) -> str:
    return printed(ranking_table({"removed": [5], "scores": scores}))


def test_a_search_names_its_objective_and_items_and_lists_layers_by_importance():
    of_text = {"objective": {"measure": "kl", "num_texts": 2}, "num_tokens": 1200, "rounds": [RACED], "uncut": -1e-12}
    assert "2 texts, 1,200 tok" in shown(**of_text)
    assert " 0.0000" in shown(**of_text) and "-0.0000" not in shown(**of_text)
    traces = {"traces": {"gsm8k (chain)": 4, "copy (short)": 3}, "importance": {"5": 0.5}}
    assert "gsm8k (chain), 3" in shown(**of_text, **traces)
    rows = [{"task": "copy", "readout": "short", "n": 20}, {"task": "gsm8k", "readout": "chain", "n": 8}]
    assert "8 of gsm8k (chain)" in shown(selected_scores=rows)
    assert "objective:" not in shown(rounds=[RACED]) + shown(importance={"5": 0.5})
    lines = [line.split() for line in shown(importance={"4": 0.5, "5": 0.25, "6": 0.5}).splitlines()[2:]]
    assert lines == [["1", "5", "0.25", "goes"], ["2", "6", "0.5"], ["3", "4", "0.5"]]


def test_a_runner_up_that_was_stopped_is_shown_as_a_bound_and_another_with_its_value():
    assert "<= 0.7500" in shown(uncut=1.0, rounds=[RACED])
    known = {**RACED, "values": [0.6, 0.75, 0.7], "runner_up_value": 0.7, "runner_up_is_bound": False}
    assert " 0.7000 " in shown(rounds=[known])
    old = {key: RACED[key] for key in ("candidates", "chosen", "value", "ties", "runner_up", "runner_up_value")}
    assert "<=" not in shown(rounds=[{**old, "values": [0.6, 0.75, 0.75]}])


def test_a_plan_is_scored_on_both_kinds_of_items():
    objective = {"selected": 0.9375, "held_out": {"value": 0.5, "low": 0.31, "high": 0.7, "n": 20}, "refused": ""}
    line = held_out_line({"held_out": {"rows": [], "objective": objective, "seed": 3}})
    assert "0.9375 on the items" in line and "0.5000 [0.3100, 0.7000] on 20 held-out ones, seed 3." in line
    without = {"selected": 0.9, "held_out": None, "refused": "none were held out"}
    assert held_out_line({"held_out": {"objective": without, "seed": 3}}).endswith("none were held out.")
    assert held_out_line({"importance": {}}) == ""
