"""The answer: how deep the model can be cut, by lower bounds, in three lines; `none` is an answer."""

from __future__ import annotations

from markupsafe import Markup

from layercut.errors import InputError
from layercut.report import advice_text, words
from layercut.report.advice import Advice, judge
from layercut.report.diagnosis.page import summary
from layercut.report.elements import Block, Details, Prose, Section
from layercut.report.html.prose import blocks, inline, prose
from layercut.report.html.source import Source
from layercut.report.html.templates import templates
from layercut.report.study import StudyResults
from layercut.report.sweep_text import findings
from layercut.report.sweep_text import scope as sweep_scope
from layercut.report.uses import USES
from layercut.text.counting import counted

KEEP, CONFIDENCE = 0.9, 0.95
"""Target share and confidence on this page; `layercut advise` takes others."""


def answer(source: Source) -> Section | None:
    """Advice for a study; else what a sweep found, or what broke first."""
    lines: list[tuple[str, Markup]] = []
    scope: list[tuple[str, str]] = [("model", source.model)]
    rest: list[Block] = []
    title = "How many layers can be removed?"
    if source.study is not None:
        lines, rest = _advice(source.study)
        scope += _study_scope(source.study)
    elif source.sweep is not None:
        title = "Which layers matter?"
        lines = [("", inline(line)) for line in findings(source.sweep)]
        scope.append(("measured", sweep_scope(source.sweep)))
    if source.diagnosis is not None:
        if source.study is None and source.sweep is None:
            title = "What broke first?"
        for arm in source.diagnosis["arms"][1:]:
            first = summary(source.diagnosis["diagnostics"], arm["name"])[0]
            lines.append((f"What broke first in {arm['name']}", inline(first)))
        scope.append(("diagnosed", f"at most {counted(source.diagnosis['limit'], 'item')} of each kind"))
    html = templates().get_template("answer.html").render(lines=lines, scope=scope, large=source.study is not None)
    return Section(name="answer", title=title, blocks=(Prose(html=Markup(html)), *rest))


def _advice(study: StudyResults) -> tuple[list[tuple[str, Markup]], list[Block]]:
    found = _judged(study)
    if "all" not in found:
        return [
            ("", inline("**None: there is no evidence.** No readout in this study can show what a plan keeps."))
        ], []
    lines = [("", inline(advice_text.answer(found["all"])))]
    if "classify" in found:
        lines.append(("Only choosing among given options", _short(found["classify"])))
    written = [name for name, advice in found.items() if advice.use.answers == "written" and advice.evidence != "none"]
    if written:
        short = Markup("; ").join(
            Markup("{}: {}").format(found[name].use.what, _short(found[name])) for name in written
        )
        lines.append(("Writing answers", short))
    every = found["all"]
    evidence, table = advice_text.evidence(every), advice_text.bounds_table(every)
    inner = blocks([evidence, "", table, advice_text.how_made(every)])
    asked = (
        f"The target on this page: at least {KEEP:.0%} of the score above chance, with {CONFIDENCE:.0%} confidence, on "
        "every task that counts. `layercut advise RUN --use math --keep 0.8` takes other uses and targets."
    )
    return lines, [Details(summary="Evidence behind this answer", blocks=(*inner, prose(asked)))]


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


def _short(advice: Advice) -> Markup:
    """In few words, the first of them bold."""
    first, space, rest = advice_text.in_short(advice).partition(
        "," if advice.answer in ("none", "no evidence") else " "
    )
    return Markup("<strong>{}</strong>{}{}").format(first, space, rest)


def _study_scope(study: StudyResults) -> list[tuple[str, str]]:
    rows = study.rows
    depths = sorted({len(row.cut.removed) for row in rows})
    layers = rows[0].cut.num_layers
    deep = f"{depths[0]}" if len(depths) == 1 else f"{depths[0]} to {depths[-1]}"
    return [
        ("cut", f"{deep} of {layers} decoder layers, {len(study.cuts)} plan{'s' * (len(study.cuts) != 1)}"),
        ("tasks", ", ".join(dict.fromkeys(row.task for row in rows))),
        ("measured", words.items([row.n for row in rows], [row.limit for row in rows])),
        ("seed", str(study.seed)),
    ]
