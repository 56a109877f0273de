"""Advice as a page: the answer in one sentence with the next step, its evidence, and the table of all plans."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from layercut.evidence.advice import Advice, JudgedPlan, advise
from layercut.evidence.fixed_sequence import JudgedTask
from layercut.evidence.study import checkpoint_of, is_of_single_runs, study_file
from layercut.evidence.uses import is_written
from layercut.report import words
from layercut.report.elements import Block, bullet_list
from layercut.report.front import front_of_advice, front_table
from layercut.report.table import Cell, Table, terminal_table, text_columns
from layercut.report.writers import markdown_of
from layercut.runs.atomic import write_text
from layercut.runs.disk import size_text
from layercut.text import PATH_CHARACTERS, at_least, code_span, count_of, escape_inline, number_text

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
    text = advice_page(advice)
    write_text(Path(folder) / FILE, text)
    return advice, text


def advice_page(advice: Advice) -> str:
    """The page, in Markdown. Bounds only; no single value that hides how sure it is."""
    return markdown_of(advice_blocks(advice)) + "\n"


def advice_on_terminal(advice: Advice) -> RenderableType:
    """The same for a terminal; its tables show every plan's whole name, however narrow the terminal is."""
    from rich.markdown import Markdown

    shown = (
        terminal_table(block) if isinstance(block, Table) else Markdown(str(block)) for block in advice_blocks(advice)
    )
    return Group(*(part for block in shown for part in (block, Text())))


def advice_blocks(advice: Advice) -> list[Block]:
    """The answer with the next step, what is gained, the kind of evidence, other models, and the bounds of all."""
    judged = (*advice.plans, *advice.others)
    blocks: list[Block] = [f"{advice_answer(advice)} {advice_next_step(advice)}".rstrip()]
    if advice.recommended is not None:
        blocks.append(_gained(advice, advice.recommended))
    if advice.answer in ("cut", "other"):
        blocks.append("Abilities that were not measured may be lost entirely.")
    elif advice.answer == "no evidence":
        wanted = escape_inline(advice.use.wanted)
        blocks.append(f"Run the study with {wanted}, on more items or a model that is above chance there.")
    if any(plan.items_needed for plan in judged):
        blocks.append(
            "Numbers of items are estimates. They assume that the retention measured on these items is the true one, "
            "and give an 80 % probability of a decision."
        )
    blocks += [advice_evidence(advice), _ignored(advice)]
    if (front := front_of_advice(advice)) is not None:
        blocks += [front_table(front), front.note]
    if any(plan.tasks for plan in judged):
        blocks += [bounds_table(advice), how_plans_tested(advice)]
    return [block for block in blocks if block]


def advice_answer(advice: Advice) -> str:
    """The answer in one sentence, in Markdown; and one more where only a proxy was measured."""
    chosen, best, other = advice.recommended, advice.best, advice.better
    start, keep = f"**For {advice.use.what},", f"{100 * advice.keep:.4g} %"
    note = f" {escape_inline(advice.proxy)}" if advice.proxy else ""
    if other is not None:
        text = f"{start} take {escape_inline(other.arm.other)} ({_size(other)}):** it keeps {kept_words(other.tasks)}"
        against = chosen and f"; {_plan(chosen)} has {_size(chosen)} and keeps {kept_words(chosen.tasks)}"
        return f"{text}{against or ''}.{note}"
    if chosen is not None:
        return f"{start} remove {chosen.arm.amount}:** {_plan(chosen)} keeps {kept_words(chosen.tasks)}.{note}"
    if best is None and any(model.tasks for model in advice.others):
        return f"{start} no model passed {keep}.** No plan was measured.{note}"
    if best is None:
        return f"{start} there is no evidence:** no readout in this study can show what a plan keeps.{note}"
    decided = items_needed_words(best.tasks, best.items_needed)
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


def items_needed_words(tasks: Sequence[JudgedTask], items_needed: int | None) -> str:
    """Number of items that would decide an undecided plan: ``about 140 more items would decide it``."""
    if items_needed is None:
        return "it is too near the target to say how many more items would decide it"
    have = max((task.n for task in tasks), default=0)
    # What counts is contexts: more items from the same ones settle little.
    clusters = [math.ceil(items_needed / task.n * task.num_clusters) for task in tasks if task.num_clusters]
    contexts = f", from about {_round_up(max(clusters)):,} contexts in all" if clusters else ""
    return f"about {_round_up(max(1, items_needed - have)):,} more items would decide it{contexts}"


def advice_next_step(advice: Advice) -> str:
    """The checkpoint, or the command that makes it or measures more, in Markdown; empty where the folder is unknown."""
    pruned, chosen, best = advice.pruned, advice.recommended, advice.best
    if advice.folder is None or advice.better is not None or (chosen is None and best is None):
        return ""
    if chosen is not None and pruned is not None:
        if pruned.checkpoint and pruned.chosen.name == chosen.arm.name:
            return f"Checkpoint: `{advice.folder / pruned.checkpoint}`."
        return f"To write the checkpoint: repeat `{pruned.command}` with `--keep {advice.keep:g}` and another `--out`."
    if chosen is not None:
        checkpoint, command = checkpoint_of(advice.folder, chosen.arm)
        once = f"set `checkpoints: true` in {study_file(advice.folder)}, then " if chosen.arm.is_healing_arm else ""
        return f"To write the checkpoint: {once}`{command}`." if checkpoint is None else f"Checkpoint: `{checkpoint}`."
    if best is None or best.verdict != "undecided" or best.items_needed is None:
        return "Next: remove fewer layers, choose other layers, or heal (`layercut heal --help`)."
    items = _round_up(max(best.items_needed, 1 + max(task.n for task in best.tasks)))
    if pruned is not None:
        return f"To decide it: repeat `{pruned.command}` with `--items {items}` and another `--out`."
    # Answers that are there are taken from the study's folder; single runs of ``layercut eval`` are repeated.
    out = str(advice.folder.with_name(f"{advice.folder.name}-{items}"))
    ask = shlex.join(["layercut", "advise", out, "--use", advice.use.name, "--keep", f"{advice.keep:g}"])
    if is_of_single_runs(advice.folder):
        more = (
            f"{more_items_words(advice.folder, items)} and `--out` in {code_span(out, PATH_CHARACTERS)}, then `{ask}`"
        )
    else:
        again = shlex.join(["layercut", "run", study_file(advice.folder), "--out", out])
        more = f"{more_items_words(advice.folder, items)}, then `{again} && {ask}`"
    return f"To decide it: {more}."


def more_items_words(folder: Path, items: int) -> str:
    """The place where the number of items is raised, in Markdown."""
    if is_of_single_runs(folder):
        return f"repeat the commands of the runs with `--limit {items}`"
    return f"raise `limit` to {items} in {escape_inline(study_file(folder))}"


def _plan(plan: JudgedPlan) -> str:
    return f"{'healed plan' if plan.arm.healing else 'plan'} `{plan.arm.name}`"


def _size(plan: JudgedPlan) -> str:
    return "size not recorded" if plan.arm.disk_bytes is None else size_text(plan.arm.disk_bytes)


def _gained(advice: Advice, plan: JudgedPlan) -> str:
    less = words.size_change_words(advice.uncut, plan.arm)
    gained = f"{less}; weight memory falls in proportion" if less else "the run does not record parameter counts"
    if advice.pruned is None:
        return f"**Gained:** {gained}. This study does not measure speed; `layercut prune` does."
    served = [served.speed for served in advice.pruned.served if served.run == plan.arm.name]
    speeds = [words.speed_words(speed) for of_model in served for speed in of_model]
    return f"**Gained:** {gained}; {'; '.join(speeds) or 'its speed was not timed'}."


def advice_evidence(advice: Advice) -> str:
    """Name the kind of answers that decided, in Markdown; empty where none did."""
    text = _EVIDENCE[advice.evidence]
    if advice.use.name == "classify" and advice.evidence == "likelihood":
        text += " For choosing among given options, this is the right kind of evidence."
    return f"**Evidence.** {text}" if text else ""


def _ignored(advice: Advice) -> str:
    """Readouts without evidence, by reason; says so where a written use was only ranked."""
    by_reason: dict[str, list[str]] = {}
    for readout in advice.ignored:
        by_reason.setdefault(readout.reason, []).append(f"{escape_inline(readout.task)} ({readout.readout})")
    lines = [f"{', '.join(names)}: {reason}." for reason, names in by_reason.items()]
    text = f"**Did not decide**\n\n{bullet_list(lines)}" if lines else ""
    written = {task.task for plan in advice.plans for task in plan.tasks}
    written |= {readout.task for readout in advice.ignored if is_written(readout.readout)}
    ranked = dict.fromkeys(escape_inline(readout.task) for readout in advice.ignored if readout.task not in written)
    if advice.use.answers == "written" and ranked:
        text += (
            f"\n\nFor {', '.join(ranked)} there is likelihood evidence only. A model that ranks right answers may be "
            "unable to write them."
        )
    return text


def bounds_table(advice: Advice) -> Table:
    """Every plan and other model, with its verdict and the bounds of each readout that decided."""
    is_thin = any(plan.arm.mlp for plan in advice.plans)
    lines: list[list[Cell]] = []
    for plan in (*advice.plans, *advice.others):
        depth = "-" if plan.arm.other else str(plan.arm.depth)
        start = [plan.arm.name, depth, *([f"{100 * plan.arm.mlp:.1f}"] if is_thin else [])]
        for task in plan.tasks:
            bounds = [words.bound_words(task.low), "n/a" if task.high is None else f"{_at_most(task.high)} %"]
            needed = "-" if task.items_needed is None else f"~{_round_up(task.items_needed):,}"
            verdict = words.finding_cell(task.verdict)
            lines.append([*start, task.task, task.readout, f"{task.n:,}", *bounds, verdict, needed])
        lines += [
            [*start, name, "", "not run", "-", "-", words.finding_cell(plan.verdict), "-"] for name in plan.missing
        ]
    thin = ("MLP channels removed, %",) if is_thin else ()
    heads = ("plan", "layers removed", *thin, "task", "readout", "n", "keeps at least", "at most", "verdict")
    last = "items in all to settle"
    return Table(
        name="advice",
        caption="Bounds of what each plan keeps, for everything that was measured",
        columns=text_columns(
            *heads,
            last,
            numeric=("layers removed", *thin, "n", "keeps at least", "at most", last),
            narrow={"layers removed": (1, 2), last: (2,)},
        ),
        rows=lines,
    )


def how_plans_tested(advice: Advice) -> str:
    """Explain how the plans were tested, and what the bounds mean."""
    error, confidence = f"{100 * round(1 - advice.confidence, 9):.4g} %", f"{100 * advice.confidence:.4g} %"
    shared = f" {count_of(advice.num_paths, 'path')} share the error rate of {error}; one on which every plan passed "
    shared = f"{shared}hands its part on." if advice.num_paths > 1 else ""
    return (
        "Shares are of the score above chance, (cut - chance) / (uncut - chance), on the same items; brackets hold "
        "what is kept at least and at most. The plans of one criterion and healing are a path. They are tested in "
        "order of depth until one does not pass, which needs no correction for their number (fixed sequence). A plan "
        f"passes if all of its readouts do, which needs none either.{shared} A recommended plan keeps what was asked "
        f"for with {confidence} confidence. The bounds are Gaffke's: a Bayesian bootstrap with one more item, the "
        f"worst or the best possible (seed {advice.seed}). They hold for items like these and for the plans in this "
        "folder. Plans that were tried elsewhere are not counted, nor earlier looks at fewer items."
    )


def _at_most(share: float) -> str:
    """An upper bound in percent, rounded up, so that 89.6 % at most is not called 89 %."""
    return number_text(math.ceil(100 * share - 1e-9) / 100)


def _round_up(count: int) -> int:
    """Two digits of an estimate: 1,234 is 1,300."""
    unit: int = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit
