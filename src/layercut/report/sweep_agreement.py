"""Do tasks and criteria agree on the layers? The part of a sweep's tables and report that answers this."""

from __future__ import annotations

from collections.abc import Sequence

from layercut.evidence.sweep import Agreement, Sweep
from layercut.report.elements import Part, Table
from layercut.text.markup import escape


def agreement_table(agreements: Sequence[Agreement]) -> Table:
    """A line for each two rankings."""
    return Table(
        name="agreement",
        caption="Do tasks and criteria agree on the layers?",
        head=["ranking", "and", "layers", "Spearman's rho"],
        rows=[_agreement_cells(one) for one in agreements],
        numeric=frozenset({2}),
    )


def _agreement_cells(one: Agreement) -> tuple[str, str, str, str]:
    second = "itself, on the other half of its items" if one.kind == "halves" else one.second
    estimate, refused = one.rho
    if estimate is None:
        return one.first, second, "-", f"n/a: {refused}"
    ends = "n/a" if estimate.low is None or estimate.high is None else f"{estimate.low:.2f}, {estimate.high:.2f}"
    return one.first, second, str(estimate.n), f"{estimate.value:.2f} [{ends}]"


def agreement_parts(sweep: Sweep) -> list[Part]:
    """The table, with what the numbers mean."""
    agreements = sweep.agreements()
    if not agreements:
        return ["There is nothing to compare: no task whose uncut score is above chance, and fewer than two criteria."]
    return [agreement_table(agreements), "", *(f"- {escape(line)}" for line in about_agreements(sweep))]


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
