"""Report of a draft: the answer, what was measured, the plans of the search, and how it is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layercut.report.elements import Block, Lead, Section
from layercut.report.table import Column, Styled, Table
from layercut.runs.draft import DraftResult
from layercut.text import fenced_block, number_text, two_decimals

if TYPE_CHECKING:
    from layercut.report.source import Source


def draft_answer(source: Source) -> Section:
    """Make the section of the answer."""
    result: DraftResult = source.value
    blocks: list[Block] = [
        Lead(lines=[("", result.why)], large=True),
        draft_tables(result)[0],
        f"Greedy answers, {result.dtype}, by turns; 95 % intervals over answers, seed {result.seed}.",
    ]
    return Section(name="answer", title="Is it faster with a draft?", short="Answer", blocks=blocks)


def draft_numbers(source: Source) -> Section:
    """Make the section of the search and its times."""
    result: DraftResult = source.value
    legend = (
        f"Plans are ranked on answers to selection items, {result.serve}, by where they agree with the answer and by "
        "times of steps. *A step*: time of a draft's step, of the original model's. *Same token*: the draft's "
        "likeliest token is the answer's. The forecast leaves out what the loops of transformers take."
    )
    if result.tried:
        legend += f" {result.tried} plans were tried; the first is the fastest."
    checks = ", ".join(f"{place}: {check:.2f}" for place, check in enumerate(result.checks, start=1))
    steps = f"A step of the original model that checks a number of tokens, in times of its step of one token: {checks}."
    blocks: list[Block] = [draft_tables(result)[1], legend, steps]
    return Section(name="numbers", title="How it was chosen", short="Search", blocks=blocks)


def serving_section(source: Source) -> Section | None:
    """Make the section of the commands that serve it; None where it does not pay."""
    if source.value.checkpoint is None:
        return None
    commands = [
        f"{engine}:\n\n" + "\n".join(fenced_block(command)) for engine, command in source.value.commands.items()
    ]
    lead = "Relative paths are from this folder."
    return Section(name="serving", title="Serve it", short="Serve", lead=lead, blocks=commands)


def draft_tables(result: DraftResult) -> list[Table]:
    """Make the table of the measured answers, and that of the plans."""
    measured = [
        Column("answers to", lambda row: row.task),
        Column("n", lambda row: str(row.speedup.n), numeric=True),
        Column("tokens", lambda row: f"{row.tokens:,}", numeric=True),
        Column("equal to the letter", lambda row: str(row.num_same), numeric=True),
        Column("accepted", lambda row: f"{number_text(row.accepted.value)} %", numeric=True, narrow=(1,)),
        Column("tokens a round", lambda row: f"{row.per_round.value:.2f}", numeric=True),
        Column("speed-up", lambda row: f"x {two_decimals(row.speedup)}"),
    ]
    plans = [
        Column("draft", lambda row: Styled(row.words, "strong" if row is result.chosen else "plain")),
        Column("reads", lambda row: f"{number_text(row.read)} %", numeric=True, narrow=(1,)),
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
