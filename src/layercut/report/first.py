"""The answer that a report begins with: the plan, what it keeps, its size, speed and checkpoint, and its command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layercut.evidence.comparison import ComparisonRow
from layercut.evidence.study import (
    CONFIDENCE,
    KEEP,
    Advice,
    JudgedPlan,
    StudyResults,
    are_thinner,
    judge_plans,
    prune_result,
    task_verdict,
)
from layercut.evidence.uses import named_use
from layercut.report import advice_text, words
from layercut.report.elements import (
    Block,
    Cell,
    Details,
    Facts,
    Lead,
    Section,
    Styled,
    Table,
    bullet_list,
    terminal_table,
    text_columns,
)
from layercut.report.front import front_figure
from layercut.report.source import Source
from layercut.runs.directory import PAGE
from layercut.runs.disk import size_change, size_text
from layercut.runs.environment import change_command, shown_path
from layercut.runs.prune import Alternative, PruneResult, TestedDepth, TimedSpeed, serving_commands, side_effect_words
from layercut.text import (
    PATH_CHARACTERS,
    code_span,
    count_of,
    escape_inline,
    escaped_markdown,
    format_layers,
    number_text,
    p_value,
    parameters_text,
    two_decimals,
    with_interval,
)

if TYPE_CHECKING:
    from rich.console import RenderableType


class FirstScreen(NamedTuple):
    """The part of a report above all others; texts are one line of Markdown each."""

    answer: str
    facts: Sequence[tuple[str, str]] = ()  # of the plan
    table: Table | None = None  # what it keeps of each task
    versus: Table | None = None  # models on the same items
    behind: Sequence[Block] = ()  # the evidence, to be unfolded


def answer_section(source: Source) -> Section:
    """Make the section of a study's answer."""
    study: StudyResults = source.value
    result = prune_result(study.uncut.path.parent)
    first = first_of_prune(result, study.rows) if result else first_of_study(study, source.use, source.keep)
    blocks: list[Block] = [Lead(first.answer)]
    blocks += [first.table] if first.table else []
    blocks += [Facts(first.facts)] if first.facts else []
    blocks += [first.versus] if first.versus and first.versus.rows else []
    blocks += [figure] if result and (figure := front_figure(result)) else []
    if first.behind:
        blocks.append(Details(summary="Evidence behind this answer", blocks=first.behind))
    tried, measured = count_of(len(study.cuts), "plan"), words.item_count_words(study.rows)
    blocks.append(Facts([("model", escape_inline(source.model)), ("tried", tried), ("measured", measured)]))
    title = "What can be removed?" if are_thinner(study.rows) else "How many layers can be removed?"
    return Section(name="answer", title=title, short="Answer", blocks=blocks)


def first_of_study(study: StudyResults, use: str = "all", keep: float = KEEP) -> FirstScreen:
    """The deepest plan that is shown to keep this share for a use, or the best one. InputError: see ``judge_plans``."""
    if not any(row.is_headline and row.cut.is_cut for row in study.rows):
        return FirstScreen("**There is no evidence.** No readout in this study can show what a plan keeps.")
    advice = judge_plans(study.rows, named_use(use), keep=keep, seed=study.seed)
    plan = advice.recommended or advice.best
    if plan is None:
        return FirstScreen(advice_text.advice_answer(advice))
    rows = [row for row in study.rows if row.is_headline and row.cut.name == plan.arm.name]
    target = (
        f"The target here: at least {keep:.0%} of the score above chance, with {CONFIDENCE:.0%} confidence, on every "
        "task that counts. `layercut report RUN --use math --keep 0.8` takes other uses and targets."
    )
    evidence: list[Block] = [
        advice_text.advice_evidence(advice),
        advice_text.bounds_table(advice),
        advice_text.how_plans_tested(advice),
        target,
    ]
    return FirstScreen(
        advice_text.advice_answer(advice),
        facts=_study_facts(study, advice, plan),
        table=_kept_by_task(plan.arm.name, rows),
        behind=evidence,
    )


def _study_facts(study: StudyResults, advice: Advice, plan: JudgedPlan) -> list[tuple[str, str]]:
    arm, is_passed = plan.arm, plan is advice.recommended
    run = next(run for run in study.cuts if run.name == arm.name)
    folder = run.path.parent
    healed = f", healed ({escape_inline(arm.healing)})" if arm.healing else ""
    layers = arm.label if arm.mlp else f"{arm.label} ({arm.depth} of {arm.num_layers})"
    return [
        ("recommended plan" if is_passed else "best plan", code_span(arm.name)),
        ("removed" if arm.mlp else "layers removed", layers + healed),
        ("size", words.size_change_words(advice.uncut, arm) or "not recorded"),
        ("checkpoint", advice_text.checkpoint_words(folder, arm)),
        ("made by", code_span(run.environment["command"], PATH_CHARACTERS)),
    ]


def _kept_by_task(name: str, rows: Sequence[ComparisonRow]) -> Table:
    """What one plan keeps of each task."""
    is_judged = any(row.judged for row in rows)
    lines: list[list[Cell]] = []
    for row in rows:
        keeps = words.kept_words(row.kept_share)
        if row.uncut_is_at_chance or row.kept_share is None:
            keeps = f"difference {with_interval(row.values.difference, share=row.is_share, sign=True)}"
        least = [words.bound_words(row.bound)] if is_judged else []
        scores = words.before_and_after(row, row.is_share, 0)
        finding = words.finding_cell(row.finding)
        lines.append([words.task_cell(row.task, row.readout), finding, keeps, *least, *scores, f"{row.n:,}"])
    numeric = [*(["at least"] if is_judged else []), "original", "pruned", "n"]
    decides = "; at least: the one-sided bound that decides" if is_judged else ""
    return Table(
        name="kept",
        caption=f"What {name} keeps of the original model's score above chance, with 95 % intervals{decides}",
        columns=text_columns("task", "finding", "keeps", *numeric, numeric=numeric),
        rows=lines,
    )


def first_of_prune(result: PruneResult, rows: Sequence[ComparisonRow] = ()) -> FirstScreen:
    """The answer of ``layercut prune``, with rows of the runs in its folder, judged by its rule."""
    chosen, goal, is_passed = result.chosen, result.goal, result.verdict == "passed"
    start = f"Remove {chosen.amount}." if is_passed else ""
    start = f"Take {escaped_markdown(result.better.model)}." if result.better else start
    why, note = (
        escaped_markdown(f"{result.why} {result.fastest}".rstrip()),
        f" {escape_inline(goal.note)}" if goal.note else "",
    )
    tables = [depths_table(result), side_effect_table(result)]
    stages = ", ".join(f"{escape_inline(name)} {seconds / 60:.1f} min" for name, seconds in result.seconds.items())
    notes = [
        *(
            f"{escape_inline(task.task)} ({task.readout}) decides nothing: {escape_inline(task.reason)}."
            for task in result.ignored
        ),
        f"{escape_inline(result.path_ended or 'The path is whole')}; {escape_inline(result.resolution)}.",
        f"Plans are tested on report items in order, each at {goal.level:.0%}, up to the first that fails. That needs "
        "no correction for their number.",
        *(["Channels were chosen, and plans healed, on answers to general requests too."] if result.general else []),
        *([f"Checkpoint: {escape_inline(result.verified)}."] if result.verified else []),
        f"Timed on {escape_inline(result.where)}. Time used: {stages}.",
    ]
    tested = [row for row in rows if row.judged and row.cut.name == chosen.name]
    return FirstScreen(
        f"**{start}** {why}{note}" if start else why.replace(".", ".**", 1).join(("**", note)),
        facts=_prune_facts(result),
        table=_kept_by_task(chosen.name, tested) if tested else None,
        versus=versus_table(result),
        behind=[
            *(table for table in tables if table.rows),
            *([how_weighed(result)] if result.versus else []),
            bullet_list(notes),
        ],
    )


def _prune_facts(result: PruneResult) -> list[tuple[str, str]]:
    chosen, goal = result.chosen, result.goal
    tasks = ", ".join(words.task_and_readout(task.task, task.readout) for task in goal.tasks)
    asked = f"at least {goal.keep:.0%} of the score above chance{f' for {goal.use}' if goal.use else ''}, on {tasks}"
    most = f"{goal.smaller:.0%} of the weights' bytes"
    layers = chosen.label if chosen.mlp else f"{format_layers(chosen.removed)} ({chosen.depth} of {result.num_layers})"
    healed = f", healed ({escape_inline(chosen.healing)})" if chosen.healing else ""
    place = f"{code_span(result.checkpoint)} in this folder" if result.checkpoint else "none, because no plan passed"
    facts = [
        ("asked for", f"{escape_inline(asked)}; at most {most}"),
        ("recommended plan" if result.verdict == "passed" else "best plan", code_span(chosen.name)),
        ("removed" if chosen.mlp else "layers removed", layers + healed),
        ("removed before", result.tokens),
        ("unused tokens", escape_inline(result.unused_tokens)),
        ("size", size_words(result)),
        ("speed", "; ".join(map(words.speed_words, result.speed)) or "not measured"),
        ("checkpoint", place),
        ("side effects", escape_inline(side_effect_words(result.side_effects))),
        ("to decide it", f"the same command with `--items {result.next}` and another `--out`" if result.next else ""),
        ("made by", code_span(result.command, PATH_CHARACTERS)),
    ]
    return [(name, text) for name, text in facts if text]


def answer_lines(result: PruneResult, folder: Path, install: str = "") -> list[str]:
    """The answer of prune on a terminal: the verdict, size and speed, side effects, what to do next, and files.

    Args:
        install: the command that installs what makes GGUF files, where that is missing.
    """
    lines = [f"{result.why} {result.fastest}".rstrip()]
    before, after = result.size.get("uncut"), result.size.get("cut")
    if isinstance(result.smallest, Alternative):
        served = [model.request for model in result.served if model.run == result.smallest.run]
        lines.append(_change_line(result.original_bytes, result.smallest.disk_bytes, served, result.serve))
    elif before is not None and after is not None:
        gguf = ""
        if before.gguf_bytes and after.gguf_bytes:
            gguf = f"; as a GGUF file {1 - after.gguf_bytes / before.gguf_bytes:.0%}"
        requests = [speed for speed in result.speed if speed.name == "request"]
        lines.append(_change_line(before.disk_bytes, after.disk_bytes, requests, result.serve, gguf))
    if result.side_effects:
        is_worse = any(effect.is_loss for effect in result.side_effects)
        lines.append(f"{'Watch out' if is_worse else 'Side effects'}: {side_effect_words(result.side_effects)}.")
    if result.next:
        more = {"items": str(result.next), "out": f"{shown_path(folder)}-{result.next}"}
        lines += _next_lines("ask more items", result.command, more)
    elif not result.versus:
        what, smallest = "weigh it against 4-bit weights on the same items", f"{shown_path(folder)}-smallest"
        lines += _next_lines(what, result.command, {"smallest": "", "out": smallest}, install)
    none = "none, because no plan passed; --anyway writes the best one"
    checkpoint = folder / result.checkpoint if result.checkpoint else none
    commands = serving_commands(str(checkpoint)).items() if result.checkpoint and result.formats else ()
    serve = [f"Serve it ({engine}): {command}" for engine, command in commands]
    return [*lines, f"Checkpoint: {checkpoint}", *serve, f"Report: {folder / PAGE}"]


def _next_lines(what: str, command: str, options: Mapping[str, str], install: str = "") -> list[str]:
    """The next step, with its commands whole where the last one has flags; a request in YAML or Python has none."""
    if command.split()[1:2] == ["prune"]:
        changed = change_command(command, **options)
        place = changed.partition(" ")[0].rpartition("/")
        commands = [f"{place[0]}{place[1]}{install}"] if install else []
        return [f"Next: {what}:", *(f"  {line}" for line in (*commands, changed))]
    flags = " ".join(filter(None, (word for name, value in options.items() for word in (f"--{name}", value))))
    return [f"Next: {what}, the same request with {flags}"]


def _change_line(before: int, after: int, requests: Sequence[TimedSpeed], serve: str, more: str = "") -> str:
    """The change of bytes and speed, for a terminal."""
    text = f"{1 - after / before:.0%} fewer bytes ({size_text(before)} to {size_text(after)}{more})"
    for speed in requests:
        text += f", {two_decimals(speed.times_as_fast)} times as fast ({serve}, n = {speed.times_as_fast.n})"
    return f"{text}."


def result_tables(result: PruneResult) -> list[RenderableType]:
    """Tables of prune's result on a terminal: plans, where the path has several, and models that were weighed."""
    shown = [*([depths_table(result)] if len(result.path) > 1 else []), versus_table(result)]
    return [terminal_table(table) for table in shown if table.rows]


def depths_table(result: PruneResult) -> Table:
    """Every depth of the path: what it keeps on selection items, and on report items where it was tested."""
    tested = {(plan.name, kept.task, kept.readout): (plan, kept) for plan in result.tested for kept in plan.kept}
    rows: list[list[Cell]] = []
    for step in result.path:
        for kept in step.chosen.kept:
            line: list[Cell] = [
                step.label,
                step.healing or "-",
                words.task_cell(kept.task, kept.readout),
                words.kept_words(kept.kept),
            ]
            plan, shown = tested.get((step.run, kept.task, kept.readout), (None, None))
            if plan is None or shown is None:
                rows.append([*line, "-", "-", "not tested"])
            else:
                verdict = words.finding_cell(task_verdict(plan, shown, result.goal.keep))
                rows.append([*line, words.kept_words(shown.kept), words.bound_words(shown.bound, "-"), verdict])
    names = ("removed", "healed", "task", "selection items", "report items", "at least", "verdict")
    columns = text_columns(*names, numeric=["at least"], narrow={"selection items": 1})
    caption = "What each plan of the path keeps, with 95 % intervals"
    return Table(name="depths", caption=caption, columns=columns, rows=rows)


def side_effect_table(result: PruneResult) -> Table:
    """Every check of both models."""
    rows = []
    for effect in result.side_effects:
        both = [f"{number_text(share.value)} %" for share in (effect.uncut, effect.cut)]
        difference = with_interval(effect.difference, sign=True)
        rows.append([effect.what, *both, difference, p_value(effect.p), f"{effect.cut.n:,}"])
    heads = ("check", "original", "pruned", "difference, points", "p", "n")
    columns = text_columns(*heads, numeric=("original", "pruned", "p", "n"))
    caption = (
        "What else changed: share of the answers that pass each check, in %, with 95 % intervals of each check by "
        "itself; p adjusted (Holm)"
    )
    return Table(name="side_effects", caption=caption, columns=columns, rows=rows)


def size_words(result: PruneResult) -> str:
    """Parameters and bytes of both models."""
    before, after = result.size.get("uncut"), result.size.get("cut")
    if before is None or after is None:
        return "not recorded"
    change = f"{after.parameters / before.parameters - 1:+.1%}"
    text = f"{parameters_text(before.parameters)} to {parameters_text(after.parameters)} parameters ({change})"
    text += f", {size_change(before.disk_bytes, after.disk_bytes)} on disk"
    if before.gguf_bytes and after.gguf_bytes:
        text += f", {size_change(before.gguf_bytes, after.gguf_bytes)} from GGUF to GGUF"
    if before.memory_bytes and after.memory_bytes:
        text += f", {size_text(before.memory_bytes)} to {size_text(after.memory_bytes)} in memory"
    return text


def versus_table(result: PruneResult) -> Table:
    """A row for each tested plan or other model and task, the largest first; the answer's model is strong."""
    served, uncut = {model.run: model for model in result.served}, result.original_bytes
    taken = result.better or next((plan for plan in result.tested if plan.name == result.chosen.name), None)
    models: list[tuple[TestedDepth | Alternative, str, str]] = [
        (plan, f"{plan.label}, {plan.healing}" if plan.healing else plan.label, plan.name) for plan in result.tested
    ]
    models += [(other, other.model, other.run) for other in result.versus]
    lines: list[list[Cell]] = []
    for model, label, run in sorted(models, key=lambda model: -model[0].disk_bytes):
        is_taken = model is taken and (result.better is not None or result.verdict == "passed")
        weights = f"{size_text(model.disk_bytes)} ({100 * (model.disk_bytes / uncut - 1):+.0f} %)"
        request = "not timed"
        if run in served:
            timed = served[run].request
            request = f"{timed.cut.value:.3g} s ({words.times_words(timed)})"
        for task in model.kept:
            verdict = words.finding_cell(task_verdict(model, task, result.goal.keep))
            name, bound = words.task_cell(task.task, task.readout), words.bound_words(task.bound, "-")
            label_cell = Styled(label, "strong" if is_taken else "plain")
            lines.append([label_cell, weights, request, name, words.kept_words(task.kept), bound, verdict])
    heads = ("model", "weights", "a request", "task", "keeps", "at least", "verdict")
    narrow = {"at least": 1, "a request": 2, **({"task": 3} if len(result.goal.tasks) == 1 else {})}
    columns = text_columns(*heads, numeric=("weights", "a request", "at least"), narrow=narrow)
    caption = "Plans and other models on the same items, with 95 % intervals"
    return Table(name="versus", caption=caption, columns=columns, rows=lines if result.versus else [])


def how_weighed(result: PruneResult) -> str:
    """How plans and other models were tested, and on which items."""
    promise = "5 % of all cases" if result.error < 0.1 else "10 %, as others were named after the plans were tested"
    return (
        f"Report items, 95 % intervals, seed {result.seed}. A model that passed keeps less in at most {promise}. GGUF "
        f"files run in llama.cpp, all else in transformers. Timed by turns with the original model, {result.serve}."
    )
