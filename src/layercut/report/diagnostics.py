"""The diagnostics in a report: title, question, figure and text of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from layercut.evidence.program_classes import FINE
from layercut.report.table import Column, Table
from layercut.text import number_text

_WORDS = {
    "never_closed": "bracket never closed",
    "unmatched": "bracket closes nothing",
    "mismatched": "bracket of another kind",
    "no_code": "no code",
    "cut": "cut by the length limit",
}
PROGRAM_SHARES = "Outcomes of the generated programs: number (% of all; % of those that fail)."
UNCUT = "uncut"
Counts = Mapping[str, Any]
"""Numbers of one model by name."""
Cells = Mapping[str, Callable[[Counts], Any]]
"""Cells of a line, made of such numbers, by name of the column."""


def counts_table(counts: Mapping[str, Counts], cells: Cells, *, name: str, caption: str, model: str = "model") -> Table:
    """A line for each model, by name; ``model`` is what the models differ in."""

    def shown(cell: Callable[[Counts], Any], variant: str) -> str:
        return str(cell(counts[variant]))

    columns = [model_column(model), *(Column(title, partial(shown, cell)) for title, cell in cells.items())]
    return Table(name=name, caption=caption, columns=columns, rows=list(counts))


def model_column(name: str) -> Column:
    """The names of the models, of which a single skipped layer is shown by its number."""
    return Column(name, lambda variant: variant.removeprefix("layer-"))


def program_cells(models: Iterable[Counts]) -> Cells:
    """How many programs end in each way, with shares of all and of those that fail."""

    def share(kind: str, counts: Counts) -> str:
        count, total = counts.get(kind, 0), sum(counts.values())
        failed = sum(count for of, count in counts.items() if of not in FINE)
        shares = f"{100 * count / total:.0f} %"
        if failed and kind not in FINE:
            shares += f"; {100 * count / failed:.0f} %"
        return f"{count} ({shares})"

    kinds = dict.fromkeys(kind for counts in models for kind in counts)
    return {_WORDS.get(kind, kind.replace("_", " ")): partial(share, kind) for kind in kinds}


def _verdict_cells(models: Iterable[Counts]) -> Cells:
    """How likely the right answers of lost items still are."""
    return {
        **{name: itemgetter(name) for name in ("lost", "demoted", "erased")},
        "times as likely": lambda verdict: number_text(verdict["times"], share=False) if verdict["lost"] else "-",
    }


class DiagnosticSection(NamedTuple):
    """One diagnostic in a report."""

    title: str
    question: str
    counted: str = ""  # name of numbers by model in its data, which have a table of their own
    cells: Callable[[Iterable[Counts]], Cells] = program_cells
    caption: str = PROGRAM_SHARES


SECTIONS: Mapping[str, DiagnosticSection] = {
    "arithmetic": DiagnosticSection(
        "Arithmetic", "Is the result of an expression still written, ranked first among near misses, and likely?"
    ),
    "brackets": DiagnosticSection(
        "Brackets and syntax",
        "Does the model still close brackets, in sequences of growing depth and in programs?",
        "classes",
    ),
    "degeneration": DiagnosticSection(
        "Degeneration", "Does the model repeat itself, run on without an end, or say nothing?"
    ),
    "propagation": DiagnosticSection(
        "Propagation",
        "Does damage occur at single tokens, or does it grow along the answer?",
    ),
    "demoted": DiagnosticSection(
        "Demoted or erased",
        "Is the right answer still likely, but no longer the first choice?",
        "verdicts",
        _verdict_cells,
        "Items lost under greedy decoding. Demoted: the right number is at least four times as likely as by guessing "
        "its digits; a model that knows nothing of the result reaches that for one item in four at most. times as "
        "likely: geometric mean.",
    ),
}
