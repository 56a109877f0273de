"""The answer of a study in words: a sentence, its evidence, and the table of all plans."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from layercut.evidence.comparison import ComparedRun
from layercut.evidence.fixed_sequence import JudgedTask
from layercut.evidence.study import CONFIDENCE, Advice, JudgedPlan, kept_checkpoint
from layercut.evidence.uses import is_written
from layercut.report import words
from layercut.report.elements import Cell, Table, text_columns
from layercut.runs.directory import RunFolder
from layercut.text import PATH_CHARACTERS, at_least, code_span, count_of, escape_inline, number_text


def advice_answer(advice: Advice) -> str:
    """The answer in one sentence, in Markdown; and one more where only a proxy was measured."""
    chosen, best = advice.recommended, advice.best
    start, keep = f"**For {advice.use.what},", f"{100 * advice.keep:.4g} %"
    proxy = advice.use.note(list(dict.fromkeys(task.task for plan in advice.plans for task in plan.tasks)))
    note = f" {escape_inline(proxy)}" if proxy else ""
    if chosen is not None:
        less = words.size_change_words(advice.uncut, chosen.arm)
        gained = f" {less}." if less else ""
        return f"{start} remove {chosen.arm.amount}:** {_plan(chosen)} keeps {kept_words(chosen.tasks)}.{gained}{note}"
    if best is None:
        return (
            f"{start} there is no evidence:** no readout of this use can show here what a plan keeps. It takes more "
            f"items, or a model that is above chance there.{note}"
        )
    decided = items_needed_words(best)
    if best.verdict == "shown to fail":
        decided = "that is shown to be less than " + keep
    elif best.missing:
        decided = f"it was not run on {escape_inline(', '.join(best.missing))}"
    return f"{start} no plan passed {keep}.** Best: {_plan(best)} keeps {kept_words(best.tasks)}; {decided}.{note}"


def kept_words(tasks: Sequence[JudgedTask]) -> str:
    """Share that a plan keeps, by task: ``94 % [91, 97] of arithmetic (short answer, n = 240)``; of more than three
    tasks, that with the lowest lower bound."""

    def kept(task: JudgedTask) -> str:
        low = "?" if task.low is None else at_least(task.low)
        high = "?" if task.high is None else _at_most(task.high)
        how = words.readout_words(task.readout)
        return f"{number_text(task.kept)} % [{low}, {high}] of {escape_inline(task.task)} ({how}, n = {task.n:,})"

    if len(tasks) > 3:
        worst = min(tasks, key=lambda task: (task.low is not None, task.low or 0.0, task.kept))
        return f"{kept(worst)}, and more of {len(tasks) - 1} other tasks and readouts"
    return " and ".join(map(kept, tasks)) or "an unknown share"


def items_needed_words(plan: JudgedPlan) -> str:
    """Number of items in all that would decide an undecided plan: ``about 240 items of each task would decide it``."""
    if plan.items_needed is None:
        return "it is too near the target to say how many more items would decide it"
    needed = max(plan.items_needed, 1 + max(task.n for task in plan.tasks))
    # What counts is contexts: more items from the same ones settle little.
    clusters = [math.ceil(needed / task.n * task.num_clusters) for task in plan.tasks if task.num_clusters]
    contexts = f", from about {_round_up(max(clusters)):,} contexts," if clusters else ""
    return f"about {_round_up(needed):,} items of each task{contexts} would decide it (`limit`)"


def checkpoint_words(folder: Path, arm: ComparedRun) -> str:
    """The checkpoint of a plan of a study, or what writes it, in Markdown; paths are from the study's folder."""
    if (kept := kept_checkpoint(folder, arm)) is not None:
        return code_span(arm.checkpoint or str(kept.relative_to(folder)), PATH_CHARACTERS)
    if arm.is_healing_arm:
        return "not kept; the study writes it with `checkpoints: true`"
    model = RunFolder.open(folder / arm.name).metrics()["plan"].get("model") or "MODEL"
    command = f"layercut cut {model} --remove {arm.name}/plan.json --out {arm.name}/checkpoint"
    return f"not kept; {code_span(command, PATH_CHARACTERS)} writes it"


def _plan(plan: JudgedPlan) -> str:
    return f"{'healed plan' if plan.arm.healing else 'plan'} `{plan.arm.name}`"


def advice_evidence(advice: Advice) -> str:
    """Say where a model that writes was only ranked, in Markdown; empty where answers were written."""
    readouts = {task.readout for plan in advice.plans for task in plan.tasks}
    if advice.use.answers == "ranked" or any(map(is_written, readouts)):
        return ""
    return (
        "**Likelihood only:** the model ranked options and wrote nothing. A pruned model can rank right answers that "
        "it can no longer write, so this says nothing about generation."
    )


def bounds_table(advice: Advice) -> Table:
    """Every plan, with its verdict and the bounds of each readout that decided."""
    lines: list[list[Cell]] = []
    for plan in advice.plans:
        start = [plan.arm.name, plan.arm.amount]
        for task in plan.tasks:
            bounds = [words.bound_words(task.low), "n/a" if task.high is None else f"{_at_most(task.high)} %"]
            needed = "-" if task.items_needed is None else f"~{_round_up(task.items_needed):,}"
            verdict = words.finding_cell(task.verdict)
            lines.append([*start, task.task, task.readout, f"{task.n:,}", *bounds, verdict, needed])
        lines += [
            [*start, name, "", "not run", "-", "-", words.finding_cell(plan.verdict), "-"] for name in plan.missing
        ]
    last = "items in all to settle"
    heads = ("plan", "removed", "task", "readout", "n", "keeps at least", "at most", "verdict", last)
    return Table(
        name="advice",
        caption="Bounds of what each plan keeps, for everything that was measured",
        columns=text_columns(*heads, numeric=("n", "keeps at least", "at most", last)),
        rows=lines,
    )


def how_plans_tested(advice: Advice) -> str:
    """Explain how the plans were tested, and what the bounds mean."""
    shared = f" {count_of(advice.num_paths, 'path')} share the error rate of 5 %." if advice.num_paths > 1 else ""
    return (
        "Shares are of the score above chance, on the same items; brackets hold what is kept at least and at most. "
        "The plans of one criterion and healing are a path, tested in order of depth until one does not pass. A plan "
        f"passes if all of its readouts do.{shared} A recommended plan keeps what was asked for with {CONFIDENCE:.0%} "
        f"confidence (seed {advice.seed}), for items like these. Numbers of items are estimates, for an 80 % "
        "probability of a decision."
    )


def _at_most(share: float) -> str:
    """An upper bound in percent, rounded up, so that 89.6 % at most is not called 89 %."""
    return number_text(math.ceil(100 * share - 1e-9) / 100)


def _round_up(count: int) -> int:
    """Two digits of an estimate: 1,234 is 1,300."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit
