"""The front: plans and other models on the same report items, by bytes and by seconds, and by what they keep.

A model is on the front of an axis where no other one with less on it keeps as much, of its worst task each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from layercut.evidence.advice import Advice
from layercut.evidence.study import task_verdict
from layercut.report import charts, words
from layercut.report.elements import Figure, Panel, legend_keys
from layercut.report.table import Cell, Styled, Table, text_columns
from layercut.runs.disk import size_text
from layercut.runs.prune import Alternative, PruneResult, TaskKept, TestedDepth, TimedSpeed
from layercut.text import HasInterval

PLANS, OTHERS, BEHIND = "plans", "other models", "not on the front"
_AXES = {
    "bytes": "bytes of the weights, % of the original model's",
    "seconds": "seconds of a request, % of the original's",
}


class Share(NamedTuple):
    """Retention of one task, with its one-sided lower bound."""

    task: str
    readout: str
    kept: HasInterval | None
    bound: float | None
    verdict: str


def task_cell(task: str, readout: str) -> Styled:
    """A task, and below it how it is answered."""
    return Styled(task, "plain", below=(words.readout_words(readout),))


def share_cell(share: TaskKept | Share) -> str:
    """The share that is kept, with its interval."""
    return words.kept_words(share.kept)


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """One model of the front."""

    label: str
    kept: Sequence[Share]
    disk_bytes: int
    change: float  # of the bytes, as a share of the original model's
    series: str
    picked: bool = False  # the answer takes it
    request: TimedSpeed | None = None  # seconds of a request; None where it was not timed
    memory: int | None = None  # bytes of the weights, and of keys and values in the serving profile
    smallest: bool = False  # on the front of the bytes
    fastest: bool = False  # on the front of the seconds

    def cost(self, axis: str) -> float | None:
        """The place on an axis, as a share of the original model's."""
        if axis == "bytes":
            return 1 + self.change
        return None if self.request is None else self.request.ratio.value


class Front(NamedTuple):
    """Models on the same items, the largest first; ``note`` says how they were tested, and on which items."""

    models: Sequence[Weighed]
    keep: float
    note: str


def front_of(result: PruneResult) -> Front | None:
    """Every tested plan and every other model of a run of prune; None where no other model was named."""
    if not result.versus:
        return None
    better, served = result.better, {model.run: model for model in result.served}
    taken = result.chosen.name if better is None and result.verdict == "passed" else ""

    def weigh(model: TestedDepth | Alternative, label: str, run: str, **look: Any) -> Weighed:
        timed = served.get(run)
        return Weighed(
            label=label,
            kept=[
                Share(task.task, task.readout, task.kept, task.bound, task_verdict(model, task, result.goal.keep))
                for task in model.kept
            ],
            disk_bytes=model.disk_bytes,
            change=model.disk_bytes / result.size["uncut"].disk_bytes - 1,
            request=timed.request if timed else None,
            memory=timed.memory(result.serve_tokens) if timed and result.serve_tokens else None,
            **look,
        )

    models = []
    for plan in result.tested:
        label = f"{plan.label}, {plan.healing}" if plan.healing else plan.label
        models.append(weigh(plan, label, plan.name, series=PLANS, picked=plan.name == taken))
    models += [weigh(other, other.model, other.run, series=OTHERS, picked=other is better) for other in result.versus]
    shared = (
        "Plans and other models share an error of 5 %: a model that passed keeps less in at most 5 % of all cases."
        if result.error < 0.1
        else "Other models were named after the plans had been tested, and share 5 % of their own: the whole answer "
        "errs in up to 10 % of all cases."
    )
    note = (
        f"Report items, 95 % intervals, seed {result.seed}. {shared} GGUF files run in llama.cpp, all else in "
        f"transformers. Timed by turns with the original model, {result.serve}. On the front: no other one that is "
        "smaller, or faster, keeps as much."
    )
    return Front(_ranked(models), result.goal.keep, note)


def front_of_advice(advice: Advice) -> Front | None:
    """Every judged plan and every other model of a folder of runs; None where there is no other model, or a run does
    not record its bytes.
    """
    judged = [plan for plan in (*advice.plans, *advice.others) if plan.tasks]
    uncut, taken = advice.uncut.disk_bytes, advice.better or advice.recommended
    if not advice.others or not uncut or any(plan.arm.disk_bytes is None for plan in judged):
        return None
    models = [
        Weighed(
            label=plan.arm.other or plan.arm.name,
            kept=[Share(task.task, task.readout, task.interval, task.low, task.verdict) for task in plan.tasks],
            disk_bytes=plan.arm.disk_bytes or 0,
            change=(plan.arm.disk_bytes or 0) / uncut - 1,
            series=OTHERS if plan.arm.other else PLANS,
            picked=plan is taken,
        )
        for plan in judged
    ]
    note = (
        f"Items of the runs, 95 % intervals, seed {advice.seed}. All share an error of {1 - advice.confidence:.0%}. On "
        "the front: no smaller one keeps as much."
    )
    return Front(_ranked(models), advice.keep, note)


def _ranked(models: Sequence[Weighed]) -> list[Weighed]:
    """The models with their places on both fronts, by their worst task; the largest first."""
    worst = [min((share.kept.value for share in model.kept if share.kept), default=-math.inf) for model in models]

    def is_front(place: int, axis: str) -> bool:
        costs = [model.cost(axis) for model in models]
        own = costs[place]
        if own is None or worst[place] == -math.inf:
            return False
        return all(cost is None or cost >= own or kept < worst[place] for cost, kept in zip(costs, worst, strict=True))

    ranked = [
        replace(model, smallest=is_front(place, "bytes"), fastest=is_front(place, "seconds"))
        for place, model in enumerate(models)
    ]
    return sorted(ranked, key=lambda model: -model.disk_bytes)


def front_table(front: Front) -> Table:
    """A row for each model and task."""
    is_timed, has_memory = (any(getattr(model, name) for model in front.models) for name in ("request", "memory"))
    lines: list[list[Cell]] = []
    for model in front.models:
        fronts = [name for name, is_on in (("bytes", model.smallest), ("seconds", model.fastest)) if is_on]
        weights = f"{size_text(model.disk_bytes)} ({100 * model.change:+.0f} %)"
        start: list[Cell] = [Styled(model.label, "strong" if model.picked else "plain"), weights]
        start += ["not timed" if model.memory is None else size_text(model.memory)] if has_memory else []
        start += [request_words(model.request)] if is_timed else []
        for share in model.kept:
            shown: list[Cell] = [
                task_cell(share.task, share.readout),
                share_cell(share),
                words.bound_words(share.bound, "-"),
            ]
            lines.append([*start, *shown, words.finding_cell(share.verdict), " and ".join(fronts) or "-"])
    costs = [*(["in memory"] if has_memory else []), *(["a request"] if is_timed else [])]
    columns = text_columns(
        "model", "weights", *costs, "task", "keeps", "at least", "verdict", "front",
        numeric=("weights", *costs, "at least"), narrow={"in memory": (1,), "at least": (1,)},
    )  # fmt: skip
    caption = "Plans and other models on the same items, with 95 % intervals"
    return Table(name="front", caption=caption, columns=columns, rows=lines)


def front_figure(front: Front) -> Figure:
    """Retention of each model against its bytes and against its seconds, a panel each for each task."""
    colours = {PLANS: charts.SERIES[0], OTHERS: charts.SERIES[1], BEHIND: "var(--line)"}
    is_timed = any(model.request for model in front.models)
    tasks = dict.fromkeys((share.task, share.readout) for model in front.models for share in model.kept)
    axes = [axis for axis in _AXES if axis == "bytes" or is_timed]
    panels = [_panel(front, task, axis, colours) for task in tasks for axis in axes]
    return Figure(
        name="front",
        title="What each model keeps, against its bytes" + (" and seconds" if is_timed else ""),
        panels=panels,
        caption="The further left, the smaller or faster; filled: what the answer takes.",
        columns=min(2, len(panels)),
        legend=legend_keys(colours, line=False),
        table=front_table(front),
    )


def _panel(front: Front, task: tuple[str, str], axis: str, colours: dict[str, str]) -> Panel:
    places = {model.label: round(100 * cost, 2) for model in front.models if (cost := model.cost(axis)) is not None}
    points = [
        charts.marked_point(
            charts.percent_point(share.kept),
            model.series if (model.smallest if axis == "bytes" else model.fastest) else BEHIND,
            part=model.label,
            hollow=not model.picked,
            about={
                "model": model.label,
                "weights": size_text(model.disk_bytes),
                "a request": request_words(model.request),
                "keeps": share_cell(share),
            },
            x=places[model.label],
        )
        for model in front.models
        for share in model.kept
        if (share.task, share.readout) == task and share.kept is not None and model.label in places
    ]
    return charts.kept_share_panel(
        points,
        task[0],
        f"Plot of what each model keeps of {task[0]}, against its {axis}.",
        x_title=_AXES[axis],
        y_title="kept above chance, %",
        x=charts.axis_reach([*places.values(), 100.0]),
        colours=colours,
        marks=((100 * front.keep, "goal"),),
    )


def unweighed_words(result: PruneResult) -> str:
    """That no other model was weighed, and how to do it; empty where one was."""
    if result.versus:
        return ""
    return (
        "none was weighed. Quantised weights of the original may keep more in fewer bytes: the same command with "
        "--versus FILE.gguf has them answer the same items."
    )


def request_words(timed: TimedSpeed | None) -> str:
    """Seconds of a request and their share of the original model's: ``3.41 s (x 0.72 [0.70, 0.74])``."""
    return "not timed" if timed is None else f"{timed.cut.value:.3g} s ({words.times_words(timed)})"
