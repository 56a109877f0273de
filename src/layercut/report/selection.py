"""Choice of layers, for the terminal: the ranking that a plan comes from, and its scores on held-out items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from layercut.evidence.intervals import Estimate
from layercut.report.table import Cell, Column, Styled, Table, terminal, texts
from layercut.text.counting import counted
from layercut.text.numbers import number, with_interval

_GOES = Styled("goes", "wrong")
_MEASURES = {
    "nll": "cross-entropy, nats a token",
    "kl": "KL divergence from the original model, nats a token",
    "js": "Jensen-Shannon divergence from the original model, nats a token",
    "top1": "share of tokens whose likeliest one is no longer the original model's",
    "sure": "rise of -ln p, nats a token, of tokens that the original model is sure of",
}


def ranking_table(plan: Mapping[str, Any]) -> RenderableType:
    """The ranking behind a plan, of ``CutPlan.to_dict()``: scores per layer, rounds of a search, or the order."""
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
    if not parts and plan["removed"]:
        parts.append(Text("order of removal: " + ", ".join(map(str, plan["removed"]))))
    return Group(*parts)


def _importance(importance: Mapping[str, float], removed: list[int]) -> Table:
    # Ties as a criterion breaks them: of equals the later layer goes first.
    order = sorted(importance, key=lambda layer: (importance[layer], -int(layer)))
    columns = [
        Column("rank", lambda layer: str(1 + order.index(layer)), numeric=True),
        Column("layer", str, numeric=True),
        Column("importance", lambda layer: f"{importance[layer]:.6g}", numeric=True),
        Column("", lambda layer: _GOES if int(layer) in removed else ""),
    ]
    return Table(name="ranking", caption="", columns=columns, rows=order)


def _blocks(blocks: list[Mapping[str, Any]], removed: list[int]) -> Table:
    def mark(block: Mapping[str, Any]) -> Cell:
        if {block["first"], block["last"]} == {min(removed), max(removed)}:
            return _GOES
        return "" if block["allowed"] else Styled("protected", "faint")

    columns = [
        Column("block", lambda block: f"{block['first']}-{block['last']}"),
        Column("score", lambda block: _value(block["value"]), numeric=True),
        Column("", mark),
    ]
    rows = sorted(blocks, key=lambda block: (block["value"], -block["first"]))
    return Table(name="ranking", caption="", columns=columns, rows=rows)


def _rounds(rounds: list[Mapping[str, Any]]) -> Table:

    def next_best(outcome: Mapping[str, Any]) -> str:
        second = outcome.get("runner_up")
        return "-" if second is None else str(second)

    def its_objective(outcome: Mapping[str, Any]) -> str:
        if not outcome.get("runner_up_is_bound"):
            return _value(outcome.get("runner_up_value"))
        seen = outcome["num_answered"][outcome["candidates"].index(outcome["runner_up"])]
        stopped = f"stopped after {seen} of {counted(outcome['num_items'], 'item')}"
        return f"<= {_value(outcome['runner_up_value'])}, {stopped}"

    def candidates(outcome: Mapping[str, Any]) -> str:
        stopped = f", {sum(value is None for value in outcome['values'])} stopped" if outcome.get("num_items") else ""
        return f"{len(outcome['candidates'])}{stopped}"

    columns = [
        Column("round", lambda outcome: str(outcome["round"]), numeric=True),
        Column("removed", lambda outcome: str(outcome["chosen"]), numeric=True),
        Column("objective", lambda outcome: _value(outcome["value"]), numeric=True),
        Column("next best", next_best, numeric=True),
        Column("its objective", its_objective, numeric=True),
        Column("ties", lambda outcome: ", ".join(map(str, outcome["ties"])) or "-", numeric=True),
        Column("candidates", candidates, numeric=True),
    ]
    rows = [{**outcome, "round": place} for place, outcome in enumerate(rounds, start=1)]
    return Table(name="ranking", caption="", columns=columns, rows=rows)


def objective_line(scores: Mapping[str, Any]) -> str:
    """The objective of a search, with the number of texts or items; empty where a criterion has none.

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
    """Number of candidates that racing stopped, and of the answers that this saved."""
    num_stopped = sum(value is None for outcome in rounds for value in outcome["values"])
    everyone = race["answers"] + race["saved"]
    share = 100 * race["saved"] / everyone if everyone else 0.0
    return (
        f"{num_stopped} candidates were stopped when they could no longer win; that saved {race['saved']} of "
        f"{counted(everyone, 'answer')} ({share:.0f} %)."
    )


def close_line(num_close: int, num_answers: int) -> str:
    """Number of answers that depend on rounding, with the remedy."""
    return (
        f"{num_close} of {counted(num_answers, 'answer')} have a token whose runner-up is as likely to within one "
        "rounding of the model's dtype; batch composition may change them. --dtype float32 removes this effect."
    )


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def held_out_table(scores: Mapping[str, Any]) -> RenderableType | None:
    """Scores of each task on the items that chose the plan and on held-out ones; None where a plan has none."""
    found = scores.get("held_out")
    if not found:
        return None
    rows = [
        line
        for row in found["rows"]
        for line in (
            [f"{row['task']} ({row['readout']})", *_side("chosen on", row["selected"])],
            ["", *_side("held out", row["held_out"])],
        )
    ]
    columns = texts("task", "items", "n", "chance", "uncut", "cut", "difference", numeric=("n", "chance"))
    return Group(
        terminal(Table(name="held-out", caption="", columns=columns, rows=rows)),
        Text(held_out_line(found["objective"])),
        Text(f"Intervals: 95 %, seed {found['seed']}."),
    )


def held_out_line(objective: Mapping[str, Any]) -> str:
    """The value that was maximised, on both kinds of items."""
    selected, held = objective["selected"], objective["held_out"]
    if selected is None:
        return f"no objective: {objective['refused']}"
    line = f"objective (uncut 1): {selected:.4f} on the items that it was chosen on, too good by construction; "
    if held is None:
        return f"{line}no value on held-out items: {objective['refused']}."
    value = f"{held['value']:.4f}" + ("" if held["low"] is None else f" [{held['low']:.4f}, {held['high']:.4f}]")
    return f"{line}{value} on {held['n']} held-out ones."


def _side(kind: str, side: Mapping[str, Any] | None) -> list[str]:
    if side is None:
        return [kind, "0", "", "no items are left: lower --limit", "", ""]
    estimates = {name: Estimate(**side[name]) for name in ("uncut", "cut", "difference")}
    share = all(0 <= estimates[name].value <= 1 for name in ("uncut", "cut"))
    shown = [with_interval(one, share=share, sign=name == "difference") for name, one in estimates.items()]
    return [kind, str(side["n"]), "-" if side["chance"] is None else number(side["chance"], share=share), *shown]
