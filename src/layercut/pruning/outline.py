"""Before a run of prune: what decides its numbers, what it refuses, and its dry run. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from layercut.engine.handle import ModelHandle
from layercut.engine.rows import Reader, generation_row
from layercut.errors import InputError
from layercut.pruning.budget import CANDIDATES, HEALING_ITEMS, MOST, SELECTION_ITEMS, general_tasks
from layercut.pruning.settings import (
    AUTO,
    LAYER,
    NONE,
    SEAM,
    TRANSFORMERS,
    WIDTH,
    GoalTasks,
    Profile,
    PruneSettings,
    fitted,
)
from layercut.pruning.speed import Sizes, other_model, timer_of
from layercut.runs.directory import RunFolder
from layercut.runs.disk import size
from layercut.runs.dry_run import ANSWER_BYTES, Outline, PlannedStep
from layercut.runs.prune import BYTES
from layercut.selection.answers import ObjectiveTask
from layercut.selection.outline import planned
from layercut.selection.select import objective_parts
from layercut.settings import ModelSettings
from layercut.tasks.cells import Cell, make_cells
from layercut.tasks.own_file import OwnFile
from layercut.tasks.suites import suite

FLAGS = {"limit": "items", "objective": "tasks"}
ITEMS = 24  # items of each check of side effects
_LONG = "needle"
"""Checks of long texts, of which one costs as much as twenty others, so that too few to show anything fit in."""
_NOT_DECIDING = ("use", "tasks", "versus", "serve", "no_side_effects")


def prune_outline(
    model: ModelSettings, settings: PruneSettings, goal: GoalTasks, *, out: Path, seed: int = 0
) -> Outline:
    """The steps of ``prune_model``, at most; nothing is loaded or written.

    The path may end early, testing stops at the first depth that fails, and a time gives fewer items than this.

    Raises:
        InputError: a model, task or depth that cannot be used, or what else the run would refuse: its folder, a task
            without items, a prompt that is too long.
    """
    handle = ModelHandle(model)
    sizes, shares, profile, parts, wanted = check_run(handle, settings, goal, seed, lambda text: None)
    depth = settings.num_plans(shares, handle.num_layers)
    RunFolder.check(out, wanted, flags=FLAGS)
    selection, report = min(settings.items or SELECTION_ITEMS, SELECTION_ITEMS), settings.items or MOST
    plans, models = 1 + depth * CANDIDATES, depth + 1 + len(settings.versus)
    steps: list[PlannedStep] = []
    for part in parts:
        chosen, shown = part.task.samples("selection", selection), part.task.samples("report", report)
        steps.append(planned(handle, part, chosen, plans, f"selection, up to {plans} plans"))
        steps.append(planned(handle, part, shown, models, f"report, up to {models} models"))
    texts = min(steps[0].items, HEALING_ITEMS)
    if not settings.no_side_effects and (checks := checks_for(handle, seed)):
        num_answers = 2 * sum(len(check.samples) for check in checks)
        steps.append(PlannedStep("side effects, original model and checkpoint", num_answers))
    if not settings.goal_alone and handle.has_chat_template:
        for part in general_tasks():
            samples = part.task.samples("selection", part.limit)
            steps.append(planned(handle, part, samples, 1, "original model"))
            texts += min(len(samples), HEALING_ITEMS)
    if settings.heal in (AUTO, SEAM):
        steps.append(PlannedStep(f"repairs in closed form, up to {depth} plans", texts * depth, "text"))
    more: tuple[str, ...] = ()
    if sizes is not None and settings.unit == BYTES:
        more = ("sizes: " + ", ".join(f"-{less:.0%} {size(round((1 - less) * sizes.total))}" for less in shares),)
    elif sizes is not None:
        listed = ", ".join(f"-{less:.0%}" for less in shares)
        more = (f"seconds of a request ({profile.words}), timed before the run chooses: {listed}",)
    stored = handle.bytes_in_memory
    healed = 0 if settings.heal == NONE else 2 * depth * stored
    stays = ANSWER_BYTES * sum(step.items for step in steps) + stored
    return Outline(
        steps=tuple(steps),
        checkpoints=1,
        disk_bytes=stays + healed,
        stays_bytes=stays,
        memory_bytes=stored * (3 if healed else 1) + round(model.cache_gib * 2**30),
        folder=out,
        more=more,
    )


def check_run(
    model: ModelHandle, settings: PruneSettings, goal: GoalTasks, seed: int, say: Callable[[str], None]
) -> tuple[Sizes | None, tuple[float, ...], Profile, list[ObjectiveTask], dict[str, Any]]:
    """What a run rests on, before anything is loaded, and a check of what would stop it after hours.

    Returns:
        The sizes of a model whose MLPs become thinner and those of the path, without any where whole layers alone are
        removed; how models are timed; the tasks; and all that decides the numbers, with which alone a run goes on.

    Raises:
        InputError: MLPs that cannot be thinned, where only width was asked for, or anything else that cannot be.
    """
    sizes: Sizes | None = None
    if settings.wanted_units != LAYER:
        try:
            sizes = Sizes(model)
        except InputError as error:
            if settings.wanted_units == WIDTH:
                raise
            say(f"layers alone are removed: {error}")
    shares = sizes.wanted(settings, settings.unit) if sizes else ()
    settings.num_plans(shares, model.num_layers)  # refuses more layers than the model has
    profile = fitted(settings.serve, model.context_length, "serve" in settings.model_fields_set)
    parts = [part for task in goal.tasks for part in objective_parts(task, seed)]
    if profile.engine != TRANSFORMERS:
        timer_of(model, profile=profile)
    for name in settings.versus:
        other_model(model.settings, name)
    own = [part for part in parts if isinstance(part.task, OwnFile) and part.task.samples("selection", None)]
    alike = [part.label for part in own if 1 in part.task.split_chance("selection", part.readout).values()]
    if len(alike) == len(parts):
        raise InputError(
            f"one answer is right for all rows of {', '.join(alike)}, so guessing is always right and no loss can be "
            "shown; give rows with different answers."
        )
    decides = {
        **model.describe(),
        "goal": [{**part.describe(), "limit": None} for part in parts],
        **{name: value for name, value in settings.as_dict().items() if name not in _NOT_DECIDING},
        "seed": seed,
    }
    return sizes, shares, profile, parts, decides


def checks_for(model: ModelHandle, seed: int) -> list[Cell]:
    """The checks whose requests a model can be asked: none without a chat template, and no long texts."""
    cells = make_cells(suite("side_effects", limit=ITEMS), seed)
    requests: dict[str, list[Any]] = {
        cell.label: [cell.task.request(sample, cell.readout) for sample in cell.samples]
        for cell in cells
        if not cell.task.name.startswith(_LONG)
    }

    def accepted(reader: Reader) -> list[str]:
        labels = []
        for label, of_check in requests.items():
            with suppress(InputError):
                for request in of_check:
                    generation_row(reader, request)
                labels.append(label)
        return labels

    key = [
        (label, request.prompt, request.begins, request.max_new_tokens)
        for label, of_check in requests.items()
        for request in of_check
    ]
    labels = model.read("side_effects", key, accepted)
    return [cell for cell in cells if cell.label in labels]
