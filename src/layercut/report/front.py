"""The front: plans and other models on the same report items, by bytes and by seconds, and by what they keep.

A model is on the front of an axis where no other one with less on it keeps as much, of its worst task each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from layercut.evidence.study import task_verdict
from layercut.report import charts, words
from layercut.report.elements import Figure, Key, Panel
from layercut.report.table import Column, Styled, Table
from layercut.runs.disk import size
from layercut.runs.prune import Estimated, TimedSpeed
from layercut.text.numbers import HasInterval, at_least, with_interval

if TYPE_CHECKING:
    from layercut.evidence.advice import Advice
    from layercut.runs.draft import DraftResult
    from layercut.runs.prune import Alternative, PruneResult, TaskKept, TestedDepth

PLANS, OTHERS, DRAFTED, BEHIND = "plans", "other models", "the original with a draft", "not on the front"


class Share(NamedTuple):
    """Retention of one task."""

    task: str
    readout: str
    kept: HasInterval | None
    bound: float | None
    """At least this, by a one-sided bound."""
    verdict: str


def task_cell(task: str, readout: str) -> Styled:
    """A task, and below it how it is answered."""
    return Styled(task, "plain", below=(words.readout_words(readout),))


def share_cell(share: TaskKept | Share) -> str:
    """The share that is kept, with its interval."""
    return "n/a" if share.kept is None else f"{with_interval(share.kept)} %"


@dataclass(frozen=True, kw_only=True)
class Weighed:
    """One model of the front."""

    label: str
    kept: Sequence[Share]
    disk_bytes: int
    change: float
    """Of the bytes, as a share of the original model's."""
    series: str
    picked: bool = False
    """The answer takes it."""
    request: TimedSpeed | None = None
    """Seconds of a request; None where it was not timed."""
    memory: int | None = None
    """Bytes of the weights, and of keys and values in the serving profile."""
    smallest: bool = False
    """On the front of the bytes."""
    fastest: bool = False
    """On the front of the seconds."""

    @property
    def seconds(self) -> Estimated | None:
        """Of a request, as a share of the original model's."""
        return None if self.request is None else self.request.ratio


class Front(NamedTuple):
    """Models on the same items."""

    models: Sequence[Weighed]
    """The largest first."""
    keep: float
    note: str
    """How they were tested, and on which items."""


def front_of(result: PruneResult, drafted: DraftResult | None = None) -> Front | None:
    """Every tested plan and every other model of a run of prune; None where no other model was named.

    ``drafted``: what a draft of the original model does for its speed, one more model that keeps everything.
    """
    if not result.versus:
        return None
    uncut, better = result.size["uncut"].disk_bytes, result.better
    served = {one.run: one for one in result.served} if result.serve_tokens else {}
    timed = {one.run: one.request for one in result.served}
    models: list[tuple[str, TestedDepth | Alternative, str, str, bool]] = []
    for plan in result.tested:
        picked = better is None and result.verdict == "passed" and plan.name == result.chosen.name
        label = f"{plan.label}, {plan.healing}" if plan.healing else plan.label
        models.append((label, plan, plan.name, PLANS, picked))
    models += [(one.model, one, one.run, OTHERS, one is better) for one in result.versus]
    weighed = [
        Weighed(
            label=label,
            kept=[
                Share(kept.task, kept.readout, kept.kept, kept.bound, task_verdict(one, kept, result.goal.keep))
                for kept in one.kept
            ],
            disk_bytes=one.disk_bytes or 0,
            change=(one.disk_bytes or 0) / uncut - 1,
            series=series,
            picked=picked,
            request=timed.get(run),
            memory=served[run].memory(result.serve_tokens) if run in served else None,
        )
        for label, one, run, series, picked in models
    ]
    note = f"Report items, 95 % intervals, seed {result.seed}. {versus_words(result)}"
    if drafted is not None and (point := _with_draft(result, drafted)) is not None:
        weighed.append(point)
        note += (
            " With a draft: nothing is lost; its seconds are the original model's over the speed-up of writing, "
            f"{'measured' if drafted.measured else 'forecast'} on {drafted.speedup.n} answers."
        )
    return Front(_ranked(weighed), result.goal.keep, note)


def _with_draft(result: PruneResult, drafted: DraftResult) -> Weighed | None:
    """The original model with its draft, which loses nothing; None where it is not faster, or no request was timed."""
    requests = [one.request for one in result.served if one.request is not None]
    if drafted.verdict != "faster" or not requests:
        return None
    speedup, before = drafted.speedup, requests[0].uncut
    ratio = Estimated(
        value=1 / speedup.value,
        low=speedup.high and 1 / speedup.high,
        high=speedup.low and 1 / speedup.low,
        n=speedup.n,
    )
    after = Estimated(value=before.value * ratio.value, low=None, high=None, n=speedup.n)
    whole = Estimated(value=1.0, low=None, high=None, n=before.n)
    return Weighed(
        label=DRAFTED,
        kept=[Share(one.task, one.readout, whole, 1.0, "passed") for one in result.goal.tasks],
        disk_bytes=result.size["uncut"].disk_bytes,
        change=0.0,
        series=DRAFTED,
        request=requests[0].model_copy(update={"cut": after, "ratio": ratio}),
    )


def front_of_advice(advice: Advice) -> Front | None:
    """Every judged plan and every other model of a folder of runs; None where there is no other model, or a run does
    not record its bytes.
    """
    models = [one for one in (*advice.plans, *advice.others) if one.tasks]
    if not advice.others or not advice.uncut.disk_bytes or any(one.arm.disk_bytes is None for one in models):
        return None
    uncut, picked = advice.uncut.disk_bytes, advice.better or advice.recommended
    return Front(
        _ranked(
            [
                Weighed(
                    label=one.arm.other or one.arm.name,
                    kept=[Share(task.task, task.readout, task.interval, task.low, task.verdict) for task in one.tasks],
                    disk_bytes=one.arm.disk_bytes or 0,
                    change=(one.arm.disk_bytes or 0) / uncut - 1,
                    series=OTHERS if one.arm.other else PLANS,
                    picked=one is picked,
                )
                for one in models
            ]
        ),
        advice.keep,
        f"Items of the runs, 95 % intervals, seed {advice.seed}. All share an error of {1 - advice.confidence:.0%}. On "
        "the front: no smaller one keeps as much.",
    )


def _ranked(models: Sequence[Weighed]) -> list[Weighed]:
    """The models with their places on both fronts, by their worst task; the largest first."""
    least = {one.label: min((share.kept.value for share in one.kept if share.kept), default=None) for one in models}

    def is_front(label: str, cost: dict[str, float]) -> bool:
        own = least[label]
        if own is None or label not in cost:
            return False
        smaller = [least[other] for other in cost if cost[other] < cost[label]]
        return not any(kept is not None and kept >= own for kept in smaller)

    num_bytes = {one.label: float(one.disk_bytes) for one in models if one.disk_bytes}
    seconds = {one.label: one.seconds.value for one in models if one.seconds is not None}
    ranked = [
        replace(one, smallest=is_front(one.label, num_bytes), fastest=is_front(one.label, seconds)) for one in models
    ]
    return sorted(ranked, key=lambda one: -one.disk_bytes)


class _Line(NamedTuple):
    model: Weighed
    kept: Share


def front_table(front: Front) -> Table:
    """A row for each model and task."""
    lines = [_Line(one, kept) for one in front.models for kept in one.kept]

    def weights(line: _Line) -> str:
        return f"{size(line.model.disk_bytes)} ({100 * line.model.change:+.0f} %)"

    def memory(line: _Line) -> str:
        return "not timed" if line.model.memory is None else size(line.model.memory)

    def place(line: _Line) -> str:
        fronts = {"bytes": line.model.smallest, "seconds": line.model.fastest}
        return " and ".join(name for name, is_on in fronts.items() if is_on) or "-"

    timed, in_memory = (any(getattr(one, name) for one in front.models) for name in ("request", "memory"))
    columns = [
        Column("model", lambda line: Styled(line.model.label, "strong" if line.model.picked else "plain")),
        Column("weights", weights, numeric=True),
        *([Column("in memory", memory, numeric=True, narrow=(1,))] if in_memory else []),
        *([Column("a request", lambda line: request_words(line.model.request), numeric=True)] if timed else []),
        Column("task", lambda line: task_cell(line.kept.task, line.kept.readout)),
        Column("keeps", lambda line: share_cell(line.kept)),
        Column(
            "at least",
            lambda line: "-" if line.kept.bound is None else f"{at_least(line.kept.bound)} %",
            numeric=True,
            narrow=(1,),
        ),
        Column("verdict", lambda line: words.finding_cell(line.kept.verdict)),
        Column("front", place),
    ]
    caption = "Plans and other models on the same items, with 95 % intervals"
    return Table(name="front", caption=caption, columns=columns, rows=lines)


def front_figure(front: Front) -> Figure:
    """Retention of each model against its bytes and against its seconds, a panel each for each task."""
    colours = {PLANS: charts.SERIES[0], OTHERS: charts.SERIES[1], DRAFTED: charts.SERIES[2], BEHIND: "var(--line)"}
    shown = {one.series for one in front.models} | {PLANS, OTHERS, BEHIND}
    colours = {name: colour for name, colour in colours.items() if name in shown}
    tasks = list(dict.fromkeys((kept.task, kept.readout) for one in front.models for kept in one.kept))
    timed = [one for one in front.models if one.seconds is not None]
    panels = []
    for task, readout in tasks:
        panels.append(
            _panel(front, front.models, task, readout, colours, "bytes of the weights, % of the original model's")
        )
        if timed:
            panels.append(_panel(front, timed, task, readout, colours, "seconds of a request, % of the original's"))
    return Figure(
        name="front",
        title="What each model keeps, against its bytes" + (" and seconds" if timed else ""),
        panels=panels,
        caption="The further left, the smaller or faster; filled: what the answer takes.",
        columns=min(2, len(panels)),
        legend=[Key(label=name, colour=colour, line=False) for name, colour in colours.items()],
        table=front_table(front),
    )


def _panel(
    front: Front, models: Sequence[Weighed], task: str, readout: str, colours: dict[str, str], title: str
) -> Panel:
    of_bytes = title.startswith("bytes")

    def place(one: Weighed) -> float:
        share = one.change + 1 if of_bytes or one.seconds is None else one.seconds.value
        return round(100 * share, 2)

    points = [
        charts.marked(
            charts.ends(kept.kept),
            one.series if (one.smallest if of_bytes else one.fastest) else BEHIND,
            part=one.label,
            hollow=not one.picked,
            about={
                "model": one.label,
                "weights": size(one.disk_bytes),
                "a request": request_words(one.request),
                "keeps": share_cell(kept),
            },
            x=place(one),
        )
        for one in models
        for kept in one.kept
        if (kept.task, kept.readout) == (task, readout) and kept.kept is not None
    ]
    spec = charts.curves(
        points,
        x_title=title,
        y_title="kept above chance, %",
        x=charts.reach([*(place(one) for one in models), 100.0]),
        y=(charts.KEPT_LOW, charts.KEPT_HIGH),
        colours=colours,
        marks=((100 * front.keep, "goal"),),
    )
    axis = "bytes" if of_bytes else "seconds"
    return Panel(spec=spec, label=f"Plot of what each model keeps of {task}, against its {axis}.", title=task)


def unweighed_words(result: PruneResult) -> str:
    """That no other model was weighed, and how to do it; empty where one was."""
    if result.versus:
        return ""
    return (
        "none was weighed. Quantised weights of the original may keep more in fewer bytes: the same command with "
        "--versus FILE.gguf has them answer the same items."
    )


def versus_words(result: PruneResult) -> str:
    """How plans and other models were tested, and in what engines they ran."""
    shared = (
        "Plans and other models share an error of 5 %: a model that passed keeps less in at most 5 % of all cases."
        if result.error < 0.1
        else "Other models were named after the plans had been tested, and share 5 % of their own: the whole answer "
        "errs in up to 10 % of all cases."
    )
    timed = f" Timed by turns with the original model, {result.serve}."
    return (
        f"{shared} GGUF files run in llama.cpp, all else in transformers.{timed} On the front: no other one that is "
        "smaller, or faster, keeps as much."
    )


def request_words(one: TimedSpeed | None) -> str:
    """Seconds of a request and their share of the original model's: ``3.41 s (x 0.72 [0.70, 0.74])``."""
    if one is None:
        return "not timed"
    low, high = one.ratio.low, one.ratio.high
    ends = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    return f"{one.cut.value:.3g} s (x {one.ratio.value:.2f}{ends})"
