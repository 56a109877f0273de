"""Is B as good as A within a margin, and which answers changed although the score did not.

Two one-sided tests (Schuirmann, J. Pharmacokinet. Biopharm. 15, 1987) by the bounds that decide in ``layercut prune``.
What each verdict means, and how often it is wrong: docs/how_to/compare_logs.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from layercut.evidence.bounds import resampled_means, retention_bounds
from layercut.evidence.comparison import AnswerChanges, ComparisonRow, Margin, MarginVerdict, Verdict
from layercut.evidence.fixed_sequence import judge_task, why_not_judged
from layercut.evidence.intervals import ALPHA, NUM_RESAMPLES, Estimate, cluster_codes, finite_array
from layercut.evidence.paired import estimate_change

_FLOOR = 1e6
"""Above a chance of -F a retention is a difference: (cut + F) / (uncut + F) is 1 + (cut - uncut) / F, but for one part
in a million. So one bound and one forecast of items serve both kinds of margin."""


def judge_by_margin(
    rows: Sequence[ComparisonRow], margin: Margin, *, num_resamples: int = NUM_RESAMPLES
) -> list[ComparisonRow]:
    """The rows with a verdict each, in ``by_margin``.

    ``equivalent``: both one-sided 95 % bounds lie within the margin. ``worse``: the upper bound lies below it, with 5 %
    for all judged rows together (Holm). ``better``: by the two-sided test. ``not worse``: the lower bound lies within.
    """
    reasons = [_why_not_judged(row, margin) for row in rows]
    unit = 1.0 if margin.is_share else _FLOOR
    keep, most = 1 - margin.size / unit, 1 + margin.size / unit
    above = {
        place: row if margin.is_share else replace(row, chance=-_FLOOR)
        for place, row in enumerate(rows)
        if not reasons[place]
    }
    own = {place: _bounds(row, ALPHA, num_resamples) for place, row in above.items()}
    # Holm's procedure: each row that is shown to be worse leaves its part of the 5 % to the others.
    worse, error = set[int](), 0.0
    while error != (error := ALPHA / max(1, len(above) - len(worse))):
        left = [place for place, (_, high) in own.items() if high < keep and place not in worse]
        worse |= {place for place in left if _bounds(above[place], error, num_resamples)[1] < keep}

    def judge_row(place: int, row: ComparisonRow) -> MarginVerdict:
        if reasons[place]:
            return MarginVerdict("not judged", margin, reason=reasons[place])
        (low, high), verdict, needed = own[place], two_sided_verdict(row), None
        if keep <= low and high <= most:
            verdict = "equivalent"
        elif place in worse:
            verdict = "worse"
        elif verdict != "better":
            verdict = "not worse" if keep <= low else "too few items"
        if verdict == "too few items":
            needed = judge_task(above[place], keep, ALPHA, error, num_resamples).items_needed
        ends = (low, high) if margin.is_share else (unit * (low - 1), unit * (high - 1))
        known = [end if math.isfinite(end) else None for end in ends]
        return MarginVerdict(verdict, margin, known[0], known[1], needed)

    return [replace(row, by_margin=judge_row(place, row)) for place, row in enumerate(rows)]


def two_sided_verdict(row: ComparisonRow) -> Verdict:
    """Judge B against A without a margin: the interval must exclude 0, and p be below 0.05 after Holm."""
    low, high = row.values.difference.low, row.values.difference.high
    if low is None or high is None or row.p_value >= ALPHA or low <= 0 <= high:
        return "not shown"
    return "better" if low > 0 else "worse"


def _why_not_judged(row: ComparisonRow, margin: Margin) -> str:
    if margin.is_share:
        return why_not_judged(row).replace("the original model", "A")
    return "" if row.is_share else "its score does not lie between 0 and 1"


def _bounds(row: ComparisonRow, high_error: float, num_resamples: int) -> tuple[float, float]:
    """Least and most that is kept; infinite where nothing can be said."""
    assert row.items is not None and row.chance is not None
    uncut, cut, clusters, _ = row.items
    rates: dict[str, Any] = {"low_error": ALPHA, "high_error": high_error, "num_resamples": num_resamples}
    bounds = retention_bounds(uncut, cut, chance=row.chance, seed=row.seed, clusters=clusters, **rates)
    return -math.inf if bounds.low is None else bounds.low, math.inf if bounds.high is None else bounds.high


def answer_changes(row: ComparisonRow, first: Mapping[str, Any], second: Mapping[str, Any]) -> AnswerChanges:
    """Changes of the answers to a row's items, from both models' records by id."""
    assert row.items is not None
    olds, news = ([records[item] for item in row.items.ids] for records in (first, second))
    items = [*zip(olds, news, row.items.uncut, row.items.cut, strict=True)]
    changes = AnswerChanges(log_likelihood=_likelihood_change(row, olds, news))
    has_answers = all(any(record["answer"] for record in records) for records in (olds, news))
    if not has_answers or not all(_gives(old, x) and _gives(new, y) for old, new, x, y in items):
        return changes
    texts = [(old["answer"].strip(), new["answer"].strip(), x, y) for old, new, x, y in items]
    same = [a != b for a, b, x, y in texts if x == y]
    changes = changes._replace(same_score=len(same), other_answer=sum(same))
    if row.values.lost is None:
        return changes
    wrong = [a == b for a, b, x, y in texts if x == y == 0 and a and b]
    return changes._replace(both_wrong=len(wrong), same_wrong=sum(wrong))


def _gives(record: Mapping[str, Any], score: float) -> bool:
    """False for a ranked item whose score is not that of its likeliest option: acc_norm chooses by another rule."""
    return "options" not in record or (record["answer"] == _right_option(record)) == (score == 1)


def _right_option(record: Mapping[str, Any]) -> str:
    return str(record.get("right_option", record["gold"]))


def _likelihood_change(
    row: ComparisonRow, olds: Sequence[Mapping[str, Any]], news: Sequence[Mapping[str, Any]]
) -> Estimate | None:
    """Mean change of the right option's log-likelihood, with its interval; None unless all items have it."""
    records = [*olds, *news]
    if not all("log_likelihoods" in record and _right_option(record) in record["options"] for record in records):
        return None
    nats = [record["log_likelihoods"][record["options"].index(_right_option(record))] for record in records]
    old, new = finite_array(nats[: row.n]), finite_array(nats[row.n :])
    codes = cluster_codes(row.items and row.items.clusters, row.n)
    means = resampled_means(old, new, codes, np.random.default_rng(row.seed), NUM_RESAMPLES)
    return estimate_change(float(old.mean()), float(new.mean()), means, row.n, "bootstrap")
