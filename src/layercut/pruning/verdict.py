"""The answer of a run of prune in words, and the command that would decide more."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence

from layercut.pruning.confirm import LEVEL
from layercut.pruning.run import PruneRun
from layercut.runs.atomic import write_text
from layercut.runs.disk import size
from layercut.runs.prune import (
    MODEL,
    Alternative,
    Chosen,
    NextStep,
    Served,
    SideEffect,
    TaskKept,
    TestedDepth,
    Verdict,
    better_of,
    side_effect_words,
)
from layercut.runs.settings import shown
from layercut.selection.answers import ObjectiveTask
from layercut.surgery.cut import UNMEASURED
from layercut.tasks.own_file import OwnFile
from layercut.text import at_least, escape, table


def answer_of(
    tested: Sequence[TestedDepth],
    chosen: Chosen,
    keep: float,
    path_ended: str,
    parts: Sequence[ObjectiveTask],
) -> tuple[Verdict, str]:
    """The verdict, and the answer in a few sentences."""
    passed = [one for one in tested if one.passed]
    failed = next((one for one in tested if not one.passed), None)
    if not tested:
        return "undecided", (
            "No task could be judged on the report items: the original model is not above chance there. Give more "
            "items, or easier tasks."
        )
    healed = f", healed by {chosen.healing}," if chosen.healing else ""
    if passed:
        text = f"Passed: without {chosen.words}{healed} it keeps {_kept(passed[-1].kept)}, asked for {keep:.0%}."
        if failed is not None:
            return "passed", f"{text} {_failed(failed, parts)}"
        return "passed", f"{text} Stopped there: {path_ended}."
    assert failed is not None
    verdict: Verdict = "refuted" if failed.verdict == "shown to fail" else "undecided"
    return verdict, f"No plan passed, asked for {keep:.0%}. {_failed(failed, parts, best=True)}"


def beside(why: str, versus: Sequence[Alternative], disk_bytes: int, *, is_passed: bool) -> str:
    """The answer with what other models say of it; what a user should take comes first.

    Args:
        why: the answer on the plans.
        disk_bytes: of the plan that is recommended, or the best one.
        is_passed: whether it passed.
    """
    better = better_of(versus, disk_bytes if is_passed else None)
    if better is not None:
        found = f"{better.model} passes with {size(better.disk_bytes)}, and keeps {_kept(better.kept)}"
        return f"Do not prune for size: {found}; the plan has {size(disk_bytes)}. {why}"
    if passed := better_of(versus, None):
        return f"{why} {passed.model} passes too, with {size(passed.disk_bytes)}; the plan has {size(disk_bytes)}."
    names = ", ".join(f"{one.model} keeps {_kept(one.kept)}" for one in versus)
    return f"{why} No other model that was named passes: {names}." if versus else why


def fastest(passed: Sequence[tuple[str, Served]], faster: float | None) -> str:
    """The model that passed whose requests take the least time, and whether that is as fast as was asked for.

    Args:
        passed: names and timings of every model that passed.
        faster: times as fast as the original model.
    """
    if not passed:
        if faster is None:
            return ""
        return (
            f"Nothing passed, so nothing is {faster:g} times as fast. As a draft, whose tokens the original model "
            "checks, a plan loses nothing: layercut draft forecasts whether that pays."
        )
    name, best = min(passed, key=lambda one: one[1].request.ratio.value)
    ratio = best.request.ratio
    low, high = (None if end is None else 1 / end for end in (ratio.high, ratio.low))
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    found = f"{1 / ratio.value:.2f}{ends} times the original's speed a request"
    if faster is None:
        return f"The fastest that passes is {name}: {found}."
    reached = "as asked"
    if low is None or low < faster:
        too_slow = high is not None and high < faster
        reached = f"less than the {faster:g} asked for" if too_slow else f"too near to the {faster:g} asked for to tell"
    return f"The fastest that passes is {name}: {found}, {reached}."


def next_step(run: PruneRun, tested: Sequence[TestedDepth]) -> NextStep | None:
    """The command that would decide the first depth that failed, with the same settings; None where nothing would, or
    the tasks have no more items."""
    failed = next((depth for depth in tested if not depth.passed), None)
    if failed is None or failed.items_needed is None:
        return None
    items, model = failed.items_needed, run.model.settings
    if min(len(part.task.samples("report", items)) for part in run.parts) < items:
        return None
    words = ["layercut", "prune", model.model]
    for name, value in run.settings.given().items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words += [flag] if value else []
        elif name not in ("items", "time") and value is not None:
            words += [flag, ",".join(value) if isinstance(value, tuple) else str(value)]
    words += [word for task in run.goal.tasks if task.data for word in ("--data", f"{task.task}={task.data}")]
    for name, value in model.given().items():
        if name != "model" and value is not None:
            words += ["--set", f"{name}={json.dumps(value) if isinstance(value, bool | float) else value}"]
    words += ["--seed", str(run.seed)] if run.seed else []
    words += ["--items", str(items), "--out", f"{shown(run.folder)}-{items}"]
    return NextStep(items=items, command=shlex.join(words))


def write_card(run: PruneRun, arm: str, tested: Sequence[TestedDepth], effects: Sequence[SideEffect]) -> None:
    """Open the checkpoint's card, once: whether the model keeps the goal, its side effects, what it keeps, and the
    command that found it.
    """
    judged = next((depth for depth in tested if depth.name == arm), None)
    asked = f"{run.settings.keep:.0%} of the score above chance of every task"
    if judged is not None and judged.passed:
        text = f"**Passed: it keeps at least {asked}**, by one-sided {LEVEL:.0%} bounds."
    else:
        fails = judged is not None and judged.verdict == "shown to fail"
        text = f"**Not passed: it is {'shown to keep less than' if fails else 'not shown to keep'} {asked}.** "
        text += "No plan passed; this one was written all the same."
    rows = [
        (
            f"{escape(one.task)} ({one.readout})",
            _share(one),
            "n/a" if one.bound is None else f"{at_least(one.bound)} %",
            f"{100 * one.uncut.value:.0f} %",
            f"{100 * one.cut.value:.0f} %",
            f"{one.cut.n:,}",
        )
        for one in (judged.kept if judged else ())
    ]
    head = ["task", "keeps, with 95 % interval", "at least", "original model", "this model", "items"]
    note = f"Items that nothing was chosen on, seed {run.seed}; `at least` is the bound that decides."
    text += f"\n\n**Side effects:** {escape(words)}." if (words := side_effect_words(effects)) else ""
    command = run.store.environment["command"]
    verdict = "\n".join([text, "", *table(head, rows, {1, 2, 3, 4, 5}), "", note, "", "```bash", command, "```"])
    card = run.folder / MODEL / "README.md"
    if card.exists():
        write_text(card, card.read_text("utf-8").replace(UNMEASURED, verdict, 1))


def lacking(parts: Sequence[ObjectiveTask], needed: Mapping[str, int]) -> list[str]:
    """For each task that has fewer report items than are needed, what its owner can do."""
    found = []
    for part in parts:
        more = needed[part.label] - (there := len(part.task.samples("report", needed[part.label])))
        if more > 0 and isinstance(part.task, OwnFile):
            found.append(f"add about {2 * more:,} rows to {part.task.name} (half of them judge)")
        elif more > 0:
            found.append(f"{part.task.name} has only {there:,}")
    return found


def _failed(one: TestedDepth, parts: Sequence[ObjectiveTask], *, best: bool = False) -> str:
    """The evidence on the depth that ended the test."""
    healed = f", healed by {one.healing}," if one.healing else ""
    begin = "Best: " if best else "Without "
    text = f"{begin}{one.words}{healed} "
    text += f"keeps {_kept(one.kept)}" if best else f"it keeps {_kept(one.kept)}"
    if one.verdict == "shown to fail":
        return f"{text}; that is shown to be less than asked for."
    if one.items_needed is None:
        return f"{text}; that is too near to what was asked for to say how many more items would decide it."
    n = max((task.uncut.n for task in one.kept), default=0)
    text += f"; about {max(one.items_needed - n, 1):,} more items of each task would decide it"
    if missing := lacking(parts, {part.label: one.items_needed for part in parts}):
        return f"{text}: {', '.join(missing)}."
    return f"{text} (both runs together err in up to 10 %)."


def _kept(kept: Sequence[TaskKept]) -> str:
    """``97 [92, 102] % of arithmetic (n = 100)``, of each task."""
    return ", ".join(f"{_share(one)} of {one.task} (n = {one.cut.n:,})" for one in kept)


def _share(one: TaskKept) -> str:
    if one.kept is None:
        return "n/a"
    ends = [one.kept.low, one.kept.high]
    interval = "" if None in ends else f" [{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]"  # type: ignore[operator]
    return f"{100 * one.kept.value:.0f}{interval} %"
