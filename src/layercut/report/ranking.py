"""How layers were ranked, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layercut.report.render import bare_table
from layercut.text.counting import counted


def ranking_table(plan: Mapping[str, Any]) -> RenderableType:
    """The ranking behind a plan: scores per layer, or rounds of a search; nothing but the order where there is neither.

    Args:
        plan: ``CutPlan.to_dict()``.
    """
    scores = plan.get("scores") or {}
    parts: list[RenderableType] = []
    if scores.get("importance"):
        parts.append(_importance(scores["importance"], plan["removed"]))
    if scores.get("rounds"):
        parts.append(_rounds(scores["rounds"], scores.get("uncut")))
    if scores.get("race"):
        parts.append(Text(race_line(scores["race"], scores.get("rounds") or [])))
    if scores.get("close_answers"):
        parts.append(Text(close_line(scores["close_answers"], scores["answers"])))
    if scores.get("blocks"):
        parts.append(_blocks(scores["blocks"], plan["removed"]))
    if scores.get("moves"):
        parts.append(
            Text(f"{len(scores['moves'])} moves: {scores.get('start_value'):.4f} -> {scores.get('value'):.4f}")
        )
    return Group(*parts) if parts else Text("order of removal: " + ", ".join(map(str, plan["removed"])))


def _importance(importance: Mapping[str, float], removed: list[int]) -> Table:
    table = bare_table()
    table.add_column("rank", justify="right")
    table.add_column("layer", justify="right")
    table.add_column("importance", justify="right")
    table.add_column("")
    # Ties as a criterion breaks them: of equals the later layer goes first.
    order = sorted(importance, key=lambda layer: (importance[layer], -int(layer)))
    for rank, layer in enumerate(order, start=1):
        goes = int(layer) in removed
        table.add_row(
            str(rank), layer, f"{importance[layer]:.6g}", Text("goes" if goes else "", style="bold red" if goes else "")
        )
    return table


def _blocks(blocks: list[Mapping[str, Any]], removed: list[int]) -> Table:
    table = bare_table()
    table.add_column("block")
    table.add_column("score", justify="right")
    table.add_column("")
    for block in sorted(blocks, key=lambda block: (block["value"], -block["first"])):
        goes = {block["first"], block["last"]} == {min(removed), max(removed)}
        mark = Text("goes", style="bold red") if goes else Text("" if block["allowed"] else "protected", style="dim")
        table.add_row(f"{block['first']}-{block['last']}", _value(block["value"]), mark)
    return table


def _rounds(rounds: list[Mapping[str, Any]], uncut: float | None) -> Table:
    table = bare_table()
    table.title = None if uncut is None else f"objective of the original model: {uncut:.4f}"
    table.title_justify = "left"
    for name in ("round", "removed", "objective", "next best", "its objective", "ties", "candidates"):
        table.add_column(name, justify="right")
    for number, outcome in enumerate(rounds, start=1):
        second = outcome.get("runner_up")
        table.add_row(
            str(number),
            str(outcome["chosen"]),
            _value(outcome["value"]),
            "-" if second is None else str(second),
            _runner_up(outcome),
            ", ".join(map(str, outcome["ties"])) or "-",
            _candidates(outcome),
        )
    return table


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
        f"{num_close} of {counted(num_answers, 'answer')} have a token whose runner-up is as likely to "
        "within one rounding of the "
        "model's dtype; batch composition may change them. --dtype float32 removes this effect."
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
