from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from layercut.report.selection import race_line, ranking_table

RACED: dict[str, Any] = {
    "candidates": [3, 5, 8],
    "values": [None, 0.75, None],
    "chosen": 5,
    "value": 0.75,
    "ties": [],
    "runner_up": 8,
    "runner_up_value": 0.75,
    "upper_bounds": [0.7, 0.75, 0.75],
    "num_answered": [16, 60, 48],
    "num_items": 60,
    "runner_up_is_bound": True,
}
RACE = {"mode": "exact", "answers": 124, "saved": 56}


def shown(**scores: Any) -> str:
    file = io.StringIO()
    Console(file=file, width=200).print(ranking_table({"removed": [5], "scores": scores}))
    return file.getvalue()


def test_a_search_says_what_its_objective_is_and_on_how_much_it_was_measured() -> None:
    of_text = {"objective": {"measure": "kl", "num_texts": 2}, "num_tokens": 1200, "rounds": [RACED], "uncut": -1e-12}
    assert "minus the KL divergence from the original model, nats a token; 2 texts, 1,200 tok" in shown(**of_text)
    assert "objective of the original model: 0.0000" in shown(**of_text), "not -0.0000"
    traces = {"traces": {"gsm8k (chain)": 4, "copy (short)": 3}, "importance": {"5": 0.5}}
    assert "right answers of the original model: 4 of gsm8k (chain), 3 of copy (short), 1,200" in shown(
        **of_text, **traces
    )
    rows = [{"task": "copy", "readout": "short", "n": 20}, {"task": "gsm8k", "readout": "chain", "n": 8}]
    assert "mean of tasks; selection items: 20 of copy (short), 8 of gsm8k (chain)" in shown(selected_scores=rows)
    assert "objective:" not in shown(rounds=[RACED]) + shown(importance={"5": 0.5})


def test_candidates_that_were_stopped_are_shown_as_bounds() -> None:
    text = shown(uncut=1.0, rounds=[RACED], race=RACE)
    assert "<= 0.7500, stopped after 48 of 60 items" in text
    assert "3, 2 stopped" in text
    assert "2 candidates were stopped when they could no longer win; that saved 56 of 180 answers (31 %)." in text


def test_a_runner_up_with_a_value_is_shown_as_before() -> None:
    known = {**RACED, "values": [0.6, 0.75, 0.7], "runner_up_value": 0.7, "runner_up_is_bound": False}
    assert " 0.7000 " in shown(rounds=[known])
    old = {key: RACED[key] for key in ("candidates", "chosen", "value", "ties", "runner_up", "runner_up_value")}
    text = shown(rounds=[{**old, "values": [0.6, 0.75, 0.75]}])
    assert "<=" not in text
    assert "stopped" not in text


@pytest.mark.parametrize(("mode", "says"), [("exact", ""), ("confident", "probability of at most 0.05")])
def test_an_error_rate_is_stated(mode: str, says: str) -> None:
    line = race_line({**RACE, "mode": mode, "error_per_round": 0.05}, [RACED])
    assert says in line
    assert ("probability" in line) == (mode == "confident")


def test_answers_that_hang_on_rounding_are_counted() -> None:
    assert "3 of 40 answers have a token whose runner-up is as likely" in shown(
        rounds=[RACED], close_answers=3, answers=40
    )
    assert "runner-up is as likely" not in shown(rounds=[RACED])
