"""Rankings of layers, rounds of a search and held-out scores, as they are printed."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from layercut.evidence.paired import compare_paired
from layercut.report.runs import held_out_line, held_out_table, ranking_table

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


def side(right: int) -> dict[str, Any]:
    found = compare_paired([1.0] * 16 + [0.0] * 4, [1.0] * right + [0.0] * (20 - right), chance=0.25)
    plain = {name: getattr(found, name)._asdict() for name in ("uncut", "cut", "difference")}
    return {"chance": 0.25, "n": 20, **plain}


def test_both_kinds_of_items_have_a_line() -> None:
    rows = [
        {"task": "copy", "readout": "short", "metric": "accuracy", "selected": side(15), "held_out": side(9)},
        {"task": "humaneval", "readout": "chain", "metric": "pass", "selected": side(10), "held_out": None},
    ]
    objective = {"selected": 0.9375, "held_out": {"value": 0.5, "low": 0.31, "high": 0.7, "n": 20}, "refused": ""}
    file = io.StringIO()
    shown = held_out_table({"held_out": {"rows": rows, "objective": objective, "seed": 3}})
    Console(file=file, width=160).print(shown)
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert any(line.startswith("copy (short) chosen on 20 25 80 [58, 92] 75 [53, 89] -5 [") for line in lines)
    assert any(line.startswith("held out 20 25 80 [58, 92] 45 [26, 66] -35 [") for line in lines)
    assert any(line.startswith("held out 0 ") for line in lines)
    assert any("0.9375" in line for line in lines)
    assert any("0.5000 [0.3100, 0.7000] on 20 " in line for line in lines)


def test_a_plan_without_held_out_items_has_no_table() -> None:
    assert held_out_table({"importance": {}}) is None
    line = held_out_line({"selected": 0.9, "held_out": None, "refused": "none were held out"})
    assert line.endswith("none were held out.")
