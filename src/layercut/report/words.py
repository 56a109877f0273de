"""Sentences that tables and reports share: the plan, the findings, how the numbers were made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from layercut.evidence.comparison import KEPT, ComparedRun, ComparisonRow
from layercut.evidence.intervals import ALPHA, NUM_RESAMPLES
from layercut.report.elements import Styled
from layercut.runs.prune import TimedSpeed
from layercut.text import (
    HasInterval,
    at_least,
    count_of,
    format_layers,
    number_text,
    parameters_text,
    with_interval,
)

_PIECE = re.compile(r"\s*(?:[0-9]|[^\W\d]+|[^\w\s])|\s+")
"""A digit, a word or a sign, with the white space before it."""
Look = Literal["plain", "faint", "right", "wrong", "weak"]
READOUTS = {
    "rank": "ranked by likelihood",
    "short": "short answer",
    "chain": "chain of steps",
}
REST = "rest of the test set: without the items of the half that a plan or a healing behind one of these models used."
"""Meaning of the words for a test set."""


_WORSE = f"worse than uncut (interval below 0, p < {ALPHA} by Holm)"
FINDINGS: dict[str, tuple[Look, str]] = {
    "passed": ("right", "keeps at least what was asked for, by its one-sided lower bound"),
    "shown to fail": ("wrong", "keeps less than was asked for, by its upper bound"),
    "kept": ("right", f"at least {KEPT:.0%} of the score above chance, over the whole interval"),
    "damaged": ("weak", f"{_WORSE}, still above chance"),
    "lost": ("wrong", f"{_WORSE}, and not significantly above chance"),
    "better": ("right", f"better than uncut (interval above 0, p < {ALPHA} by Holm)"),
    "gained": ("right", "better than uncut and above chance, where uncut is not significantly above chance"),
    "undecided": (
        "plain", f"too few items to tell a loss from {KEPT:.0%} kept, or whether what was asked for is kept"
    ),
    "at chance": ("plain", "the original model is not significantly above chance; there is nothing to lose"),
}  # fmt: skip
"""Colours and meanings of findings."""


VERDICTS: dict[str, tuple[Look, str]] = {
    "worse": ("wrong", "B loses more than the margin (upper bound, at 5 % for all rows together)"),
    "too few items": ("weak", "B may lose more than the margin, or less; needed: items in all that decide in 80 %"),
    "not worse": ("right", "B loses less than the margin (lower bound); it may gain more"),
    "equivalent": ("right", "B differs by less than the margin (both bounds)"),
    "better": ("right", f"B is better (interval above 0, p < {ALPHA} by Holm)"),
    "not judged": ("faint", "see the note"),
    "not shown": ("faint", "no significant difference"),
}
"""Colours and meanings of the verdicts of ``compare``, the worst first."""
BOUNDS = "bounds: B - A in points, or for a margin in % what B keeps; each end holds in 95 %."
CHANGES = (
    "other answer: of the items with the same score, those with another answer. same wrong: of the items that both get "
    "wrong, those with the same answer. right option: mean change of its log-likelihood in nats, B - A."
)


def finding_cell(finding: str, otherwise: Look = "plain") -> Styled:
    """A finding, or the verdict of a rule, with its colour."""
    look = FINDINGS[finding][0] if finding in FINDINGS else "plain"
    return Styled(finding, otherwise if look == "plain" else look)


def word_meanings(rows: Sequence[ComparisonRow]) -> list[str]:
    """Meaning of the findings of these rows, a sentence each."""
    present = {row.finding for row in rows}
    return [f"{name}: {meaning}." for name, (_, meaning) in FINDINGS.items() if name in present]


def readout_words(readout: str) -> str:
    """A readout for people."""
    return READOUTS.get(readout, readout)


def task_and_readout(task: str, readout: str) -> str:
    """A task and its readout for people."""
    return f"{task} ({readout_words(readout)})"


def task_cell(task: str, readout: str) -> Styled:
    """A task, and below it how it is answered."""
    return Styled(task, "plain", below=(readout_words(readout),))


def readout_name(rows: Sequence[ComparisonRow]) -> Callable[[ComparisonRow], str]:
    """Name the readout of one of these rows, with the metric where the readout has several in the same run."""
    metrics: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        metrics.setdefault((row.cut.name, row.task, row.readout), set()).add(row.metric)

    def name(row: ComparisonRow) -> str:
        has_several = len(metrics[row.cut.name, row.task, row.readout]) > 1
        return f"{row.readout}: {row.metric}" if has_several else row.readout

    return name


def removal_words(run: ComparedRun) -> str:
    """``3 of 30 decoder layers removed (10.0 %): 27-29``; ``uncut`` where none is, and how it was healed."""
    if run.num_layers is None:
        return run.origin or "no plan recorded"
    if not run.is_cut:
        return f"{run.origin or 'uncut'}, {count_of(run.num_layers, 'decoder layer')}"
    of_layers = f"{run.depth} of {run.num_layers} decoder layers removed ({run.depth / run.num_layers:.1%})"
    layers = f"{of_layers}: {format_layers(run.removed)}" if run.removed else ""
    channels = f"{run.mlp:.1%} of the MLP channels removed" if run.mlp else ""
    healed = f", healed ({run.healing})" if run.healing else ""
    return "; ".join(filter(None, ("; ".join(filter(None, (layers, channels))) + healed, run.origin)))


def size_change_words(uncut: ComparedRun, cut: ComparedRun) -> str:
    """``134.5M to 123.9M parameters (-7.9 %)``; empty where a run does not record them."""
    if not uncut.num_parameters or not cut.num_parameters:
        return ""
    change = cut.num_parameters / uncut.num_parameters - 1
    return (
        f"{parameters_text(uncut.num_parameters)} to {parameters_text(cut.num_parameters)} parameters ({change:+.1%})"
    )


def scope_words(rows: Sequence[ComparisonRow]) -> list[str]:
    """What one plan removes, the size of both models where it is recorded, and the items; rows of one pruned model."""
    first = rows[0]
    return [
        *filter(None, (removal_words(first.cut), size_change_words(first.uncut, first.cut))),
        item_count_words(rows),
    ]


def items_words(numbers: Sequence[int], limits: Sequence[int | None]) -> str:
    """``64 items per task (--limit 64)``; a limit always shows."""
    least, most = min(numbers), max(numbers)
    text = count_of(least, "item") if least == most else f"{least:,} to {most:,} items"
    set_limits = ", ".join(map(str, sorted({limit for limit in limits if limit is not None})))
    return f"{text} per task (--limit {set_limits})" if set_limits else f"{text} per task"


def item_count_words(rows: Sequence[ComparisonRow]) -> str:
    """The number of items of compared tasks."""
    return items_words([row.n for row in rows], [row.limit for row in rows])


def test_set_words(rows: Sequence[ComparisonRow]) -> str:
    """``humaneval_plus: full test set, 164; ...``; empty for tasks that make their items."""
    return "; ".join(dict.fromkeys(f"{row.task}: {row.asked}" for row in rows if row.asked))


def swapped_words(row: Any) -> str:
    """Items lost and gained, ``12/3``; a dash for scores that are not 0/1."""
    return "-" if row.values.lost is None else f"{row.values.lost}/{row.values.gained}"


def score_words(value: float, is_share: bool, digits: int = 1) -> str:
    """A score with its unit: ``57.8 %``."""
    return number_text(value, share=is_share, digits=digits) + " %" * is_share


def before_and_after(row: Any, is_share: bool, digits: int = 1) -> list[str]:
    """Both models' scores with their unit."""
    return [score_words(model.value, is_share, digits) for model in (row.values.uncut, row.values.cut)]


def retained_words(estimate: HasInterval | None) -> str:
    """A retention with its interval, without the unit."""
    return "n/a" if estimate is None else with_interval(estimate)


def kept_words(estimate: HasInterval | None) -> str:
    """A retention with its interval in percent."""
    return "n/a" if estimate is None else f"{with_interval(estimate)} %"


def bound_words(share: float | None, none: str = "n/a") -> str:
    """A lower bound of what is kept, in percent."""
    return none if share is None else f"{at_least(share)} %"


def score_units(shares: Iterable[bool]) -> str:
    """The unit of scores, by whether each is a share."""
    units = {True: "%", False: "the metric's own unit"}
    return f"Scores in {', and in '.join(units[share] for share in sorted(set(shares), reverse=True)) or '%'}"


def isolation_words(environment: Mapping[str, Any]) -> list[str]:
    """A sentence that names the isolation of generated programs, first and after each resumption under another one;
    none where no program was run."""
    entries = [environment, *environment.get("resumed", ())]
    named = "; later ".join(dict.fromkeys(entry["sandbox"] for entry in entries if "sandbox" in entry))
    return [f"Isolation of generated programs: {named}."] if named else []


def how_scores_made(rows: Sequence[ComparisonRow]) -> list[str]:
    """Meaning of intervals, retention and chance, one sentence each."""
    seeds = ", ".join(map(str, sorted({row.seed for row in rows})))
    lines = [
        f"{score_units(row.is_share for row in rows)}, with 95 % intervals: Wilson for right and wrong, BCa bootstrap "
        f"otherwise; difference and retention by a Bayesian bootstrap over paired items ({NUM_RESAMPLES:,} resamples, "
        f"seed {seeds}).",
        "kept: (cut - chance) / (uncut - chance), or cut / uncut without a chance level; 100 is no loss, 0 is "
        "guessing, n/a where the original model is not above chance.",
    ]
    if len(rows) > 1:
        lines.append(
            f"{len(rows)} comparisons: about 1 in 20 intervals misses by chance. Findings use p-values that hold "
            "for all of them together (McNemar's exact test or sign flips, corrected by Holm)."
        )
    if any(row.asked.startswith("rest") for row in rows):
        lines.append(REST)
    contexts = {row.task: row.values.num_clusters for row in rows if row.values.num_clusters is not None}
    if contexts:
        named = ", ".join(f"{task} ({count_of(count, 'context')})" for task, count in contexts.items())
        lines.append(f"Items that share a template, subject or text are clustered: {named}.")
    return lines


def speed_words(timed: TimedSpeed) -> str:
    """One speed of both models with their ratio."""
    short = timed.unit == "s" and max(timed.uncut.value, timed.cut.value) < 1
    values = [(1000 if short else 1) * model.value for model in (timed.uncut, timed.cut)]
    before, after = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    ratio = f"{times_words(timed)}, batch {timed.batch_size}, n {timed.ratio.n}"
    return f"{timed.name} {before} to {after} {'ms' if short else timed.unit} ({ratio})"


def times_words(timed: TimedSpeed) -> str:
    """The ratio of both models' speeds: ``x 0.72 [0.70, 0.74]``."""
    low, high = timed.ratio.low, timed.ratio.high
    return f"x {timed.ratio.value:.2f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def first_difference(uncut: str, cut: str) -> tuple[int, int]:
    """Begin and end of the first wrong digit, word or sign of the cut answer; one place twice where there is none.

    >>> first_difference("7 + 5 = 12", "7 + 5 = 17")
    (9, 10)
    """
    same = next((i for i, (a, b) in enumerate(zip(uncut, cut, strict=False)) if a != b), min(len(uncut), len(cut)))
    start = 0
    for piece in _PIECE.findall(uncut):
        if start + len(piece) > same:
            break
        start += len(piece)
    wrong = _PIECE.match(cut, start)
    return start, max(wrong.end() if wrong else start, min(same + 1, len(cut)))
