"""Rankings of layers, rounds of a search and held-out scores, as they are printed."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from layercut.report.runs import held_out_line, ranking_table

RACED: dict[str, Any] = {
    "candidates": [3, 5, 8], "values": [None, 0.75, None], "chosen": 5, "value": 0.75, "ties": [], "runner_up": 8,
    "runner_up_value": 0.75, "upper_bounds": [0.7, 0.75, 0.75], "num_answered": [16, 60, 48], "num_items": 60,
    "runner_up_is_bound": True,
}  # fmt: skip


def shown(**scores: Any) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(ranking_table({"removed": [5], "scores": scores}))
    return file.getvalue()


def test_a_search_names_its_objective_and_the_items_it_was_measured_on() -> None:
    of_text = {"objective": {"measure": "kl", "num_texts": 2}, "num_tokens": 1200, "rounds": [RACED], "uncut": -1e-12}
    assert "2 texts, 1,200 tok" in shown(**of_text)
    assert " 0.0000" in shown(**of_text) and "-0.0000" not in shown(**of_text)
    traces = {"traces": {"gsm8k (chain)": 4, "copy (short)": 3}, "importance": {"5": 0.5}}
    assert "gsm8k (chain), 3" in shown(**of_text, **traces)
    rows = [{"task": "copy", "readout": "short", "n": 20}, {"task": "gsm8k", "readout": "chain", "n": 8}]
    assert "8 of gsm8k (chain)" in shown(selected_scores=rows)
    assert "objective:" not in shown(rounds=[RACED]) + shown(importance={"5": 0.5})


def test_layers_are_listed_by_importance_and_of_equals_the_later_one_first() -> None:
    lines = [line.split() for line in shown(importance={"4": 0.5, "5": 0.25, "6": 0.5}).splitlines()[2:]]
    assert lines == [["1", "5", "0.25", "goes"], ["2", "6", "0.5"], ["3", "4", "0.5"]]


def test_candidates_that_were_stopped_are_shown_as_bounds() -> None:
    assert "<= 0.7500" in shown(uncut=1.0, rounds=[RACED])


def test_a_runner_up_with_a_value_is_shown_as_before() -> None:
    known = {**RACED, "values": [0.6, 0.75, 0.7], "runner_up_value": 0.7, "runner_up_is_bound": False}
    assert " 0.7000 " in shown(rounds=[known])
    old = {key: RACED[key] for key in ("candidates", "chosen", "value", "ties", "runner_up", "runner_up_value")}
    text = shown(rounds=[{**old, "values": [0.6, 0.75, 0.75]}])
    assert "<=" not in text


def test_a_plan_is_scored_on_both_kinds_of_items() -> None:
    objective = {"selected": 0.9375, "held_out": {"value": 0.5, "low": 0.31, "high": 0.7, "n": 20}, "refused": ""}
    line = held_out_line({"held_out": {"rows": [], "objective": objective, "seed": 3}})
    assert "0.9375 on the items" in line and "0.5000 [0.3100, 0.7000] on 20 held-out ones, seed 3." in line
    without = {"selected": 0.9, "held_out": None, "refused": "none were held out"}
    assert held_out_line({"held_out": {"objective": without, "seed": 3}}).endswith("none were held out.")
    assert held_out_line({"importance": {}}) == ""
