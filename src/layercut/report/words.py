"""Sentences that tables and reports share: the plan, the findings, how the numbers were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from layercut.evidence.comparison import KEPT
from layercut.evidence.intervals import ALPHA, NUM_RESAMPLES
from layercut.evidence.uses import is_written
from layercut.report.table import Styled
from layercut.text.counting import counted
from layercut.text.numbers import at_least, number, parameters, with_interval
from layercut.text.removal import format_layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layercut.evidence.comparison import ComparedRun, ComparisonRow
    from layercut.evidence.intervals import Estimate
    from layercut.runs.prune import TimedSpeed

READOUTS = {
    "rank": "ranked by likelihood",
    "gold": "likelihood of the right answer",
    "token": "one letter",
    "short": "short answer",
    "chain": "chain of steps",
}

REST = "rest of the test set: without the items of the half that a plan or a healing behind one of these models used."
"""Meaning of the words for a test set."""


def readout_words(readout: str) -> str:
    """A readout for people."""
    return READOUTS.get(readout, readout)


def readout_order(readout: str) -> tuple[int, str]:
    """Key by which readouts are sorted in tables and pictures; unknown ones are last."""
    known = list(READOUTS)
    return known.index(readout) if readout in known else len(known), readout


FINDINGS = {
    "passed": "keeps at least what was asked for, by its one-sided lower bound",
    "shown to fail": "keeps less than was asked for, by its upper bound",
    "kept": f"at least {KEPT:.0%} of the score above chance, over the whole interval",
    "damaged": f"worse than uncut (interval below 0, p < {ALPHA} by Holm), still above chance",
    "lost": f"worse than uncut (interval below 0, p < {ALPHA} by Holm), and not significantly above chance",
    "better": f"better than uncut (interval above 0, p < {ALPHA} by Holm)",
    "gained": "better than uncut and above chance, where uncut is not significantly above chance",
    "undecided": f"too few items to tell a loss from {KEPT:.0%} kept, or whether what was asked for is kept",
    "at chance": "the original model is not significantly above chance; there is nothing to lose",
}


LOOKS: Mapping[str, Literal["right", "wrong", "weak"]] = {
    "passed": "right", "shown to fail": "wrong", "lost": "wrong", "damaged": "weak", "kept": "right", "better": "right",
    "gained": "right",
}  # fmt: skip
"""Colours of findings; the others have none."""


def finding_cell(finding: str, otherwise: Literal["plain", "faint"] = "plain") -> Styled:
    """A finding, or the verdict of a rule, with its colour."""
    return Styled(finding, LOOKS.get(finding, otherwise))


def removal(arm: ComparedRun) -> str:
    """``3 of 30 decoder layers removed (10.0 %): 27-29``; ``uncut`` where none is, and how it was healed."""
    if arm.num_layers is None:
        return arm.origin or "no plan recorded"
    if not arm.is_cut:
        return f"{arm.origin or 'uncut'}, {counted(arm.num_layers, 'decoder layer')}"
    share = len(arm.removed) / arm.num_layers
    layers = (
        f"{len(arm.removed)} of {arm.num_layers} decoder layers removed ({share:.1%}): {format_layers(arm.removed)}"
    )
    thin = f"{arm.mlp:.1%} of the MLP channels removed"
    gone = "; ".join([*([layers] if arm.removed else []), *([thin] if arm.mlp else [])])
    gone = f"{gone}, healed ({arm.healing})" if arm.healing else gone
    return f"{gone}; {arm.origin}" if arm.origin else gone


def size(uncut: ComparedRun, cut: ComparedRun) -> str:
    """``134.5M to 123.9M parameters (-7.9 %)``; empty where a run does not record them."""
    if not uncut.num_parameters or not cut.num_parameters:
        return ""
    change = cut.num_parameters / uncut.num_parameters - 1
    return f"{parameters(uncut.num_parameters)} to {parameters(cut.num_parameters)} parameters ({change:+.1%})"


def scope(rows: Sequence[ComparisonRow]) -> list[str]:
    """The layers that one plan removes, and the size of both models where it is recorded; rows of one pruned model."""
    first = rows[0]
    return [fact for fact in (removal(first.cut), size(first.uncut, first.cut)) if fact]


def items(numbers: Sequence[int], limits: Sequence[int | None]) -> str:
    """``64 items per task (--limit 64)``; a limit always shows."""
    least, most = min(numbers), max(numbers)
    text = counted(least, "item") if least == most else f"{least:,} to {most:,} items"
    set_limits = sorted({limit for limit in limits if limit is not None})
    limit_text = f" (--limit {', '.join(map(str, set_limits))})" if set_limits else ""
    return f"{text} per task{limit_text}"


def test_sets(rows: Sequence[ComparisonRow]) -> str:
    """``humaneval_plus: full test set, 164; ...``; empty for tasks that make their items."""
    return "; ".join(dict.fromkeys(f"{row.task}: {row.asked}" for row in rows if row.asked))


def readout_name(row: ComparisonRow, rows: Sequence[ComparisonRow]) -> str:
    """The readout, with the metric where the readout has several."""
    metrics = {other.metric for other in rows if (other.task, other.readout) == (row.task, row.readout)}
    return row.readout if len(metrics) == 1 else f"{row.readout}: {row.metric}"


def swapped(row: ComparisonRow) -> str:
    """Items lost and gained, ``12/3``; a dash for scores that are not 0/1."""
    return "-" if row.values.lost is None else f"{row.values.lost}/{row.values.gained}"


def retained(estimate: Estimate | None) -> str:
    """A retention with its interval, without the unit."""
    return "n/a" if estimate is None else with_interval(estimate)


def kept(estimate: Estimate | None) -> str:
    """A retention with its interval in percent."""
    return "n/a" if estimate is None else f"{with_interval(estimate)} %"


def scores_in(shares: Iterable[bool]) -> str:
    """The unit of scores, by whether each is a share; gold scores are nats."""
    units = {True: "%", False: "nats a token (gold) or the metric's own unit"}
    return f"Scores in {', and in '.join(units[one] for one in sorted(set(shares), reverse=True)) or '%'}"


def isolation(environment: Mapping[str, Any]) -> list[str]:
    """A sentence that names the isolation of generated programs, first and after each resumption under another one;
    none where no program was run."""
    entries = [environment, *environment.get("resumed", ())]
    named = list(dict.fromkeys(entry["sandbox"] for entry in entries if "sandbox" in entry))
    return [f"Isolation of generated programs: {'; later '.join(named)}."] if named else []


def how_made(rows: Sequence[ComparisonRow]) -> list[str]:
    """Meaning of intervals, retention and chance, one sentence each."""
    seeds = sorted({row.seed for row in rows})
    lines = [
        f"{scores_in(row.is_share for row in rows)}, with 95 % intervals: Wilson for right and wrong, BCa bootstrap "
        f"otherwise; difference and retention by a Bayesian bootstrap over paired items ({NUM_RESAMPLES:,} resamples, "
        f"seed {', '.join(map(str, seeds))}).",
        "retention: cut / uncut. above chance: (cut - chance) / (uncut - chance); 100 is no loss, 0 is guessing, n/a "
        "where the original model is not above chance.",
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
        named = ", ".join(f"{task} ({counted(count, 'context')})" for task, count in contexts.items())
        lines.append(f"Items that share a template, subject or text are clustered: {named}.")
    return lines


_STARTS = {
    "passed": "**Passed:**",
    "shown to fail": "**Shown to fail:**",
    "lost": "**Lost:**",
    "damaged": "**Damaged:**",
    "better": "**Better than uncut:**",
    "gained": "**Gained,** where the original model is not significantly above guessing:",
    "kept": "**Kept:**",
    "undecided": "**Too few items to tell:**",
    "at chance": "**Nothing to lose,** because the original model is not significantly above guessing:",
}


def headline(rows: Sequence[ComparisonRow]) -> list[str]:
    """Per finding one sentence on one pruned model, from its main metrics only; the rows must belong to one cut run."""
    main = [row for row in rows if row.is_headline]
    lines = []
    for finding, start in _STARTS.items():
        found = [row for row in main if row.finding == finding]
        if found:
            lines.append(f"{start} " + "; ".join(_claim(row) for row in found) + ".")
    apart = _ranked_but_not_written(main)
    if apart:
        lines.append(f"**Kept better when ranked than when written:** {'; '.join(apart)}.")
    return lines


def _ranked_but_not_written(main: Sequence[ComparisonRow]) -> list[str]:
    """Tasks of which ranking keeps more than writing; listed where the two intervals do not overlap."""
    claims = []
    for ranked in main:
        for written in main:
            if ranked.task != written.task or ranked.readout != "rank" or not is_written(written.readout):
                continue
            above, below = ranked.kept_share, written.kept_share
            if above is None or below is None or above.low is None or below.high is None:
                continue
            if above.low > below.high:
                name = readout_words(written.readout)
                claims.append(
                    f"{ranked.task} keeps {with_interval(above)} % of its score above chance when options are ranked, "
                    f"{with_interval(below)} % as {name}"
                )
    return claims


def summary(rows: Sequence[ComparisonRow]) -> str:
    """One line on one pruned model: ``lost 1, damaged 2, kept 1, undecided 3 of 8 readouts``."""
    main = [row for row in rows if row.is_headline]
    counts = [(finding, sum(row.finding == finding for row in main)) for finding in _STARTS]
    return f"{', '.join(f'{finding} {count}' for finding, count in counts if count)} of {counted(len(main), 'readout')}"


def _claim(row: ComparisonRow) -> str:
    before, after = (number(e.value, share=row.is_share, digits=0) for e in (row.values.uncut, row.values.cut))
    unit = " %" if row.is_share else ""
    name = f"{row.task} ({readout_words(row.readout)})"
    scores = f"{before}{unit} to {after}{unit}"
    kept = row.kept_share
    if row.finding == "at chance":
        chance = number(row.chance or 0.0, share=row.is_share)
        uncut = with_interval(row.values.uncut, share=row.is_share)
        return f"{name}, {uncut}{unit} (guessing {chance}{unit})"
    if row.finding == "lost":
        chance = number(row.chance or 0.0, share=row.is_share)
        return f"{name}, {scores}, not significantly above guessing ({chance}{unit})"
    if (row.judged or row.finding in ("damaged", "kept")) and kept is not None:
        above = "" if row.chance is None else " above chance"
        bound = "" if row.bound is None else f", at least {at_least(row.bound)} %"
        return f"{name}, {scores}, keeping {with_interval(kept)} % of its score{above}{bound}"
    difference = with_interval(row.values.difference, share=row.is_share, sign=True)
    return f"{name}, {scores}, a difference of {difference}{' points' if row.is_share else ''}"


def speed(one: TimedSpeed) -> str:
    """One speed of both models with their ratio."""
    low, high = one.ratio.low, one.ratio.high
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    short = one.unit == "s" and max(one.uncut.value, one.cut.value) < 1
    values = [(1000 if short else 1) * model.value for model in (one.uncut, one.cut)]
    before, after = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    unit = "ms" if short else one.unit
    ratio = f"x {one.ratio.value:.2f}{ends}, batch {one.batch_size}, n {one.ratio.n}"
    return f"{one.name} {before} to {after} {unit} ({ratio})"
