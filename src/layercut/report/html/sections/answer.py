"""The answer first: the recommended or best plan, what each task keeps, its size, its checkpoint, and its command."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from layercut.errors import InputError
from layercut.evidence.comparison import ComparisonRow
from layercut.report import advice_text, words
from layercut.report.advice import Advice, JudgedPlan, judge
from layercut.report.diagnosis.page import summary
from layercut.report.elements import Block, Cell, Details, Prose, Section, Styled, Table, visible
from layercut.report.html.prose import blocks, inline, prose
from layercut.report.html.source import Source
from layercut.report.html.templates import templates
from layercut.report.rows import kept, raw
from layercut.report.study import StudyResults, checkpoint_of
from layercut.report.sweep_text import findings
from layercut.report.sweep_text import scope as sweep_scope
from layercut.report.uses import USES
from layercut.surgery.plan import format_layers
from layercut.text.counting import counted
from layercut.text.numbers import number, with_interval

KEEP, CONFIDENCE = 0.9, 0.95
"""Target share and confidence on a study's page; `layercut advise` takes others."""
Facts = list[tuple[str, str | Markup]]


def answer(source: Source) -> Section | None:
    """Advice for a study; else what a sweep found, or what broke first."""
    lines: list[tuple[str, Markup]] = []
    facts: Facts = [("model", source.model)]
    shown: list[Block] = []
    title = "How many layers can be removed?"
    if source.study is not None:
        lines, shown = _advice(source)
        facts += _study_scope(source.study)
    elif source.sweep is not None:
        title = "Which layers matter?"
        lines = [("", inline(line)) for line in findings(source.sweep)]
        facts.append(("measured", sweep_scope(source.sweep)))
    if source.diagnosis is not None:
        if source.study is None and source.sweep is None:
            title = "What broke first?"
        for arm in source.diagnosis["arms"][1:]:
            first = summary(source.diagnosis["diagnostics"], arm["name"])[0]
            lines.append((f"What broke first in {arm['name']}", inline(first)))
        facts.append(("diagnosed", f"at most {counted(source.diagnosis['limit'], 'item')} of each kind"))
    top = _laid_out(lines, [], large=source.study is not None)
    return Section(name="answer", title=title, short="Answer", blocks=(top, *shown, _laid_out([], facts)))


def _laid_out(lines: Sequence[tuple[str, Markup]], facts: Facts, *, large: bool = False) -> Prose:
    html = templates().get_template("answer.html").render(lines=lines, facts=facts, large=large)
    return Prose(html=Markup(html))


def _advice(source: Source) -> tuple[list[tuple[str, Markup]], list[Block]]:
    study = source.study
    assert study is not None
    found = _judged(study)
    if "all" not in found:
        return [
            ("", inline("**None: there is no evidence.** No readout in this study can show what a plan keeps."))
        ], []
    every = found["all"]
    best = every.recommended or _best(every)
    own = [row for row in study.rows if row.is_headline and row.cut.name == best.arm.name]
    evidence, bounds = advice_text.evidence(every), advice_text.bounds_table(every)
    asked = (
        f"The target on this page: at least {KEEP:.0%} of the score above chance, with {CONFIDENCE:.0%} confidence, on "
        "every task that counts. `layercut advise RUN --use math --keep 0.8` takes other uses and targets."
    )
    uses = Table(
        name="uses",
        caption=f"For each use, the deepest plan that keeps {KEEP:.0%}",
        head=["use", "answer"],
        rows=[[advice.use.what, advice_text.in_short(advice)] for advice in found.values()],
    )
    behind = (uses, *blocks([evidence, "", bounds, advice_text.how_made(every)]), prose(asked))
    return [("", inline(advice_text.answer(every)))], [
        _laid_out([], _about(source, best, own)),
        _kept_table(best.arm.name, own),
        Details(summary="Other uses, and the evidence behind this answer", blocks=behind),
    ]


def _best(advice: Advice) -> JudgedPlan:
    """Where none passed, the plan whose lowest bound is highest, one that is not refuted before one that is."""
    return max(advice.plans, key=lambda plan: (plan.verdict != "refuted", plan.low is not None, plan.low or 0.0))


def _about(source: Source, plan: JudgedPlan, rows: Sequence[ComparisonRow]) -> Facts:
    """What the plan is, what it saves, where it is, and how to have it."""
    study, arm = source.study, plan.arm
    assert study is not None
    run = next(run for run in study.cuts if run.name == arm.name)
    layers = f"{format_layers(arm.removed)} ({len(arm.removed)} of {arm.num_layers})"
    facts: Facts = [("recommended plan" if plan.verdict == "qualifies" else "best plan", arm.name)]
    facts += [("layers removed", layers + (f", healed ({arm.healing})" if arm.healing else ""))]
    facts += [("size", words.size(rows[0].uncut, arm) or "not recorded")]
    facts += [
        ("speed", _speed(source, arm.name) or Markup("not measured; <code>layercut diagnose --only cost</code> does"))
    ]
    if (checkpoint := checkpoint_of(run)) is not None:
        facts += [("checkpoint", f"{checkpoint.relative_to(run.path.parent).as_posix()} in this folder")]
    elif not arm.healing:
        command = f"layercut cut {source.model} --remove {format_layers(arm.removed)} --out {arm.name}"
        facts += [("checkpoint", Markup("not kept; <code>{}</code> writes it").format(visible(command)))]
    return [*facts, ("made by", Markup("<code>{}</code>").format(visible(run.environment["command"])))]


def _speed(source: Source, name: str) -> str:
    """Speed of generation beside the original model, from a diagnosis of the same plan."""
    found = (source.diagnosis or {}).get("diagnostics", {}).get("cost", {}).get("rows", ())
    return "; ".join(
        f"{row['measure']} ({row['group']}) {row['difference'][0]:.2f} times the original model's"
        for row in found
        if row["arm"] == name and row["measure"] == "decode speed"
    )


def _kept_table(name: str, rows: Sequence[ComparisonRow]) -> Table:
    lines: list[list[Cell]] = []
    for row in rows:
        share, unit = row.is_share, " %" if row.is_share else ""
        scores = (f"{number(one.value, share=share)}{unit}" for one in (row.values.uncut, row.values.cut))
        change = with_interval(row.values.difference, share=share, sign=True)
        shown = f"difference {change}" if row.uncut_is_at_chance or row.kept_share is None else kept(row.kept_share)
        look = words.LOOKS.get(row.finding)
        finding = row.finding if look is None else Styled(row.finding, look)
        task = Styled(row.task, "plain", below=(words.readout_words(row.readout),))
        lines.append([task, shown, finding, *scores, f"{row.n:,}"])
    return Table(
        name="kept",
        caption=f"What {name} keeps of the original model's score above chance, with 95 % intervals",
        head=["task", "keeps", "finding", "original", "pruned", "n"],
        rows=lines,
        numeric=frozenset({3, 4, 5}),
        raw=raw(rows),
    )


def _judged(study: StudyResults) -> dict[str, Advice]:
    """Advice for every use that was measured; uses that rest on the same rows once."""
    found: dict[str, Advice] = {}
    seen: set[tuple[tuple[str, str], ...]] = set()
    for use in USES.values():
        try:
            advice = judge(study.rows, use, keep=KEEP, confidence=CONFIDENCE, seed=study.seed)
        except InputError:
            continue
        judged = tuple(dict.fromkeys((one.task, one.readout) for plan in advice.plans for one in plan.readouts))
        if use.answers == "written" and judged in seen:
            continue
        seen.add(judged)
        found[use.name] = advice
    return found


def _study_scope(study: StudyResults) -> Facts:
    rows = study.rows
    depths = sorted({len(row.cut.removed) for row in rows})
    layers = rows[0].cut.num_layers
    deep = f"{depths[0]}" if len(depths) == 1 else f"{depths[0]} to {depths[-1]}"
    return [
        ("tried", f"{deep} of {layers} decoder layers, {len(study.cuts)} plan{'s' * (len(study.cuts) != 1)}"),
        ("tasks", ", ".join(dict.fromkeys(row.task for row in rows))),
        ("measured", words.items([row.n for row in rows], [row.limit for row in rows])),
        ("seed", str(study.seed)),
    ]
