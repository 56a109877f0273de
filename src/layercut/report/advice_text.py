"""Advice as a page: the answer in one sentence with the next step, then losses, what is not excluded, and the table."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.text import Text

from layercut.evidence.advice import advise
from layercut.evidence.study import checkpoint_of, is_of_single_runs, study_file
from layercut.evidence.uses import is_written
from layercut.report import words
from layercut.report.elements import Block, bullets
from layercut.report.front import front_of_advice, front_table
from layercut.report.table import Column, Table, terminal
from layercut.report.writers import markdown_of
from layercut.runs.atomic import write_text
from layercut.runs.disk import size
from layercut.text.counting import counted
from layercut.text.markup import PATH_CHARACTERS, code, escape
from layercut.text.numbers import at_least, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from layercut.evidence.advice import Advice, JudgedPlan
    from layercut.evidence.comparison import ComparedRun
    from layercut.evidence.fixed_sequence import JudgedTask

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
        InputError: see layercut.evidence.advice.advise.
    """
    advice = advise(folder, use=use, keep=keep, confidence=confidence, seed=seed)
    text = page(advice)
    write_text(Path(folder) / FILE, text)
    return advice, text


def page(advice: Advice) -> str:
    """The page, in Markdown. Bounds only; no single value that hides how sure it is."""
    return markdown_of(advice_blocks(advice)) + "\n"


def advice_on_terminal(advice: Advice) -> RenderableType:
    """The same for a terminal; its tables show every plan's whole name, however narrow the terminal is."""
    from rich.markdown import Markdown

    shown = (terminal(block) if isinstance(block, Table) else Markdown(str(block)) for block in advice_blocks(advice))
    return Group(*(part for block in shown for part in (block, Text())))


def advice_blocks(advice: Advice) -> list[Block]:
    """The answer with the next step, losses, what is not excluded, other plans, and the bounds of all."""
    parts: list[Block] = [f"{answer(advice)} {next_step(advice)}".rstrip()]
    chosen = advice.recommended
    if chosen is not None:
        parts += [_lost(chosen), _unknown(chosen), _gained(advice, chosen)]
        parts += [_others([plan for plan in advice.plans if plan.arm.turn > chosen.arm.turn])]
    elif advice.better is not None:
        parts += [_lost(advice.better), _unknown(advice.better), _others(advice.plans)]
    elif advice.answer == "no evidence":
        parts += [
            f"Run the study with {escape(advice.use.wanted)}, on more items or a model that is above chance there."
        ]
    else:
        parts += [_others([plan for plan in advice.plans if plan is not advice.best])]
    if fates := [_fate(model) for model in advice.others if model is not advice.better]:
        parts.append(f"**Other models:**\n\n{bullets(fates)}")
    judged = (*advice.plans, *advice.others)
    if any(plan.items_needed for plan in judged):
        parts.append(
            "Numbers of items are estimates. They assume that the retention measured on these items is the true one, "
            "and give an 80 % probability of a decision."
        )
    parts += [evidence(advice), _ignored(advice)]
    if (front := front_of_advice(advice)) is not None:
        parts += [front_table(front), front.note]
    if any(plan.tasks for plan in judged):
        parts += [bounds_table(advice), how_made(advice)]
    return [part for part in parts if part]


def answer(advice: Advice) -> str:
    """The answer in one sentence, in Markdown; and one more where only a proxy was measured."""
    use, keep, chosen, best = advice.use.what, _percent(advice.keep), advice.recommended, advice.best
    note = f" {escape(advice.proxy)}" if advice.proxy else ""
    if (other := advice.better) is not None:
        found = f"**For {use}, take {escape(other.arm.other)} ({_size(other)}):** it keeps {kept_words(other.tasks)}"
        against = (
            "" if chosen is None else f"; {_plan(chosen)} has {_size(chosen)} and keeps {kept_words(chosen.tasks)}"
        )
        return f"{found}{against}.{note}"
    if chosen is not None:
        return f"**For {use}, remove {chosen.arm.amount}:** {_plan(chosen)} keeps {kept_words(chosen.tasks)}.{note}"
    if best is None and any(one.tasks for one in advice.others):
        return f"**For {use}, no model passed {keep}.** No plan was measured.{note}"
    if best is None:
        return f"**For {use}, there is no evidence:** no readout in this study can show what a plan keeps.{note}"
    start = f"**For {use}, no plan passed {keep}.** Best: {_plan(best)} keeps {kept_words(best.tasks)}"
    if best.verdict == "shown to fail":
        return f"{start}; that is shown to be less than {keep}.{note}"
    if best.missing:
        return f"{start}; it was not run on {escape(', '.join(best.missing))}.{note}"
    return f"{start}; {decided_by(best.tasks, best.items_needed)}.{note}"


def kept_words(tasks: Sequence[JudgedTask]) -> str:
    """Share that a plan keeps, by task: ``94 % [91, 97] of arithmetic (short answer, n = 240)``; of more than three
    tasks, that with the lowest lower bound."""
    if not tasks:
        return "an unknown share"
    if len(tasks) > 3:
        worst = min(tasks, key=lambda one: (one.low is not None, one.low or 0.0, one.kept))
        return f"{_kept(worst)}, and more of {len(tasks) - 1} other tasks and readouts"
    return " and ".join(_kept(one) for one in tasks)


def decided_by(tasks: Sequence[JudgedTask], items_needed: int | None) -> str:
    """Number of items that would decide an undecided plan: ``about 140 more items would decide it``."""
    have = max((one.n for one in tasks), default=0)
    if items_needed is None:
        return "it is too near the target to say how many more items would decide it"
    more = f"about {_round_up(max(1, items_needed - have)):,} more items"
    clusters = [math.ceil(items_needed / one.n * one.num_clusters) for one in tasks if one.num_clusters]
    # What counts is contexts: more items from the same ones settle little.
    return f"{more} would decide it" + (
        f", from about {_round_up(max(clusters)):,} contexts in all" if clusters else ""
    )


def next_step(advice: Advice) -> str:
    """The checkpoint, or the command that makes it or measures more, in Markdown; empty where the folder is unknown."""
    if advice.folder is None or advice.better is not None:
        return ""
    pruned = advice.pruned
    if advice.recommended is not None:
        if pruned is not None:
            if pruned.checkpoint and pruned.chosen.name == advice.recommended.arm.name:
                return f"Checkpoint: `{advice.folder / pruned.checkpoint}`."
            return (
                f"To write the checkpoint: repeat `{pruned.command}` with `--keep {advice.keep:g}` and another `--out`."
            )
        found = checkpoint_of(advice.folder, advice.recommended.arm)
        if found.checkpoint is not None:
            return f"Checkpoint: `{found.checkpoint}`."
        is_healed = advice.recommended.arm.is_healing_arm
        once = f"set `checkpoints: true` in {study_file(advice.folder)}, then " if is_healed else ""
        return f"To write the checkpoint: {once}`{found.command}`."
    best = advice.best
    if best is None or best.verdict != "undecided" or best.items_needed is None:
        return "Next: remove fewer layers, choose other layers, or heal (`layercut heal --help`)." if best else ""
    items = _round_up(max(best.items_needed, 1 + max(one.n for one in best.tasks)))
    if pruned is not None:
        return f"To decide it: repeat `{pruned.command}` with `--items {items}` and another `--out`."
    return f"To decide it: {more_items(advice.folder, items, advice.use.name, advice.keep)}."


def more_items(folder: Path, items: int, use: str, keep: float) -> str:
    """Commands that measure a study's plans on more items and ask again, in Markdown. Answers that are there are taken
    from this study's folder; single runs of ``layercut eval`` are repeated. ``items``: of each task, in all.
    """
    out = str(folder.with_name(f"{folder.name}-{items}"))
    ask = shlex.join(["layercut", "advise", out, "--use", use, "--keep", f"{keep:g}"])
    if is_of_single_runs(folder):
        return f"{ask_more(folder, items)} and `--out` in {code(out, PATH_CHARACTERS)}, then `{ask}`"
    again = shlex.join(["layercut", "run", study_file(folder), "--out", out])
    return f"{ask_more(folder, items)}, then `{again} && {ask}`"


def ask_more(folder: Path, items: int) -> str:
    """The place where the number of items is raised, in Markdown."""
    if is_of_single_runs(folder):
        return f"repeat the commands of the runs with `--limit {items}`"
    return f"raise `limit` to {items} in {escape(study_file(folder))}"


def in_short(advice: Advice) -> str:
    """The answer in a few words of plain text: by how many layers, or none."""
    chosen, other = advice.recommended, advice.better
    by = f" ({advice.proxy.removesuffix('.')})" if advice.proxy else ""
    if other is not None:
        return f"{other.arm.other} in place of a plan ({_size(other)}); it keeps {kept_words(other.tasks)}{by}"
    if chosen is not None:
        return (
            f"{chosen.arm.amount} can be removed ({_plan(chosen, code=False)}); it keeps {kept_words(chosen.tasks)}{by}"
        )
    return {
        "other": "",
        "none": f"none, because each plan tested keeps less than {_percent(advice.keep)}{by}",
        "undecided": f"no plan passed {_percent(advice.keep)}; for some plans the items are too few to tell{by}",
        "no evidence": "none, because this study holds no evidence",
    }[advice.answer]


def _plan(plan: JudgedPlan, *, code: bool = True) -> str:
    kind = "healed plan" if plan.arm.healing else "plan"
    return f"{kind} `{plan.arm.name}`" if code else f"{kind} {plan.arm.name}"


def _size(plan: JudgedPlan) -> str:
    return "size not recorded" if plan.arm.disk_bytes is None else size(plan.arm.disk_bytes)


def _kept(one: JudgedTask) -> str:
    low = "?" if one.low is None else at_least(one.low)
    high = "?" if one.high is None else number(math.ceil(100 * one.high - 1e-9) / 100)
    how = words.readout_words(one.readout)
    return f"{number(one.kept)} % [{low}, {high}] of {escape(one.task)} ({how}, n = {one.n:,})"


def _lost(plan: JudgedPlan) -> str:
    lost = [
        f"{_name(one)} at least {_percent(1 - one.high, round_down=True)}"
        for one in plan.tasks
        if one.high is not None and one.high <= 0.99
    ]
    if not lost:
        return "**Lost for sure:** no significant loss. These items cannot exclude a small one."
    return f"**Lost for sure,** of the score above chance: {', '.join(lost)}."


def _unknown(plan: JudgedPlan) -> str:
    open_ends = []
    for task in plan.tasks:
        if task.low is not None and task.low < 1:
            contexts = f" from {counted(task.num_clusters, 'context')}" if task.num_clusters else ""
            most = _percent(1 - task.low, round_down=False)
            open_ends.append(f"{_name(task)} up to {most} ({counted(task.n, 'item')}{contexts})")
    text = f"**Not excluded at this number of items:** a loss on {', '.join(open_ends)}. " if open_ends else ""
    return f"{text}Abilities that were not measured may be lost entirely."


def _gained(advice: Advice, plan: JudgedPlan) -> str:
    less = words.size(advice.uncut, plan.arm)
    gained = f"{less}; weight memory falls in proportion" if less else "the run does not record parameter counts"
    if advice.pruned is None:
        return f"**Gained:** {gained}. This study does not measure speed; `layercut prune` does."
    served = [served.speed for served in advice.pruned.served if served.run == plan.arm.name]
    speeds = [words.speed(speed) for of_model in served for speed in of_model]
    return f"**Gained:** {gained}; {'; '.join(speeds) or 'its speed was not timed'}."


def _others(plans: Sequence[JudgedPlan]) -> str:
    """A line on each plan that is not recommended and was tested, and one on those whose turn never came."""
    lines = [_fate(plan) for plan in plans if plan.verdict != "not tested"]
    if waiting := [escape(plan.arm.name) for plan in plans if plan.verdict == "not tested"]:
        lines.append(f"{', '.join(waiting)}: not tested, because a shallower plan did not pass.")
    return f"**Other plans:**\n\n{bullets(lines)}" if lines else ""


def _fate(plan: JudgedPlan) -> str:
    """One line on a plan that is not recommended."""
    start = f"{escape(plan.arm.other or plan.arm.name)} ({_size(plan) if plan.arm.other else plan.arm.amount}): "
    if plan.verdict == "passed":
        return f"{start}passed; keeps {kept_words(plan.tasks)}."
    failed = [
        f"{_name(one)} keeps at most {_percent(one.high, round_down=False)}"
        for one in plan.tasks
        if one.verdict == "shown to fail" and one.high is not None
    ]
    if failed:
        return f"{start}fails; {', '.join(failed)}."
    unsettled = [f"keeps {_kept(one)}" for one in plan.tasks if one.verdict == "undecided"]
    unsettled += [f"{escape(name)} was not run" for name in plan.missing]
    if not plan.missing:
        unsettled.append(decided_by(plan.tasks, plan.items_needed))
    return f"{start}undecided; {'; '.join(unsettled)}."


def evidence(advice: Advice) -> str:
    """Name the kind of answers that decided, in Markdown; empty where none did."""
    text = _EVIDENCE[advice.evidence]
    if advice.use.name == "classify" and advice.evidence == "likelihood":
        text += " For choosing among given options, this is the right kind of evidence."
    return f"**Evidence.** {text}" if text else ""


def _ignored(advice: Advice) -> str:
    """Readouts without evidence, by reason; says so where a written use was only ranked."""
    by_reason: dict[str, list[str]] = {}
    for readout in advice.ignored:
        by_reason.setdefault(readout.reason, []).append(f"{escape(readout.task)} ({readout.readout})")
    lines = [f"{', '.join(names)}: {reason}." for reason, names in by_reason.items()]
    text = f"**Did not decide**\n\n{bullets(lines)}" if lines else ""
    if advice.use.answers == "written":
        written = {task.task for plan in advice.plans for task in plan.tasks}
        written |= {readout.task for readout in advice.ignored if is_written(readout.readout)}
        if only := dict.fromkeys(escape(one.task) for one in advice.ignored if one.task not in written):
            text += (
                f"\n\nFor {', '.join(only)} there is likelihood evidence only. A model that ranks right answers may be "
                "unable to write them."
            )
    return text


class _Line(NamedTuple):
    arm: ComparedRun
    task: JudgedTask


def bounds_table(advice: Advice) -> Table:
    """Every plan and readout that decided, with its bounds."""
    lines = [_Line(plan.arm, task) for plan in (*advice.plans, *advice.others) for task in plan.tasks]
    thin = Column("MLP channels removed, %", lambda line: f"{100 * line.arm.mlp:.1f}", numeric=True)

    def depth(line: _Line) -> str:
        return "-" if line.arm.other else str(line.arm.depth)

    def bound(share: float | None, *, round_down: bool) -> str:
        return "n/a" if share is None else _percent(share, round_down=round_down)

    def needed(line: _Line) -> str:
        return "-" if line.task.items_needed is None else f"~{_round_up(line.task.items_needed):,}"

    return Table(
        name="advice",
        caption="Bounds of what each plan keeps, for everything that was measured",
        columns=[
            Column("plan", lambda line: line.arm.name),
            Column("layers removed", depth, numeric=True, narrow=(1, 2)),
            *([thin] if any(line.arm.mlp for line in lines) else []),
            Column("task", lambda line: line.task.task),
            Column("readout", lambda line: line.task.readout),
            Column("n", lambda line: f"{line.task.n:,}", numeric=True),
            Column("keeps at least", lambda line: bound(line.task.low, round_down=True), numeric=True),
            Column("at most", lambda line: bound(line.task.high, round_down=False), numeric=True),
            Column("verdict", lambda line: words.finding_cell(line.task.verdict)),
            Column("items in all to settle", needed, numeric=True, narrow=(2,)),
        ],
        rows=lines,
    )


def how_made(advice: Advice) -> str:
    """Explain how the plans were tested, and what the bounds mean."""
    paths = counted(advice.num_paths, "path")
    error = _percent(round(1 - advice.confidence, 9))
    shared = f" {paths} share the error rate of {error}; one on which every plan passed hands its part on."
    shared = shared if advice.num_paths > 1 else ""
    return (
        "Shares are of the score above chance, (cut - chance) / (uncut - chance), on the same items; brackets hold "
        "what is kept at least and at most. The plans of one criterion and healing are a path. They are tested in "
        "order of depth until one does not pass, which needs no correction for their number (fixed sequence). A plan "
        f"passes if all of its readouts do, which needs none either.{shared} A recommended plan keeps what was asked "
        f"for with {_percent(advice.confidence)} confidence. The bounds are Gaffke's: a Bayesian bootstrap with one "
        f"more item, the worst or the best possible (seed {advice.seed}). They hold for items like these and for the "
        "plans in this folder. Plans that were tried elsewhere are not counted, nor earlier looks at fewer items."
    )


def _name(one: JudgedTask) -> str:
    return f"{escape(one.task)} ({words.readout_words(one.readout)})"


def _percent(share: float, *, round_down: bool | None = None) -> str:
    """``91 %``; a bound is rounded to its careful side, so that 89.6 % at least is not called 90 %."""
    if round_down is None:
        return f"{100 * share:.4g} %"
    return f"{at_least(share) if round_down else number(math.ceil(100 * share - 1e-9) / 100)} %"


def _round_up(count: int) -> int:
    """Two digits of an estimate: 1,234 is 1,300."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit
