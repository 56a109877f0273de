"""The diagnostics in a report: title and question of each, and the table of failing programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from layercut.evidence.program_classes import FINE, ProgramClass
from layercut.report.table import Table, text_columns

_WORDS = {
    "never_closed": "bracket never closed",
    "unmatched": "bracket closes nothing",
    "mismatched": "bracket of another kind",
    "cut": "cut by the length limit",
}
UNCUT = "uncut"


def program_table(classes: Mapping[str, Mapping[ProgramClass, int]], name: str, task: str, model: str) -> Table:
    """How many programs of each model end in each way, with shares of all and of those that fail.

    Args:
        classes: by model, its programs by class.
        task: what was asked, for the caption.
        model: what the models differ in, for the head.
    """

    def cell(counts: Mapping[ProgramClass, int], kind: ProgramClass) -> str:
        count, failed = counts.get(kind, 0), sum(count for of, count in counts.items() if of not in FINE)
        of_failed = f"; {100 * count / failed:.0f} %" if failed and kind not in FINE else ""
        return f"{count} ({100 * count / sum(counts.values()):.0f} %{of_failed})"

    kinds = list(dict.fromkeys(kind for counts in classes.values() for kind in counts))
    lines = [[variant, *(cell(counts, kind) for kind in kinds)] for variant, counts in classes.items()]
    columns = text_columns(model, *(_WORDS.get(kind, kind.replace("_", " ")) for kind in kinds))
    caption = f"{task}Outcomes of the generated programs: number (% of all; % of those that fail)."
    return Table(name=name, caption=caption, columns=columns, rows=lines)


class DiagnosticSection(NamedTuple):
    """One diagnostic in a report."""

    title: str
    question: str


SECTIONS: Mapping[str, DiagnosticSection] = {
    "arithmetic": DiagnosticSection(
        "Arithmetic", "Is the result of an expression still written, ranked first among near misses, and likely?"
    ),
    "brackets": DiagnosticSection(
        "Brackets and syntax", "Does the model still close brackets, in sequences of growing depth and in programs?"
    ),
    "degeneration": DiagnosticSection(
        "Degeneration", "Does the model repeat itself, run on without an end, or say nothing?"
    ),
    "propagation": DiagnosticSection(
        "Propagation", "Does damage occur at single tokens, or does it grow along the answer?"
    ),
}
