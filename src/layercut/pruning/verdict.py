"""The answer of a run of prune in words, and the items that would decide more."""

from __future__ import annotations

from collections.abc import Sequence

from layercut.pruning.confirm import LEVEL
from layercut.pruning.run import PruneRun, lacking_items
from layercut.runs.atomic import write_text
from layercut.runs.disk import size_text
from layercut.runs.prune import (
    MODEL,
    Alternative,
    Chosen,
    Served,
    SideEffect,
    TaskKept,
    TestedDepth,
    Verdict,
    better_of,
    side_effect_words,
)
from layercut.selection.answers import ObjectiveTask
from layercut.surgery.cut import UNMEASURED
from layercut.text import at_least, escape_inline, markdown_table, two_decimals, with_interval


def answer_of(
    tested: Sequence[TestedDepth], chosen: Chosen, keep: float, path_ended: str, parts: Sequence[ObjectiveTask]
) -> tuple[Verdict, str]:
    """The verdict, and the answer in a few sentences."""
    if not tested:
        return "undecided", (
            "No task could be judged on the report items: the original model is not above chance there. Give more "
            "items, or easier tasks."
        )
    passed = [plan for plan in tested if plan.passed]
    failed = next((plan for plan in tested if not plan.passed), None)
    if passed:
        text = f"Passed: without {_model_of(chosen)} it keeps {_kept(passed[-1].kept)}, asked for {keep:.0%}."
        return "passed", f"{text} {_failed(failed, parts) if failed else f'Stopped there: {path_ended}.'}"
    assert failed is not None
    verdict: Verdict = "refuted" if failed.verdict == "shown to fail" else "undecided"
    return verdict, f"No plan passed, asked for {keep:.0%}. {_failed(failed, parts, best=True)}"


def answer_with_others(why: str, versus: Sequence[Alternative], disk_bytes: int, *, is_passed: bool) -> str:
    """The answer with what other models say of it; what a user should take comes first.

    Args:
        why: the answer on the plans.
        disk_bytes: of the plan that is recommended, or the best one.
        is_passed: whether it passed.
    """
    if better := better_of(versus, disk_bytes if is_passed else None):
        model = f"{better.model} passes with {size_text(better.disk_bytes)}, and keeps {_kept(better.kept)}"
        return f"Do not prune for size: {model}; the plan has {size_text(disk_bytes)}. {why}"
    if passed := better_of(versus, None):
        sizes = f"with {size_text(passed.disk_bytes)}; the plan has {size_text(disk_bytes)}"
        return f"{why} {passed.model} passes too, {sizes}."
    names = ", ".join(f"{other.model} keeps {_kept(other.kept)}" for other in versus)
    return f"{why} No other model that was named passes: {names}." if versus else why


def describe_fastest(passed: Sequence[tuple[str, Served]], faster: float | None) -> str:
    """The model that passed whose requests take the least time, and whether that is as fast as was asked for.

    Args:
        passed: names and timings of every model that passed.
        faster: times as fast as the original model.
    """
    if not passed and faster is None:
        return ""
    if not passed:
        return (
            f"Nothing passed, so nothing is {faster:g} times as fast. As a draft, whose tokens the original model "
            "checks, a plan loses nothing: layercut draft measures whether that pays."
        )
    name, best = min(passed, key=lambda model: model[1].request.ratio.value)
    speed = best.request.times_as_fast
    text = f"The fastest that passes is {name}: {two_decimals(speed)} times the original's speed a request"
    if faster is None:
        return f"{text}."
    if speed.low is not None and speed.low >= faster:
        return f"{text}, as asked."
    if speed.high is not None and speed.high < faster:
        return f"{text}, less than the {faster:g} asked for."
    return f"{text}, too near to the {faster:g} asked for to tell."


def items_to_decide(run: PruneRun, tested: Sequence[TestedDepth]) -> int | None:
    """Report items of each task that would decide the first plan that failed; None where nothing would, or a task has
    fewer.
    """
    items = next((plan.items_needed for plan in tested if not plan.passed), None)
    if items is None or min(len(part.task.samples("report", items)) for part in run.parts) < items:
        return None
    return items


def write_card(run: PruneRun, arm: str, tested: Sequence[TestedDepth], effects: Sequence[SideEffect]) -> None:
    """Open the checkpoint's card, once: whether the model keeps the goal, its side effects, what it keeps, and the
    command that found it.
    """
    judged = next((plan for plan in tested if plan.name == arm), None)
    goal = f"{run.settings.keep:.0%} of the score above chance of every task"
    if judged is not None and judged.passed:
        text = f"**Passed: it keeps at least {goal}**, by one-sided {LEVEL:.0%} bounds."
    else:
        fails = judged is not None and judged.verdict == "shown to fail"
        text = f"**Not passed: it is {'shown to keep less than' if fails else 'not shown to keep'} {goal}.** "
        text += "No plan passed; this one was written all the same."
    rows = [
        (
            f"{escape_inline(task.task)} ({task.readout})",
            _share(task),
            "n/a" if task.bound is None else f"{at_least(task.bound)} %",
            f"{100 * task.uncut.value:.0f} %",
            f"{100 * task.cut.value:.0f} %",
            f"{task.cut.n:,}",
        )
        for task in (judged.kept if judged else ())
    ]
    head = ["task", "keeps, with 95 % interval", "at least", "original model", "this model", "items"]
    note = f"Items that nothing was chosen on, seed {run.seed}; `at least` is the bound that decides."
    text += f"\n\n**Side effects:** {escape_inline(words)}." if (words := side_effect_words(effects)) else ""
    command = run.store.environment["command"]
    verdict = "\n".join(
        [text, "", *markdown_table(head, rows, {1, 2, 3, 4, 5}), "", note, "", "```bash", command, "```"]
    )
    card = run.folder / MODEL / "README.md"
    if card.exists():
        write_text(card, card.read_text("utf-8").replace(UNMEASURED, verdict, 1))


def _model_of(plan: TestedDepth | Chosen) -> str:
    return f"{plan.words}, healed by {plan.healing}," if plan.healing else plan.words


def _failed(plan: TestedDepth, parts: Sequence[ObjectiveTask], *, best: bool = False) -> str:
    """The evidence on the plan that ended the test."""
    text = f"Best: {_model_of(plan)} keeps" if best else f"Without {_model_of(plan)} it keeps"
    text += f" {_kept(plan.kept)}"
    if plan.verdict == "shown to fail":
        return f"{text}; that is shown to be less than asked for."
    if plan.items_needed is None:
        return f"{text}; that is too near to what was asked for to say how many more items would decide it."
    n = max((task.uncut.n for task in plan.kept), default=0)
    text += f"; about {max(plan.items_needed - n, 1):,} more items of each task would decide it"
    if missing := lacking_items(parts, {part.label: plan.items_needed for part in parts}):
        return f"{text}: {', '.join(missing)}."
    return f"{text} (both runs together err in up to 10 %)."


def _kept(kept: Sequence[TaskKept]) -> str:
    """``97 [92, 102] % of arithmetic (n = 100)``, of each task."""
    return ", ".join(f"{_share(task)} of {task.task} (n = {task.cut.n:,})" for task in kept)


def _share(task: TaskKept) -> str:
    return "n/a" if task.kept is None else f"{with_interval(task.kept)} %"
