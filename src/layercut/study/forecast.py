"""Estimate the cost of a study before it runs: cells, items, tokens, disk, and time where speeds were measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from layercut.engine.base import GenerationRequest
from layercut.engine.cost import CHARACTERS_PER_TOKEN, weight_counts
from layercut.healing.memory import training_disk
from layercut.progress.cost import Eta
from layercut.study.steps_beside import planned
from layercut.study.work import StudyWork
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell

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
    """Rest of the study's sweep and diagnosis, a line each; ``seconds`` excludes them."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


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
    steps += [
        name for name in work.trainings if any(left[one.name] for one in work.arms if name in (one.name, one.training))
    ]
    for name in (*work.searches, *work.trainings):
        if name not in steps:
            eta.skip(work.index(name), 1)
    measured = {kind for kind, _, _ in work.speeds()}
    unknown = [name for name in steps if pieces[work.index(name)].work.kind not in measured]
    arms = []
    for arm in work.arms:
        counts = {cell.label: len(cell.samples) for cell in left[arm.name]}
        prompt, new = (sum(counts[label] * rates[label][side] for label in counts) for side in (0, 1))
        here = [*places[arm.name], *([work.index(arm.name)] if arm.name in work.trainings else [])]
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
        request = cell.task.request(sample, cell.readout)
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
