"""A draft on a terminal: what was measured, and the plans of the search."""

from __future__ import annotations

from layercut.report.table import Column, Styled, Table
from layercut.runs.draft import DraftResult
from layercut.text import number_text, two_decimals


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
