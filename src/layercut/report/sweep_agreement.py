"""Do tasks and criteria agree on the layers? This part of a sweep's tables and report answers it."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from layercut.evidence.sweep import Agreement, Sweep
from layercut.text.markup import escape


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """For the terminal."""
    table = plain_table()
    for name in ("ranking", "and"):
        table.add_column(name)
    table.add_column("layers", justify="right")
    table.add_column("Spearman's rho")
    for one in agreements:
        table.add_row(*_agreement_cells(one))
    return table


def _agreement_cells(one: Agreement) -> tuple[str, str, str, str]:
    second = "itself, on the other half of its items" if one.kind == "halves" else one.second
    estimate, refused = one.rho
    if estimate is None:
        return one.first, second, "-", f"n/a: {refused}"
    ends = "n/a" if estimate.low is None or estimate.high is None else f"{estimate.low:.2f}, {estimate.high:.2f}"
    return one.first, second, str(estimate.n), f"{estimate.value:.2f} [{ends}]"


def agreement_lines(sweep: Sweep) -> list[str]:
    """As Markdown, with what the numbers mean."""
    agreements = sweep.agreements()
    if not agreements:
        return ["There is nothing to compare: no task whose uncut score is above chance, and fewer than two criteria."]
    lines = ["| ranking | and | layers | Spearman's rho |", "|---|---|---:|---|"]
    lines += ["| " + " | ".join(escape(cell) for cell in _agreement_cells(one)) + " |" for one in agreements]
    return [*lines, "", *(f"- {escape(line)}" for line in about_agreements(sweep))]


def about_agreements(sweep: Sweep) -> list[str]:
    """What the numbers mean, one sentence each."""
    lines = [
        "rho: 1 is the same order of the layers, 0 unrelated, -1 opposite; a task ranks by the loss without the "
        "layer, a criterion by its score. 95 % intervals by Fisher's z over layers. They exclude the noise of the "
        "items, which pulls rho towards 0.",
    ]
    if any(one.kind == "halves" for one in sweep.agreements()):
        lines.append(
            "A task is also compared with itself, one half of its items with the other half. Two tasks, each with all "
            "its items, cannot be expected to agree much more than that."
        )
    return [*lines, *(f"{ranking.name}: {ranking.note}." for ranking in sweep.rankings if ranking.note)]


def plain_table() -> Table:
    """The look of all tables of a sweep."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
