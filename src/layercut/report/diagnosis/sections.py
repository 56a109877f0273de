"""Sections of a diagnosis report: title, question, figure and lines for each diagnostic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from layercut.evidence.diagnosis import Diagnosis
from layercut.evidence.program_classes import FINE
from layercut.report.elements import Figure
from layercut.report.figures import diagnosis as figures
from layercut.report.table import Column, Part, Table
from layercut.text.counting import counted
from layercut.text.markup import escape
from layercut.text.numbers import number


class DiagnosticSection(NamedTuple):
    """One diagnostic in a report."""

    title: str
    question: str
    figure: Callable[[Diagnosis, Sequence[str]], Figure | None]
    """Draws the diagnosis of the named pruned models; None where there is nothing to draw."""
    lines: Callable[[Diagnosis], list[Part]]
    """Markdown and tables beside the table of measures."""


_WORDS = {
    "never_closed": "bracket never closed",
    "unmatched": "bracket closes nothing",
    "mismatched": "bracket of another kind",
    "no_code": "no code",
    "cut": "cut by the length limit",
}


def _brackets(found: Diagnosis) -> list[Part]:
    """Number of programs by how they end, share of all, share of those that fail."""
    classes = found["data"].get("classes", {})
    names = program_classes(classes)
    if not names:
        return []
    columns = [Column("", program_words), *(Column(arm, partial(program_cell, classes[arm])) for arm in classes)]
    table = Table(name="diagnosis-brackets-more", caption="Brackets and syntax", columns=columns, rows=names)
    return [PROGRAM_SHARES, "", table, ""]


PROGRAM_SHARES = "Outcomes of the generated programs: number (% of all; % of those that fail)."


def program_classes(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The classes that occur in any model."""
    return list(dict.fromkeys(name for counts in classes.values() for name in counts))


def program_words(name: str) -> str:
    """A class for people."""
    return _WORDS.get(name, name.replace("_", " "))


def program_cell(counts: Mapping[str, int], name: str) -> str:
    """Number and shares of one class, given how often each occurs in one model."""
    number, total = counts.get(name, 0), sum(counts.values())
    failed = sum(count for one, count in counts.items() if one not in FINE)
    share = f"{100 * number / total:.0f} %"
    return f"{number} ({share})" if name in FINE or not failed else f"{number} ({share}; {100 * number / failed:.0f} %)"


def _degeneration(found: Diagnosis) -> list[Part]:
    """Endings of the answers."""
    finish = found["data"].get("finish", {})
    said = [
        f"{escape(arm)}: " + ", ".join(f"{count} by {reason}" for reason, count in sorted(counts.items()))
        for arm, counts in finish.items()
    ]
    return [f"How answers ended. {'; '.join(said)}.", ""] if said else []


def _propagation(found: Diagnosis) -> list[Part]:
    """Places where answers first go wrong."""
    text: list[Part] = []
    for arm, where in found["data"].get("first_wrong", {}).items():
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(where["kinds"].items(), key=lambda one: -one[1]))
        line = (
            f"- {escape(arm)}: {where['parted']} of {counted(where['traces'], 'answer')} differ from the original "
            "model's"
        )
        if where["parted"]:
            line += (
                f". First difference: {kinds}; {where['at_first_token']} at the very first token. In "
                f"{where['wrong_when_forced']} of them the original token is not the first choice under teacher "
                f"forcing either"
            )
        text.append(f"{line}.")
    return [*text, ""] if text else []


def _demoted(found: Diagnosis) -> list[Part]:
    """Outcomes of the items that were lost."""
    verdicts = found["data"].get("verdicts", {})
    text: list[Part] = []
    for arm, counts in verdicts.items():
        line = f"- {escape(arm)}: of {counted(counts['lost'], 'item')} lost under greedy decoding, "
        line += f"{counts['demoted']} demoted and {counts['erased']} erased."
        if counts["lost"]:
            line += (
                f" Their right numbers are {number(counts['times'], share=False)} times as likely as by guessing the "
                f"digits (geometric mean). {counts['drawn']} come right in at least one sampled answer, "
                f"{counts['guessed']:.1f} would by guessing. One more worked example recovers {counts['helped']}."
            )
        text.append(line)
    if any("times" in counts for counts in verdicts.values()):
        text.append(
            "- Demoted: the right number is at least four times as likely as by guessing its digits. A model that "
            "knows nothing of the result reaches that for one item in four at most."
        )
    return [*text, ""] if text else []


SECTIONS: Mapping[str, DiagnosticSection] = {
    "arithmetic": DiagnosticSection(
        "Arithmetic",
        "Is the result of an expression still written, ranked first among near misses, and likely?",
        figures.shares,
        lambda found: [],
    ),
    "brackets": DiagnosticSection(
        "Brackets and syntax",
        "Does the model still close brackets, in sequences of growing depth and in programs?",
        figures.brackets,
        _brackets,
    ),
    "degeneration": DiagnosticSection(
        "Degeneration",
        "Does the model repeat itself, run on without an end, or say nothing?",
        figures.shares,
        _degeneration,
    ),
    "propagation": DiagnosticSection(
        "Propagation",
        "Does damage occur at single tokens, or does it grow along the answer?",
        figures.propagation,
        _propagation,
    ),
    "demoted": DiagnosticSection(
        "Demoted or erased",
        "Is the right answer still likely, but no longer the first choice?",
        figures.shares,
        _demoted,
    ),
}
