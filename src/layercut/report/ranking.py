"""How layers were ranked, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from layercut.report.elements import Cell, Styled, Table
from layercut.report.render import terminal
from layercut.text.counting import counted

_GOES = Styled("goes", "wrong")
_MEASURES = {
    "nll": "cross-entropy, nats a token",
    "kl": "KL divergence from the original model, nats a token",
    "js": "Jensen-Shannon divergence from the original model, nats a token",
    "top1": "share of tokens whose likeliest one is no longer the original model's",
    "sure": "rise of -ln p, nats a token, of tokens that the original model is sure of",
}


def ranking_table(plan: Mapping[str, Any]) -> RenderableType:
    """The ranking behind a plan: scores per layer, or rounds of a search; nothing but the order where there is neither.

    Args:
        plan: ``CutPlan.to_dict()``.
    """
    scores = plan.get("scores") or {}
    parts: list[RenderableType] = []
    if line := objective_line(scores):
        parts.append(Text(line))
    if scores.get("importance"):
        parts.append(terminal(_importance(scores["importance"], plan["removed"])))
    if scores.get("rounds"):
        if scores.get("uncut") is not None:
            parts.append(Text(f"objective of the original model: {scores['uncut']:z.4f}"))
        parts.append(terminal(_rounds(scores["rounds"])))
    if scores.get("race"):
        parts.append(Text(race_line(scores["race"], scores.get("rounds") or [])))
    if scores.get("close_answers"):
        parts.append(Text(close_line(scores["close_answers"], scores["answers"])))
    if scores.get("blocks"):
        parts.append(terminal(_blocks(scores["blocks"], plan["removed"])))
    if scores.get("moves"):
        parts.append(
            Text(f"{len(scores['moves'])} moves: {scores.get('start_value'):.4f} -> {scores.get('value'):.4f}")
        )
    return Group(*parts) if parts else Text("order of removal: " + ", ".join(map(str, plan["removed"])))


def _importance(importance: Mapping[str, float], removed: list[int]) -> Table:
    # Ties as a criterion breaks them: of equals the later layer goes first.
    order = sorted(importance, key=lambda layer: (importance[layer], -int(layer)))
    rows: list[list[Cell]] = [
        [str(rank), layer, f"{importance[layer]:.6g}", _GOES if int(layer) in removed else ""]
        for rank, layer in enumerate(order, start=1)
    ]
    return _table(["rank", "layer", "importance", ""], rows, {0, 1, 2})


def _blocks(blocks: list[Mapping[str, Any]], removed: list[int]) -> Table:
    rows: list[list[Cell]] = []
    for block in sorted(blocks, key=lambda block: (block["value"], -block["first"])):
        goes = {block["first"], block["last"]} == {min(removed), max(removed)}
        mark = _GOES if goes else "" if block["allowed"] else Styled("protected", "faint")
        rows.append([f"{block['first']}-{block['last']}", _value(block["value"]), mark])
    return _table(["block", "score", ""], rows, {1})


def _rounds(rounds: list[Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for number, outcome in enumerate(rounds, start=1):
        second = outcome.get("runner_up")
        rows.append(
            [
                str(number),
                str(outcome["chosen"]),
                _value(outcome["value"]),
                "-" if second is None else str(second),
                _runner_up(outcome),
                ", ".join(map(str, outcome["ties"])) or "-",
                _candidates(outcome),
            ]
        )
    head = ["round", "removed", "objective", "next best", "its objective", "ties", "candidates"]
    return _table(head, rows, set(range(7)))


def _table(head: Sequence[str], rows: Sequence[Sequence[Cell]], numeric: set[int]) -> Table:
    return Table(name="ranking", caption="", head=head, rows=rows, numeric=frozenset(numeric))


def objective_line(scores: Mapping[str, Any]) -> str:
    """What the objective of a search is, and on how much it was measured; empty where a criterion has none.

    >>> objective_line({"objective": {"measure": "kl", "num_texts": 8}, "num_tokens": 1194})
    'objective: minus the KL divergence from the original model, nats a token; 8 texts, 1,194 tokens'
    """
    objective = scores.get("objective") or {}
    if measure := _MEASURES.get(str(objective.get("measure"))):
        texts = counted(objective["num_texts"], "text")
        if traces := scores.get("traces"):
            of_tasks = ", ".join(f"{count} of {name}" for name, count in traces.items())
            texts = f"right answers of the original model: {of_tasks}"
        return f"objective: minus the {measure}; {texts}, {scores['num_tokens']:,} tokens"
    if rows := scores.get("selected_scores"):
        items = ", ".join(f"{row['n']} of {row['task']} ({row['readout']})" for row in rows)
        return f"objective: share of the original model's score that is kept, mean of tasks; selection items: {items}"
    return ""


def race_line(race: Mapping[str, Any], rounds: Sequence[Mapping[str, Any]]) -> str:
    """How many candidates racing stopped, how many answers that saved, and how to read the bounds."""
    num_stopped = sum(value is None for outcome in rounds for value in outcome["values"])
    everyone = race["answers"] + race["saved"]
    share = 100 * race["saved"] / everyone if everyone else 0.0
    line = f"{num_stopped} candidates were stopped when they could no longer win"
    if race["mode"] == "confident":
        line += f" (a round's best may be among them, with a probability of at most {race['error_per_round']:g})"
    return f"{line}; that saved {race['saved']} of {counted(everyone, 'answer')} ({share:.0f} %)."


def close_line(num_close: int, num_answers: int) -> str:
    """How many answers depend on rounding, and what to do about it."""
    return (
        f"{num_close} of {counted(num_answers, 'answer')} have a token whose runner-up is as likely to within one "
        "rounding of the model's dtype; batch composition may change them. --dtype float32 removes this effect."
    )


def _runner_up(outcome: Mapping[str, Any]) -> str:
    if not outcome.get("runner_up_is_bound"):
        return _value(outcome.get("runner_up_value"))
    place = outcome["candidates"].index(outcome["runner_up"])
    seen, num_items = outcome["num_answered"][place], outcome["num_items"]
    return f"<= {_value(outcome['runner_up_value'])}, stopped after {seen} of {counted(num_items, 'item')}"


def _candidates(outcome: Mapping[str, Any]) -> str:
    count = str(len(outcome["candidates"]))
    if not outcome.get("num_items"):
        return count
    return f"{count}, {sum(value is None for value in outcome['values'])} stopped"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
