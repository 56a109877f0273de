"""Estimate the cost of a study before it runs: cells, items, tokens, disk, and time where speeds were measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from layercut.engine.base import GenerationRequest
from layercut.engine.cost import CHARACTERS_PER_TOKEN, weight_counts
from layercut.healing.memory import training_disk
from layercut.progress.cost import Eta
from layercut.report.table import Styled, Table, terminal, texts
from layercut.study.steps_beside import planned
from layercut.study.work import StudyWork
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks.budget import asked
from layercut.tasks.cells import Cell
from layercut.text.counting import counted

MANY = 100
"""Timed items of a task from which the range is about a factor of two."""
_UNITS = ((86_400, "days"), (3_600, "h"), (60, "min"), (1, "s"))
_HEAD = ("arm", "cells done", "items", "tokens read", "written", "time", "disk")
_LOOKED_AT = 32
"""Items whose prompts are counted; their mean holds for the others."""


@dataclass(frozen=True, kw_only=True)
class ArmForecast:
    """One arm."""

    name: str
    cells: int
    done: int
    """Cells that are finished here, or answered in another study."""
    items: int
    prompt_tokens: int
    """Tokens of these items' prompts, estimated from their length."""
    new_tokens: int
    """Estimated length of their answers: that of the right answer, or half of the limit for a chain."""
    seconds: float | None
    """None without any measurement to estimate from."""
    seconds_range: tuple[float, float] | None
    """The least and the most, by how much was timed."""
    checkpoint_bytes: int


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One model's part of a study."""

    model: str
    folder: str
    arms: tuple[ArmForecast, ...]
    steps: tuple[str, ...]
    """Searches by name, and arms that are to be healed."""
    unknown_steps: tuple[str, ...]
    """Those that were never timed; the time excludes them."""
    seconds: float | None
    seconds_range: tuple[float, float] | None
    timed: dict[str, int]
    """Timed items behind the time, by task and readout; 0 for an estimate from tokens."""
    keeps_checkpoints: bool
    training_bytes: int
    """Most disk that one of the trainings takes while it runs, beside the checkpoints."""
    shortfalls: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    """What is left of the study's sweep and diagnosis, a line each; ``seconds`` excludes them."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def tables(self) -> RenderableType:
        total = _total(self.arms)
        rows = [[arm.name, *_numbers(arm)] for arm in self.arms]
        table = Table(
            name="forecast",
            caption="",
            columns=texts(
                *_HEAD,
                numeric=_HEAD[1:],
                narrow={"items": (2, 3), "tokens read": (1, 2, 3), "written": (3,)},
            ),
            rows=[*rows, [Styled(text, "strong") for text in ("all", *_numbers(total))]],
        )
        time = "no measurement of this model on this machine yet; a run with --limit 4 and another --out gives one"
        if self.seconds_range is not None:
            time = f"{span(*self.seconds_range)}, {self._basis()}"
        if self.unknown_steps:
            time += f"; excluding steps that were never timed: {self._unknown()}"
        lines = [
            *self.shortfalls,
            "Tokens are estimated from the length of the first items; items that are already answered are excluded.",
            f"time: {time}",
            f"disk: up to {_size(total.checkpoint_bytes)} of checkpoints"
            + ("" if self.keeps_checkpoints else ", all deleted at the end (checkpoints: false)")
            + (f"; {_size(self.training_bytes)} more while a model is trained" if self.training_bytes else ""),
            *self.beside,
            f"would write to {self.folder}",
        ]
        return Group(Text(self.model, style="bold"), terminal(table), *(Text(line) for line in lines))

    def _basis(self) -> str:
        timed = {name: num for name, num in self.timed.items() if num}
        guessed = [name for name in self.timed if name not in timed]
        if not self.timed:
            return "from timings of this model on this machine"
        if not timed:
            return f"from the speed of other tasks with this model on this machine; never timed: {', '.join(guessed)}"
        fewest = min(timed, key=lambda name: timed[name])
        text = f"from {counted(sum(timed.values()), 'item')} timed with this model on this machine"
        if len(timed) > 1:
            text += f" (fewest: {timed[fewest]:,} of {fewest})"
        if guessed:
            text += f"; estimated from tokens, because never timed: {', '.join(guessed)}"
        if timed[fewest] < MANY or guessed:
            text += f". A run with --limit {MANY} and another --out gives a narrower range"
        return text

    def _unknown(self) -> str:
        healings = sum(any(arm.name == step for arm in self.arms) for step in self.unknown_steps)
        choices = len(self.unknown_steps) - healings
        texts = [f"{choices} choice{'s' * (choices != 1)} of layers"] if choices else []
        return " and ".join([*texts, *([counted(healings, "healing")] if healings else [])])


def forecast(work: StudyWork) -> Forecast:
    """Count the remaining work, and estimate its time from earlier runs in the same folder."""
    pieces = work.pieces()
    eta = Eta([piece.work for piece in pieces])
    for kind, num_items, seconds in work.speeds():
        eta.learn(kind, num_items, seconds)
    rates = {cell.label: _tokens(cell) for cell in work.cells}
    places: dict[str, list[int]] = {arm.name: [] for arm in work.arms}
    left: dict[str, list[Cell]] = {arm.name: [] for arm in work.arms}
    done = dict.fromkeys(left, 0)
    for index, (arm, cell) in enumerate(work.order):
        places[arm.name].append(index)
        if work.is_known(arm, cell):
            done[arm.name] += 1
            eta.skip(index, pieces[index].work.num_items)
        else:
            left[arm.name].append(cell)
    steps = [name for name in work.searches if any(one.name not in work.plans for one in work.arms_chosen_by(name))]
    steps += [name for name in work.healers if left[name]]
    for name in (*work.searches, *work.healers):
        if name not in steps:
            eta.skip(work.index(name), 1)
    measured = {kind for kind, _, _ in work.speeds()}
    unknown = [name for name in steps if pieces[work.index(name)].work.kind not in measured]
    arms = []
    for arm in work.arms:
        counts = {cell.label: len(cell.samples) for cell in left[arm.name]}
        prompt, new = (sum(counts[label] * rates[label][side] for label in counts) for side in (0, 1))
        here = [*places[arm.name], *([work.index(arm.name)] if arm.healing else [])]
        arms.append(
            ArmForecast(
                name=arm.name,
                cells=len(work.cells),
                done=done[arm.name],
                items=sum(counts.values()),
                prompt_tokens=round(prompt),
                new_tokens=round(new),
                seconds=eta.remaining_of(here),
                seconds_range=eta.range_of(here),
                checkpoint_bytes=_checkpoint_bytes(work, arm.name),
            )
        )
    cells = pieces[: len(work.order)]
    timed = eta.timed(range(len(cells)))
    return Forecast(
        model=work.model.settings.model,
        folder=str(work.folder),
        arms=tuple(arms),
        steps=tuple(steps),
        unknown_steps=tuple(unknown),
        seconds=eta.remaining,
        seconds_range=eta.range_of(range(len(pieces))),
        timed={piece.name: timed[piece.work.kind] for piece in cells if piece.work.kind in timed},
        keeps_checkpoints=work.settings.checkpoints,
        training_bytes=max((_training_bytes(work, name) for name in steps if name in work.healers), default=0),
        shortfalls=tuple(work.shortfalls()),
        beside=tuple(planned(work)),
    )


def _tokens(cell: Cell) -> tuple[float, float]:
    """Prompt and new tokens of one item, estimated from the first items."""
    samples = cell.task.samples(cell.split, min(cell.limit or _LOOKED_AT, _LOOKED_AT))
    prompt = new = 0.0
    for sample in samples:
        request = asked(cell.task, sample, cell.readout)
        prompt += len(str(request.prompt)) / CHARACTERS_PER_TOKEN
        if isinstance(request, GenerationRequest):
            answer = len(sample.gold) / CHARACTERS_PER_TOKEN + 2
            new += min(answer if cell.readout == "short" else request.max_new_tokens / 2, request.max_new_tokens)
        else:
            prompt += sum(len(one) for one in request.continuations) / CHARACTERS_PER_TOKEN
    return cell.num_samples * prompt / len(samples), cell.num_samples * new / len(samples)


def _checkpoint_bytes(work: StudyWork, name: str) -> int:
    arm = next(one for one in work.arms if one.name == name)
    is_needed = work.settings.checkpoints or arm.healing or any(one.cut == name for one in work.arms)
    if arm.is_uncut or not is_needed:
        return 0
    plan = work.plans.get(arm.cut or name)
    if plan is None:  # not chosen yet: layers are of about one size
        last = range(work.model.num_layers - arm.depth, work.model.num_layers)
        plan = CutPlan(num_layers=work.model.num_layers, removed=tuple(last))
    return plan_cut(work.model.source.path, plan).bytes_after


def _training_bytes(work: StudyWork, name: str) -> int:
    """Counted on the original model, which is a little larger."""
    return training_disk(weight_counts(work.model), work.healers[name].arm.train)


def _total(arms: tuple[ArmForecast, ...]) -> ArmForecast:
    counts = ("cells", "done", "items", "prompt_tokens", "new_tokens", "checkpoint_bytes")
    seconds = [arm.seconds for arm in arms if arm.seconds is not None]
    ranges = [arm.seconds_range for arm in arms if arm.seconds_range is not None]
    return ArmForecast(
        name="all",
        **{name: sum(getattr(arm, name) for arm in arms) for name in counts},
        seconds=sum(seconds) if len(seconds) == len(arms) else None,
        seconds_range=(sum(low for low, _ in ranges), sum(high for _, high in ranges))
        if len(ranges) == len(arms)
        else None,
    )


def _numbers(arm: ArmForecast) -> list[str]:
    time = "?" if arm.seconds_range is None else span(*arm.seconds_range)
    disk = _size(arm.checkpoint_bytes) if arm.checkpoint_bytes else "-"
    counts = (arm.items, arm.prompt_tokens, arm.new_tokens)
    return [f"{arm.done}/{arm.cells}", *(f"{count:,}" for count in counts), time, disk]


def span(low: float, high: float) -> str:
    """A range of seconds, rounded to its precision.

    >>> span(100, 400), span(5, 150), span(7200, 90000), span(0, 0)
    ('1.7 to 6.7 min', '5 s to 2.5 min', '2 to 25 h', '0 s')
    """
    (few, its), (many, unit) = _rounded(low), _rounded(high)
    if (few, its) == (many, unit):
        return f"{many} {unit}"
    return f"{few}{'' if its == unit else f' {its}'} to {many} {unit}"


def _rounded(seconds: float) -> tuple[str, str]:
    """Two digits and a suitable unit."""
    size, unit = next((one for one in _UNITS if seconds >= one[0] * 1.5), _UNITS[-1])
    value = seconds / size
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}", unit


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
