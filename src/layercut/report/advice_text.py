"""Advice as a page: the answer first, then sure losses, what is not excluded, the gain, and the table."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from layercut.report import words
from layercut.report.advice import advise
from layercut.report.elements import Table
from layercut.report.render import markdown
from layercut.runs.atomic import write_text
from layercut.text.counting import counted
from layercut.text.markup import escape
from layercut.text.numbers import number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layercut.report.advice import Advice, Judged, JudgedPlan

FILE = "advice.md"

_EVIDENCE = {
    "generation": "The model wrote all of the answers that decide the verdict.",
    "likelihood": "**Likelihood only:** the model ranked options and wrote nothing. A pruned model can rank right "
    "answers that it can no longer write, so this says nothing about generation.",
    "both": "The model wrote some answers and ranked options for others. A plan must keep both.",
    "none": "",
}


def write_advice(
    folder: Path, *, use: str = "all", keep: float = 0.9, confidence: float = 0.95, seed: int = 0
) -> tuple[Advice, str]:
    """Advise, and write ``advice.md`` into the study's folder; gives the advice and the page.

    Raises:
        InputError: see layercut.report.advice.advise.
    """
    found = advise(folder, use=use, keep=keep, confidence=confidence, seed=seed)
    text = page(found)
    write_text(Path(folder) / FILE, text)
    return found, text


def page(advice: Advice) -> str:
    """The page, in Markdown. Bounds only; no single value that hides how sure it is."""
    parts = argument(advice)
    if any(plan.readouts for plan in advice.plans):
        parts += ["\n".join(markdown(bounds_table(advice))), how_made(advice)]
    return joined(parts)


def joined(parts: Sequence[str]) -> str:
    """Paragraphs as one text; empty ones are left out."""
    return "\n\n".join(part for part in parts if part) + "\n"


def argument(advice: Advice) -> list[str]:
    """The page without its table."""
    parts = [f"# How deep can the model be cut for {advice.use.what}?", answer(advice), proxy(advice)]
    chosen = advice.recommended
    if chosen is not None:
        parts += [_lost(chosen), _unknown(chosen), _gained(advice, chosen), _deeper(advice, chosen)]
    else:
        parts += [_without(advice)]
    return [*parts, evidence(advice), _ignored(advice)]


def answer(advice: Advice) -> str:
    """The answer in one or two sentences, in Markdown."""
    sure, keep, chosen = _percent(advice.confidence), _percent(advice.keep), advice.recommended
    if chosen is not None:
        kept = f"at least {_percent(chosen.low or 0.0, round_down=True)} of the score above chance"
        where = ", ".join(_name(one) for one in chosen.readouts)
        return (
            f"**By {counted(len(chosen.arm.removed), 'layer')}, plan {escape(chosen.arm.name)}:** "
            f"{words.removal(chosen.arm)}. "
            f"With {sure} confidence it keeps {kept} on {'each of ' if len(chosen.readouts) > 1 else ''}{where}; "
            f"the target is {keep}."
        )
    tried = counted(len(advice.plans), "plan")
    by = f" Only a proxy was measured: {' and '.join(map(escape, advice.proxies))}." if advice.proxies else ""
    return {
        "none": f"**None.** With {sure} confidence, each of the {tried} tried keeps less than {keep} of the score "
        f"above chance on at least one readout of this use.{by} Remove fewer layers, choose other layers, or heal.",
        "undecided": f"**No plan passed {keep}.** With {sure} confidence, none of the {tried} tried keeps at least "
        f"{keep} of the score above chance. For some of them the items are too few to tell.{by} Do not cut until that "
        "is settled.",
        "no evidence": "**None: there is no evidence.** No readout in this study can show what a plan keeps for this "
        "use.",
    }[advice.answer]


def in_short(advice: Advice) -> str:
    """The answer in a few words of plain text: by how many layers, or none."""
    chosen = advice.recommended
    by = f" (measured only by {' and '.join(advice.proxies)}, a proxy for {advice.use.what})" if advice.proxies else ""
    if chosen is not None:
        kept = _percent(chosen.low or 0.0, round_down=True)
        return (
            f"{counted(len(chosen.arm.removed), 'layer')} can be removed (plan {chosen.arm.name}); it keeps at least "
            f"{kept} of the score above chance"
        )
    return {
        "none": f"none, because each plan keeps less than {_percent(advice.keep)}{by}",
        "undecided": f"no plan passed {_percent(advice.keep)}; for some plans the items are too few to tell{by}",
        "no evidence": "none, because this study holds no evidence",
    }[advice.answer]


def proxy(advice: Advice) -> str:
    """Says that only parts of the use were measured; empty where one task is the use itself."""
    if not advice.proxies:
        return ""
    named = " and ".join(map(escape, advice.proxies))
    return (
        f"**Proxy only.** For {advice.use.what}, only {named} gave evidence. It is a part of this use, not the use "
        "itself: a loss there is a loss of the use, but a high score there does not show that the use is kept. So no "
        f"plan is recommended. To judge the use, run the study with {escape(advice.use.whole)}."
    )


def _lost(plan: JudgedPlan) -> str:
    lost = [
        f"{_name(one)} at least {_percent(1 - one.high, round_down=True)}"
        for one in plan.readouts
        if one.high is not None and one.high <= 0.99
    ]
    if not lost:
        return "**Lost for sure:** no significant loss. These items cannot exclude a small one."
    return f"**Lost for sure,** of the score above chance: {', '.join(lost)}."


def _unknown(plan: JudgedPlan) -> str:
    open_ends = [
        f"{_name(one)} up to {_percent(1 - one.low, round_down=False)} ({_items(one)})"
        for one in plan.readouts
        if one.low is not None and one.low < 1
    ]
    text = f"**Not excluded at this number of items:** a loss on {', '.join(open_ends)}. " if open_ends else ""
    return f"{text}Abilities that were not measured may be lost entirely."


def _gained(advice: Advice, plan: JudgedPlan) -> str:
    size = words.size(advice.uncut, plan.arm)
    gained = f"{size}; weight memory falls in proportion" if size else "the run does not record parameter counts"
    return f"**Gained:** {gained}. This study does not measure speed; `layercut diagnose --only cost` does."


def _deeper(advice: Advice, chosen: JudgedPlan) -> str:
    deeper = [plan for plan in advice.plans if len(plan.arm.removed) > len(chosen.arm.removed)]
    return f"**Deeper plans:**\n\n{_fates(deeper)}" if deeper else ""


def _without(advice: Advice) -> str:
    if advice.answer == "no evidence":
        return f"Run the study with {escape(advice.use.wanted)}, on more items or a model that is above chance there."
    return _fates(advice.plans)


def _fates(plans: Sequence[JudgedPlan]) -> str:
    lines = "\n".join(f"- {_fate(plan)}" for plan in plans)
    if all(plan.verdict == "refuted" for plan in plans):
        return lines
    return (
        f"{lines}\n\nNumbers of items are estimates. They assume that the retention measured on these items is the "
        "true one, and give an 80 % probability of a decision."
    )


def _fate(plan: JudgedPlan) -> str:
    """One line on a plan that is not recommended."""
    start = f"{escape(plan.arm.name)} ({counted(len(plan.arm.removed), 'layer')}): "
    refuted = [
        f"{_name(one)} keeps at most {_percent(one.high, round_down=False)}"
        for one in plan.readouts
        if one.verdict == "refuted" and one.high is not None
    ]
    if refuted:
        return f"{start}refuted; {', '.join(refuted)}."
    unsettled = [
        f"{_name(one)} keeps {_range(one)}, {_needed(one)}" for one in plan.readouts if one.verdict == "undecided"
    ]
    unsettled += [f"{escape(name)} was not run" for name in plan.missing]
    return f"{start}undecided; {'; '.join(unsettled)}."


def _needed(one: Judged) -> str:
    if one.items_needed is None or one.items_needed > 1000 * one.n:
        return "too near the target to estimate the number of items"
    # What counts is contexts: more items from the same ones settle little.
    needed = math.ceil(one.items_needed / one.n * (one.num_clusters or 0))
    unit = f", from about {_rounded(needed)} contexts in all" if one.num_clusters else ""
    return f"about {_rounded(one.items_needed - one.n)} items beyond these {one.n:,} would decide it{unit}"


def evidence(advice: Advice) -> str:
    """What kind of answers decided, in Markdown; empty where none did."""
    text = _EVIDENCE[advice.evidence]
    if advice.use.name == "classify" and advice.evidence == "likelihood":
        text += " For choosing among given options, this is the right kind of evidence."
    return f"**Evidence.** {text}" if text else ""


def _ignored(advice: Advice) -> str:
    """Readouts without evidence, by reason; says so where a written use was only ranked."""
    by_reason: dict[str, list[str]] = {}
    for one in advice.ignored:
        by_reason.setdefault(one.reason, []).append(f"{escape(one.task)} ({one.readout})")
    lines = [f"- {', '.join(names)}: {reason}." for reason, names in by_reason.items()]
    text = "**Did not decide**\n\n" + "\n".join(lines) if lines else ""
    if advice.use.answers == "written":
        written = {one.task for plan in advice.plans for one in plan.readouts}
        ranked = [task for task in dict.fromkeys(one.task for one in advice.ignored) if task not in written]
        only = [
            task
            for task in ranked
            if all(not words.is_written(one.readout) for one in advice.ignored if one.task == task)
        ]
        if only:
            text += (
                f"\n\nFor {', '.join(map(escape, only))} there is likelihood evidence only. A model that ranks right "
                "answers may be unable to write them."
            )
    return text


def bounds_table(advice: Advice) -> Table:
    """Every plan and readout that decided, with its bounds."""
    head = ["plan", "layers removed", "task", "readout", "n", "keeps at least", "at most"]
    return Table(
        name="advice",
        caption="Bounds of what each plan keeps, for everything that was measured",
        head=[*head, "verdict", "items in all to settle"],
        rows=[
            [plan.arm.name, str(len(plan.arm.removed)), one.task, one.readout, *bounds(one)]
            for plan in advice.plans
            for one in plan.readouts
        ],
        numeric=frozenset({1, 4, 5, 6, 8}),
    )


def bounds(one: Judged) -> tuple[str, str, str, str, str]:
    """Items, the least and the most that is kept, the verdict, and the items in all that would settle it."""
    return (
        f"{one.n:,}",
        "n/a" if one.low is None else _percent(one.low, round_down=True),
        "n/a" if one.high is None else _percent(one.high, round_down=False),
        one.verdict,
        "-" if one.items_needed is None else f"~{_rounded(one.items_needed)}",
    )


def how_made(advice: Advice) -> str:
    """What the bounds mean and for how many comparisons they hold."""
    plans = counted(len(advice.plans), "plan")
    return (
        "Shares are of the score above chance, (cut - chance) / (uncut - chance), on the same items. The lower bound "
        f"of a readout holds for all {plans} together with {_percent(advice.confidence)} confidence (Bonferroni). So "
        "does the lowest bound of a plan: a plan qualifies if all of its readouts do, which needs no correction. "
        f"Upper bounds hold for all {plans} and readouts together. The bounds are Gaffke's: a "
        f"Bayesian bootstrap with one more item, the worst or the best possible (seed {advice.seed}). They hold for "
        "items like these and for the plans in this folder. Plans that were tried elsewhere are not counted."
    )


def _name(one: Judged) -> str:
    return f"{escape(one.task)} ({words.readout_words(one.readout)})"


def _items(one: Judged) -> str:
    contexts = f" from {counted(one.num_clusters, 'context')}" if one.num_clusters else ""
    return counted(one.n, "item") + contexts


def _range(one: Judged) -> str:
    low = "an unknown share" if one.low is None else _percent(one.low, round_down=True)
    return low if one.high is None or one.low is None else f"{low} to {_percent(one.high, round_down=False)}"


def _percent(share: float, *, round_down: bool | None = None) -> str:
    """``91 %``; a bound is rounded to its careful side, so that 89.6 % at least is not called 90 %."""
    if round_down is None:
        return f"{100 * share:.4g} %"
    whole = math.floor(100 * share + 1e-9) if round_down else math.ceil(100 * share - 1e-9)
    return f"{number(whole / 100)} %"


def _rounded(count: int) -> str:
    """Two digits of an estimate: 1,234 is 1,300."""
    size = 10 ** max(0, len(str(count)) - 2)
    return f"{math.ceil(count / size) * size:,}"
