"""On a terminal: the scores of one run, the ranking that a plan comes from, and the list of run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from layercut.evidence.comparison import OUTCOMES, ComparedRun
from layercut.evidence.intervals import Estimate
from layercut.report import words
from layercut.report.elements import Cell, Column, Styled, Table, terminal_table, text_columns
from layercut.runs.directory import RunSummary
from layercut.runs.draft import DraftResult
from layercut.surgery.plan import mlp_share, origin_of_plan
from layercut.text import count_of, make_bare_table, number_text, of_test_set, two_decimals, with_interval

_GOES = Styled("goes", "wrong")
_MEASURES = {
    "nll": "cross-entropy, nats a token",
    "kl": "KL divergence from the original model, nats a token",
}


def metrics_table(metrics: Mapping[str, Any]) -> RenderableType:
    """The scores in a run's metrics.json and how its answers ended, one line per task, readout and metric."""
    rows: Sequence[Mapping[str, Any]] = metrics["rows"]
    plan: Mapping[str, Any] = metrics.get("plan") or {}
    scope = []
    if plan:
        removed, num_layers = tuple(plan.get("removed", ())), plan.get("num_layers")
        run = ComparedRun(
            name="", num_layers=num_layers, removed=removed, mlp=mlp_share(plan), origin=origin_of_plan(plan)
        )
        scope.append(words.removal_words(run))
    if rows:
        scope.append(words.items_words([row["n"] for row in rows], [row["limit"] for row in rows]))
    sets = [(row["task"], of_test_set(row["n"], row.get("test_set"), row.get("split", ""))) for row in rows]
    named = "; ".join(dict.fromkeys(f"{task}: {text}" for task, text in sets if text))
    unit = words.score_units(0 <= row["value"] <= 1 for row in rows)
    notes = [
        (f"{unit} with 95 % intervals. right ... cut: answers; cut by the length limit.", "dim"),
        (f"Items: {named}." if named else "", "dim"),
        (words.REST if any(text.startswith("rest") for _, text in sets) else "", "dim"),
    ]
    shown = (Text(text, style=style) for text, style in notes if text)
    return Group(Text(" · ".join(scope)), terminal_table(scores_table(rows)), *shown)


def scores_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each task, readout and metric of one run: ``rows`` of its metrics.json."""
    lines: list[list[str]] = []
    keys = [(row["task"], row["readout"]) for row in rows]
    for place, (row, key) in enumerate(zip(rows, keys, strict=True)):
        is_new = place == 0 or rows[place - 1]["task"] != row["task"]
        share = all(0 <= row[name] <= 1 for name in ("value", "low", "high", "chance") if row[name] is not None)
        estimate = Estimate(row["value"], row["low"], row["high"], row["n"], row["method"])
        lines.append(
            [
                row["task"] * is_new,
                row["readout"] + (f": {row['metric']}" if keys.count(key) > 1 else ""),
                f"{row['n']:,}",
                "-" if row["chance"] is None else number_text(row["chance"], share=share),
                with_interval(estimate, share=share),
                *("" if key in keys[:place] else str(row["outcomes"].get(name, 0)) for name in OUTCOMES),
            ]
        )
    ends = [name.replace("_", " ") for name in OUTCOMES]
    heads = ("task", "readout", "n", "chance", "score", *ends)
    columns = text_columns(*heads, numeric=("n", "chance", *ends), narrow={"n": 1})
    return Table(name="metrics", caption="", columns=columns, rows=lines)


def table_of_runs(runs: Sequence[RunSummary], *, now: datetime | None = None) -> RenderableType:
    """Run folders with their state, age and command."""
    now = now or datetime.now(UTC)
    table = make_bare_table()
    table.expand = True
    table.add_column("run", overflow="fold", min_width=min(40, max((len(str(run.path)) for run in runs), default=0)))
    table.add_column("state", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("command", no_wrap=True, overflow="ellipsis", ratio=1)
    for run in runs:
        age = "?" if run.begun is None else _age(now - run.begun)
        style = {"finished": "green", "running": "cyan"}.get(run.status, "yellow")
        table.add_row(str(run.path), Text(run.status, style=style), age, run.command)
    return table


def _age(since: timedelta) -> str:
    seconds = max(0, int(since.total_seconds()))
    size, unit = next((step for step in ((86_400, "d"), (3_600, "h"), (60, "min")) if seconds >= step[0]), (1, "s"))
    return f"{seconds // size} {unit}"


def ranking_table(plan: Mapping[str, Any]) -> RenderableType:
    """The ranking behind a plan, of ``CutPlan.to_dict()``: scores per layer, rounds of a search, or the order."""
    scores, removed = plan.get("scores") or {}, plan["removed"]
    rounds = scores.get("rounds") or []
    parts: list[str | Table] = [objective_line(scores)]
    if importance := scores.get("importance"):
        # Ties as a criterion breaks them: of equals the later layer goes first.
        order = sorted(importance, key=lambda layer: (importance[layer], -int(layer)))
        lines: list[list[Cell]] = [
            [str(rank), layer, f"{importance[layer]:.6g}", _GOES if int(layer) in removed else ""]
            for rank, layer in enumerate(order, start=1)
        ]
        parts.append(_table(("rank", "layer", "importance", ""), lines))
    if rounds:
        uncut = scores.get("uncut")
        parts += ["" if uncut is None else f"objective of the original model: {uncut:z.4f}", _rounds(rounds)]
    parts = list(filter(None, parts))
    if not parts and removed:
        parts.append("order of removal: " + ", ".join(map(str, removed)))
    return Group(*(Text(part) if isinstance(part, str) else terminal_table(part) for part in parts))


def _table(heads: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Table:
    columns = text_columns(*heads, numeric=[head for head in heads if head])
    return Table(name="ranking", caption="", columns=columns, rows=rows)


def _rounds(rounds: Sequence[Mapping[str, Any]]) -> Table:
    lines: list[list[Cell]] = []
    for place, outcome in enumerate(rounds, start=1):
        second = outcome.get("runner_up")
        bound = "<= " * bool(outcome.get("runner_up_is_bound"))  # it was stopped once it could not win
        chosen = [str(place), str(outcome["chosen"]), _value(outcome["value"])]
        ties = ", ".join(map(str, outcome["ties"])) or "-"
        next_best = ["-" if second is None else str(second), bound + _value(outcome.get("runner_up_value"))]
        lines.append([*chosen, *next_best, ties, str(len(outcome["candidates"]))])
    return _table(("round", "removed", "objective", "next best", "its objective", "ties", "candidates"), lines)


def objective_line(scores: Mapping[str, Any]) -> str:
    """The objective of a search, with the number of texts or items; empty where a criterion has none.

    >>> objective_line({"objective": {"measure": "kl", "num_texts": 8}, "num_tokens": 1194})
    'objective: minus the KL divergence from the original model, nats a token; 8 texts, 1,194 tokens'
    """
    objective = scores.get("objective") or {}
    if measure := _MEASURES.get(str(objective.get("measure"))):
        texts = count_of(objective["num_texts"], "text")
        if traces := scores.get("traces"):
            of_tasks = ", ".join(f"{count} of {name}" for name, count in traces.items())
            texts = f"right answers of the original model: {of_tasks}"
        return f"objective: minus the {measure}; {texts}, {scores['num_tokens']:,} tokens"
    items = ", ".join(f"{row['n']} of {row['task']} ({row['readout']})" for row in scores.get("selected_scores") or ())
    text = f"objective: share of the original model's score that is kept, mean of tasks; selection items: {items}"
    return text if items else ""


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def held_out_line(scores: Mapping[str, Any]) -> str:
    """The value that was maximised, on the items that chose a plan and on held-out ones; empty where it has none."""
    if not (scored := scores.get("held_out")):
        return ""
    objective = scored["objective"]
    selected, held = objective["selected"], objective["held_out"]
    if selected is None:
        return f"no objective: {objective['refused']}"
    line = f"objective (uncut 1): {selected:.4f} on the items that it was chosen on, too good by construction; "
    if held is None:
        return f"{line}no value on held-out items: {objective['refused']}."
    value = f"{held['value']:.4f}" + ("" if held["low"] is None else f" [{held['low']:.4f}, {held['high']:.4f}]")
    return f"{line}{value} on {held['n']} held-out ones, seed {scored['seed']}."


def draft_tables(result: DraftResult) -> list[Table]:
    """Make the table of the measured answers, and that of the plans."""
    measured = [
        Column("answers to", lambda row: row.task),
        Column("n", lambda row: str(row.speedup.n), numeric=True),
        Column("tokens", lambda row: f"{row.tokens:,}", numeric=True),
        Column("equal to the letter", lambda row: str(row.num_same), numeric=True),
        Column("accepted", lambda row: f"{number_text(row.accepted.value)} %", numeric=True, narrow=1),
        Column("tokens a round", lambda row: f"{row.per_round.value:.2f}", numeric=True),
        Column("speed-up", lambda row: f"x {two_decimals(row.speedup)}"),
    ]
    plans = [
        Column("draft", lambda row: Styled(row.words, "strong" if row is result.chosen else "plain")),
        Column("reads", lambda row: f"{number_text(row.read)} %", numeric=True, narrow=1),
        Column("a step", lambda row: f"{number_text(row.step)} %", numeric=True),
        Column("same token", lambda row: f"{number_text(row.agrees)} %", numeric=True),
        Column("window", lambda row: str(row.window), numeric=True),
        Column("forecast", lambda row: f"x {row.forecast:.2f}", numeric=True),
    ]
    rows = [*(result.tasks if len(result.tasks) > 1 else ()), result.measured]
    caption = "Answers to report items, written with and without the draft"
    return [
        Table(name="measured", caption=caption, columns=measured, rows=rows),
        Table(name="drafts", caption="Drafts of the search", columns=plans, rows=list(result.plans)),
    ]
