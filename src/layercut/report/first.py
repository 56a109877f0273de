"""The answer that a report begins with: the plan, what it keeps, its size, speed and checkpoint, and its command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from layercut.evidence.advice import CONFIDENCE, KEEP, Advice, JudgedPlan, advice_by_use
from layercut.evidence.study import checkpoint_of, task_verdict
from layercut.report import advice_text, words
from layercut.report.advice_text import ask_more
from layercut.report.comparison import score_table
from layercut.report.elements import Block, Figure, bullets
from layercut.report.front import (
    front_figure,
    front_of,
    front_of_advice,
    front_table,
    share_cell,
    task_cell,
    unweighed_words,
)
from layercut.report.table import Cell, Column, Table, terminal, texts
from layercut.runs.directory import PAGE
from layercut.runs.disk import size, size_change
from layercut.runs.draft import BESIDE, DRAFT, DraftResult
from layercut.runs.prune import RESULT, SHARED, PruneResult, side_effect_words
from layercut.text.counting import counted
from layercut.text.markup import PATH_CHARACTERS, code, escape, escaped
from layercut.text.numbers import at_least, number, p_value, parameters, two_decimals, with_interval
from layercut.text.removal import format_layers

if TYPE_CHECKING:
    from rich.console import RenderableType

    from layercut.evidence.comparison import ComparisonRow
    from layercut.evidence.study import StudyResults
    from layercut.runs.prune import BothEstimated


@dataclass(frozen=True, kw_only=True)
class FirstScreen:
    """The part of a report above all others; texts are one line of Markdown each."""

    answer: str
    title: str = ""
    """Title of the report, with MODEL in place of the model's name; empty for the usual one."""
    facts: Sequence[tuple[str, str]] = ()
    """Names and values of the plan's facts."""
    table: Table | None = None
    """Retained score of each task."""
    figure: Figure | None = None
    """Models on the same items, by size and by what they keep."""
    behind: Sequence[Block] = ()
    """The evidence, to be unfolded."""


def first_screen(folder: Path, study: StudyResults) -> FirstScreen:
    """The answer of ``layercut prune`` where the folder holds one, else that of advice for all tasks of a study."""
    if not (folder / RESULT).is_file():
        return first_of_study(study)
    drafted = DraftResult.load(folder / BESIDE) if (folder / BESIDE / DRAFT).is_file() else None
    return first_of_prune(PruneResult.load(folder), study.rows, drafted)


def first_of_study(study: StudyResults) -> FirstScreen:
    """The plan that advice for all tasks recommends, or the best one."""
    found = advice_by_use(study.rows, study.seed)
    every = found.get("all")
    plan = None if every is None else every.recommended or every.best
    front = None if every is None else front_of_advice(every)
    figure = front and front_figure(front)
    if every is None or plan is None:
        text = "**There is no evidence.** No readout in this study can show what a plan keeps."
        return FirstScreen(answer=text if every is None else advice_text.answer(every), figure=figure)
    rows = [row for row in study.rows if row.is_headline and row.cut.name == plan.arm.name]
    uses = Table(
        name="uses",
        caption=f"For each use, the deepest plan that keeps {KEEP:.0%}",
        columns=texts("use", "answer"),
        rows=[[advice.use.what, advice_text.in_short(advice)] for advice in found.values()],
    )
    asked = (
        f"The target here: at least {KEEP:.0%} of the score above chance, with {CONFIDENCE:.0%} confidence, on every "
        "task that counts. `layercut advise RUN --use math --keep 0.8` takes other uses and targets."
    )
    return FirstScreen(
        answer=advice_text.answer(every),
        facts=_study_facts(study, every, plan),
        table=_kept_by_task(plan.arm.name, rows),
        figure=figure,
        behind=[
            *([front.note] if front else []),
            uses,
            advice_text.evidence(every),
            advice_text.bounds_table(every),
            advice_text.how_made(every),
            asked,
        ],
    )


def _study_facts(study: StudyResults, advice: Advice, plan: JudgedPlan) -> list[tuple[str, str]]:
    arm = plan.arm
    run = next(run for run in study.cuts if run.name == arm.name)
    folder = run.path.parent
    healed = f", healed ({escape(arm.healing)})" if arm.healing else ""
    layers = f"{arm.label} ({arm.depth} of {arm.num_layers})" if not arm.mlp else arm.label
    facts = [("recommended plan" if plan is advice.recommended else "best plan", code(arm.name))]
    facts += [("removed" if arm.mlp else "layers removed", layers + healed)]
    facts += [("size", words.size(advice.uncut, arm) or "not recorded")]
    facts += [("speed", "not measured; `layercut prune` does")]
    if arm.checkpoint:
        facts += [("checkpoint", code(arm.checkpoint, PATH_CHARACTERS))]
    elif (found := checkpoint_of(folder, arm).checkpoint) is not None:
        facts += [("checkpoint", f"{code(found.relative_to(folder).as_posix(), PATH_CHARACTERS)} in this folder")]
    elif arm.is_healing_arm:
        facts += [("checkpoint", "not kept; the study writes it with `checkpoints: true`")]
    else:
        made = run.metrics().get("plan") or {}
        model, layers = str(made.get("model") or "MODEL"), format_layers(made.get("removed", ()))
        command = f"layercut cut {model} --remove {layers} --out {arm.name}"
        facts += [("checkpoint", f"not kept; {_command(command)} writes it")]
    if plan is not advice.recommended and plan.verdict == "undecided" and plan.items_needed is not None:
        facts += [("to decide it", ask_more(folder, plan.items_needed))]
    return [*facts, ("made by", _command(run.environment["command"]))]


def _kept_by_task(name: str, rows: Sequence[ComparisonRow]) -> Table:
    """What one plan keeps of each task."""

    def score(of: str) -> Callable[[ComparisonRow], str]:
        return lambda row: number(getattr(row.values, of).value, share=row.is_share) + " %" * row.is_share

    def keeps(row: ComparisonRow) -> str:
        if row.uncut_is_at_chance or row.kept_share is None:
            return f"difference {with_interval(row.values.difference, share=row.is_share, sign=True)}"
        return words.kept(row.kept_share)

    def bound(row: ComparisonRow) -> str:
        return "n/a" if row.bound is None else f"{at_least(row.bound)} %"

    is_judged = any(row.judged for row in rows)
    decides = "; at least: the one-sided bound that decides" if is_judged else ""
    return Table(
        name="kept",
        caption=f"What {name} keeps of the original model's score above chance, with 95 % intervals{decides}",
        columns=[
            Column("task", lambda row: task_cell(row.task, row.readout)),
            Column("finding", lambda row: words.finding_cell(row.finding)),
            Column("keeps", keeps),
            *([Column("at least", bound, numeric=True)] if is_judged else []),
            Column("original", score("uncut"), numeric=True),
            Column("pruned", score("cut"), numeric=True),
            Column("n", lambda row: f"{row.n:,}", numeric=True),
        ],
        rows=rows,
        download=score_table(rows),
    )


def first_of_prune(
    result: PruneResult, rows: Sequence[ComparisonRow] = (), drafted: DraftResult | None = None
) -> FirstScreen:
    """The answer of ``layercut prune``.

    Args:
        result: what it found.
        rows: of the runs in its folder, judged by its rule.
        drafted: what the original model does with a draft of itself.
    """
    chosen, goal = result.chosen, result.goal
    start = f"Remove {chosen.amount}." if result.verdict == "passed" else ""
    start = f"Take {escaped(result.better.model)}." if result.better else start
    why = escaped(f"{result.why} {result.fastest}".rstrip())
    note = f" {escape(goal.note)}" if goal.note else ""
    rows = [row for row in rows if row.judged and row.cut.name == chosen.name]
    tasks = ", ".join(f"{one.task} ({words.readout_words(one.readout)})" for one in goal.tasks)
    use = f" for {goal.use}" if goal.use else ""
    asked = f"at least {goal.keep:.0%} of the score above chance{use}, on {tasks}"
    healed = f", healed ({escape(chosen.healing)})" if chosen.healing else ""
    place = f"{code(result.checkpoint)} in this folder" if result.checkpoint else "none, because no plan passed"
    most = f"{goal.smaller:.0%} of {SHARED[goal.unit]}" if goal.smaller else counted(goal.max_depth, "layer")
    facts = [
        ("asked for", f"{escape(asked)}; at most {most}"),
        ("recommended plan" if result.verdict == "passed" else "best plan", code(chosen.name)),
        (
            ("removed", f"{chosen.label}{healed}")
            if chosen.mlp
            else ("layers removed", f"{format_layers(chosen.removed)} ({chosen.depth} of {result.num_layers}){healed}")
        ),
        ("size", size_words(result)),
        ("speed", "; ".join(map(words.speed, result.speed)) or "not measured"),
        ("checkpoint", place),
        *([("side effects", escape(effects))] if (effects := side_effect_words(result.side_effects)) else []),
        *([("other models", escape(unweighed))] if (unweighed := unweighed_words(result)) else []),
        *([("with a draft", f"{escape(drafted.why)} Nothing is lost.")] if drafted else []),
        *([("to decide it", _command(result.next.command))] if result.next else []),
        ("made by", _command(result.command)),
    ]
    depth = chosen.amount if chosen.mlp else f"{chosen.depth} of its {counted(result.num_layers, 'layer')}"
    front = front_of(result, drafted)
    stages = ", ".join(f"{escape(name)} {seconds / 60:.1f} min" for name, seconds in result.seconds.items())
    tables = [depths_table(result), ways_table(result), costs_table(result), side_effect_table(result)]
    notes = [
        *(f"{escape(one.task)} ({one.readout}) decides nothing: {escape(one.reason)}." for one in result.ignored),
        f"{escape(result.path_ended or 'The path is whole')}; {escape(result.resolution)}.",
        f"Plans are tested on report items in order, each at {goal.level:.0%}, up to the first that fails. That needs "
        "no correction for their number.",
        *(["Channels were chosen, and plans healed, on answers to general requests too."] if result.general else []),
        *([f"Checkpoint: {escape(result.verified)}."] if result.verified else []),
        f"Timed on {escape(result.where)}. Time used: {stages}.",
    ]
    return FirstScreen(
        answer=f"**{start}** {why}{note}" if start else why.replace(".", ".**", 1).join(("**", note)),
        title=f"What MODEL keeps without {depth}" if result.verdict == "passed" else "",
        facts=facts,
        table=_kept_by_task(chosen.name, rows) if rows else None,
        figure=front and front_figure(front),
        behind=[*(table for table in tables if table.rows), *([front.note] if front else []), bullets(notes)],
    )


def answer_lines(result: PruneResult, folder: Path) -> list[str]:
    """The answer of prune on a terminal: the verdict, size and speed, side effects, what to do next, and files.

    Args:
        folder: the run folder.
    """
    lines = [f"{result.why} {result.fastest}".rstrip()]
    before, after = result.size.get("uncut"), result.size.get("cut")
    if before is not None and after is not None:
        text = f"{1 - after.disk_bytes / before.disk_bytes:.0%} fewer bytes"
        text += f" ({size(before.disk_bytes)} to {size(after.disk_bytes)}"
        if before.gguf_bytes and after.gguf_bytes:
            text += f"; as a GGUF file {1 - after.gguf_bytes / before.gguf_bytes:.0%}"
        text += ")"
        for one in result.speed:
            if one.name == "request" and one.ratio.low and one.ratio.high:
                ends = f"[{1 / one.ratio.high:.2f}, {1 / one.ratio.low:.2f}]"
                text += f", {1 / one.ratio.value:.2f} {ends} times as fast ({result.serve}, n = {one.ratio.n})"
        lines.append(f"{text}.")
    if result.side_effects:
        worse = any(one.is_shown for one in result.side_effects)
        lines += [f"{'Watch out' if worse else 'Side effects'}: {side_effect_words(result.side_effects)}."]
    if result.next:
        lines += [f"Next: {result.next.command}"]
    elif not result.versus:
        lines += ["Next: weigh it against 4-bit weights on the same items, the same command with --versus FILE.gguf"]
    none = "none, because no plan passed; --anyway writes the best one"
    lines += [f"Checkpoint: {folder / result.checkpoint if result.checkpoint else none}"]
    return [*lines, f"Report: {folder / PAGE}"]


def result_tables(result: PruneResult) -> list[RenderableType]:
    """Tables of prune's result on a terminal: plans, where the path has several, and models that were weighed."""
    front = front_of(result)
    shown = [*([depths_table(result)] if len(result.path) > 1 else []), *([front_table(front)] if front else [])]
    return [terminal(one) for one in shown if one.rows]


def depths_table(result: PruneResult) -> Table:
    """Every depth of the path: what it keeps on selection items, and on report items where it was tested."""
    tested = {one.name: one for one in result.tested}
    rows: list[list[Cell]] = []
    for step in result.path:
        found = tested.get(step.run)
        on_report = {(one.task, one.readout): one for one in found.kept} if found else {}
        for one in step.chosen.kept:
            shown = on_report.get((one.task, one.readout))
            rows.append(
                [
                    step.label,
                    step.healing or "-",
                    task_cell(one.task, one.readout),
                    share_cell(one),
                    "-" if shown is None else share_cell(shown),
                    "-" if shown is None or shown.bound is None else f"{at_least(shown.bound)} %",
                    "not tested"
                    if found is None or shown is None
                    else words.finding_cell(task_verdict(found, shown, result.goal.keep)),
                ]
            )
    names = ("removed", "healed", "task", "selection items", "report items", "at least", "verdict")
    columns = texts(*names, numeric=["at least"], narrow={"selection items": [1]})
    caption = "What each plan of the path keeps, with 95 % intervals"
    return Table(name="depths", caption=caption, columns=columns, rows=rows)


def ways_table(result: PruneResult) -> Table:
    """Every way in which the model of a plan was made, on selection items; the first of each plan is not healed.

    No rows where no plan had a choice.
    """
    rows: list[list[Cell]] = []
    for step in result.path if any(len(step.tried) > 1 for step in result.path) else ():
        for way in step.tried:
            took = f"{way.seconds:,.0f} s" if way.healing else "-"
            chosen = "chosen" if way.healing == step.healing else "-"
            for kept in way.kept:
                task = task_cell(kept.task, kept.readout)
                rows.append([step.label, way.healing or "-", task, share_cell(kept), took, chosen])
    columns = texts("removed", "healed", "task", "keeps", "healing took", "", numeric=["healing took"])
    caption = "Ways of making the model of each plan, on selection items, with 95 % intervals"
    return Table(name="ways", caption=caption, columns=columns, rows=rows)


def costs_table(result: PruneResult) -> Table:
    """Tokens and seconds of the answers of every model that was timed; no rows where options were ranked."""
    labels = {one.name: one.label for one in result.tested} | {one.run: one.model for one in result.versus}

    def both(cost: BothEstimated | None) -> str:
        if cost is None:
            return "n/a"
        values = " to ".join(f"{one.value:.3g}" for one in (cost.uncut, cost.this))
        return f"{values} (x {two_decimals(cost.ratio)})"

    rows: list[list[Cell]] = []
    for served in result.served:
        for cost in served.costs:
            costs = map(both, (cost.tokens, cost.seconds, cost.per_solved))
            rows.append([labels.get(served.run, served.run), task_cell(cost.task, cost.readout), *costs])
    names = ("model", "task", "tokens a request", "seconds a request", "seconds a solved one")
    return Table(
        name="costs",
        caption=f"What answers to report items took, original to this model, with 95 % intervals ({result.serve})",
        columns=texts(*names, narrow={"tokens a request": [2], "seconds a request": [1, 2]}),
        rows=rows,
    )


def side_effect_table(result: PruneResult) -> Table:
    """Every check of both models."""
    return Table(
        name="side_effects",
        caption="What else changed: share of the answers that pass each check, in %, with 95 % intervals; "
        "p adjusted (Holm)",
        columns=[
            Column("check", lambda effect: effect.what),
            Column("original", lambda effect: f"{number(effect.uncut.value)} %", numeric=True),
            Column("pruned", lambda effect: f"{number(effect.cut.value)} %", numeric=True),
            Column("difference, points", lambda effect: with_interval(effect.difference, sign=True)),
            Column("p", lambda effect: p_value(effect.p), numeric=True),
            Column("n", lambda effect: f"{effect.cut.n:,}", numeric=True),
        ],
        rows=result.side_effects,
    )


def size_words(result: PruneResult) -> str:
    """Parameters and bytes of both models."""
    before, after = result.size.get("uncut"), result.size.get("cut")
    if before is None or after is None:
        return "not recorded"
    change = f"{after.parameters / before.parameters - 1:+.1%}"
    text = f"{parameters(before.parameters)} to {parameters(after.parameters)} parameters ({change})"
    text += f", {size_change(before.disk_bytes, after.disk_bytes)} on disk"
    if before.gguf_bytes and after.gguf_bytes:
        text += f", {size_change(before.gguf_bytes, after.gguf_bytes)} from GGUF to GGUF"
    if before.memory_bytes and after.memory_bytes:
        text += f", {size(before.memory_bytes)} to {size(after.memory_bytes)} in memory"
    return text


def _command(text: str) -> str:
    """A whole command as code; ``code`` would shorten it."""
    return f"`{text}`" if "`" not in text and text else escape(text)
