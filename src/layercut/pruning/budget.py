"""Before a run of prune: how many items it needs, what they can show, what it refuses, and its dry run.

Every item is answered by both models. What items can show is simulated with the rule that decides, see
``layercut.evidence.sample_size``. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from layercut.engine.base import GenerationRequest
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.sample_size import (
    CORRELATION,
    MANY,
    POWER,
    Differences,
    least_number,
    outcomes_of,
    power_to_decide,
)
from layercut.models.make_gguf import check_makers
from layercut.pruning.settings import BOTH, LAYER, NONE, TRANSFORMERS, Profile, PruneSettings, fitted_profile
from layercut.pruning.speed import Sizes, other_model, timer_of
from layercut.pruning.vocabulary import plan_tokens
from layercut.runs.directory import RunFolder
from layercut.runs.disk import size_text
from layercut.runs.dry_run import ANSWER_BYTES, Outline, PlannedStep
from layercut.selection.answers import ObjectiveTask
from layercut.selection.goal import GoalTasks, general_tasks
from layercut.selection.select import planned_answers
from layercut.settings import ModelSettings
from layercut.surgery.gguf import gguf_file
from layercut.tasks.cells import Cell, make_task_cells
from layercut.tasks.own_file import OwnFile
from layercut.tasks.suites import suite_named

SELECTION_ITEMS = 100  # items of each task to choose layers by; arXiv:2602.01997 takes as many
FEWEST, MOST = 16, 500  # report items of each task where none are given
CANDIDATES = 4  # layers of which task scores choose the next one to remove
ERROR = 0.05
HEALING_ITEMS, FEWEST_FRESH = 48, 24
"""Items of each task that healing learns from at most, and how many there must be beside those that judge."""
ITEMS = 24  # items of each check of side effects, at least
_ROOM = 512  # tokens of the context that checks need
_LONG = "needle"
"""Checks of long texts, of which one costs as much as twenty others, so that too few to show anything fit in."""
_NOT_DECIDING = ("use", "tasks", "versus", "serve", "no_side_effects")


def selection_limit(settings: PruneSettings) -> int:
    """Selection items of each task, at most."""
    return min(settings.items or SELECTION_ITEMS, SELECTION_ITEMS)


class Yardstick(NamedTuple):
    """The original model on a task."""

    label: str
    score: float
    chance: float
    correlation: float = CORRELATION
    """Correlation of both models' right answers; assumed until a plan's answers to selection items show it."""


def chance_to_pass(task: Yardstick, num_items: int, keep: float, kept: float = 1.0) -> float:
    """Probability that a plan which keeps ``kept`` in truth passes ``keep``, by the rule's own bound."""
    score = min(max(task.score, task.chance + 0.01), 0.99)
    cut = task.chance + kept * (score - task.chance)
    outcomes = outcomes_of(score, cut, task.correlation)
    return power_to_decide(Differences.expected(outcomes, keep=keep, chance=task.chance), num_items, ERROR)


def must_keep(task: Yardstick, num_items: int, keep: float) -> float | None:
    """The share that a plan has to keep in truth to pass ``keep`` with a probability of 80 %.

    None where even a plan that loses nothing passes less often.
    """
    lowest = round(1000 * keep)
    permille = least_number(
        lambda value: chance_to_pass(task, num_items, keep, value / 1000) >= POWER, lowest, 1000, 1000
    )
    return None if permille is None else permille / 1000


def items_for(task: Yardstick, keep: float, kept: float | None = None, most: int = MOST) -> int | None:
    """Report items by which a plan passes with a probability of 80 %, up to ``most``.

    Args:
        keep: share that is asked for.
        kept: share that the plan keeps in truth; by default it loses half of what may be lost.
        most: None is returned where even this many do not suffice.
    """
    share = (1 + keep) / 2 if kept is None else kept
    return least_number(lambda number: chance_to_pass(task, number, keep, share) >= POWER, FEWEST, most)


def describe_power(tasks: Sequence[Yardstick], num_items: Mapping[str, int], keep: float) -> tuple[str, bool]:
    """The power of this many report items on the task on which a plan passes least often, in words; and whether a plan
    that loses nothing passes with a probability of at least 80 %.
    """
    hardest = min(tasks, key=lambda task: chance_to_pass(task, num_items[task.label], keep))
    n, share = num_items[hardest.label], must_keep(hardest, num_items[hardest.label], keep)
    if share is not None:
        text = f"with {n} report items of {hardest.label}, a plan that keeps {share:.0%} or more passes {keep:.0%}"
        return f"{text} in at least 4 of 5 runs", True
    often = chance_to_pass(hardest, n, keep)
    needed = items_for(hardest, keep, 1.0, most=MANY * n)
    text = f"{n} report items of {hardest.label} are too few for {keep:.0%}: a plan that loses nothing passes in about"
    text += f" {max(1, round(10 * often))} of 10 runs"
    return f"{text}, with {needed:,} items in 8 of 10" if needed else text, False


def prune_outline(
    model: ModelSettings, settings: PruneSettings, goal: GoalTasks, *, out: Path, seed: int = 0
) -> Outline:
    """The steps of ``prune_model``, at most; nothing is loaded or written.

    The path may end early, and testing stops at the first size that fails.

    Raises:
        InputError: a model, task or size that cannot be used, or what else the run would refuse: its folder, a task
            without items, a prompt that is too long.
    """
    handle = ModelHandle(model)
    sizes, shares, _, parts, wanted = check_run(handle, settings, goal, seed, lambda text: None)
    paths = settings.num_plans(len(shares))
    RunFolder.check(out, wanted)
    selection, report = selection_limit(settings), settings.items or MOST
    files = 2 * len(settings.gguf_types) + 2 if settings.gguf_types else 0  # of two models, and as they are
    files += 1 if sizes.tokens else 0
    plans, models = 1 + paths * CANDIDATES + files, paths + 1 + len(settings.versus) + files
    steps: list[PlannedStep] = []
    for part in parts:
        chosen, shown = part.task.samples("selection", selection), part.task.samples("report", report)
        steps.append(planned_answers(handle, part, chosen, plans, f"selection, up to {plans} plans"))
        steps.append(planned_answers(handle, part, shown, models, f"report, up to {models} models"))
    texts = min(steps[0].items, HEALING_ITEMS)
    cells = [replace(part, split="report", limit=report) for part in parts]
    cells += [replace(part, limit=selection) for part in parts]
    if not settings.no_side_effects and (checks := checks_for(handle, cells, seed)):
        num_answers = 2 * sum(len(check.samples) for check in checks)
        steps.append(PlannedStep("side effects, original model and checkpoint", num_answers))
    if not settings.goal_alone and handle.has_chat_template:
        for part in general_tasks():
            samples = part.task.samples("selection", part.limit)
            steps.append(planned_answers(handle, part, samples, 1, "original model"))
            texts += min(len(samples), HEALING_ITEMS)
    if settings.heal != NONE:
        steps.append(PlannedStep(f"repairs in closed form, up to {paths} plans", texts * paths, "text"))
    of_sizes = ", ".join(f"-{less:.0%} {size_text(round((1 - less) * sizes.total))}" for less in shares)
    stored = handle.bytes_in_memory
    healed = 0 if settings.heal == NONE else 2 * paths * stored
    stays = ANSWER_BYTES * sum(step.items for step in steps) + stored
    return Outline(
        steps=tuple(steps),
        checkpoints=1,
        disk_bytes=stays + healed + files * stored,
        stays_bytes=stays,
        memory_bytes=stored * (3 if healed else 1) + round(model.cache_gib * 2**30),
        folder=out,
        more=(f"sizes: {of_sizes}",),
    )


def check_run(
    model: ModelHandle, settings: PruneSettings, goal: GoalTasks, seed: int, say: Callable[[str], None]
) -> tuple[Sizes, tuple[float, ...], Profile, list[ObjectiveTask], dict[str, Any]]:
    """What a run rests on, before anything is loaded, and a check of what would stop it after hours.

    Returns:
        The bytes of the model and the sizes of the path; how models are timed; the tasks; and all that decides the
        numbers, with which alone a run goes on.

    Raises:
        InputError: MLPs that cannot be thinned, where only width was asked for, or anything else that cannot be.
    """
    units, parts = settings.removed_units, goal.parts(seed)
    asked = [replace(part, limit=selection_limit(settings)) for part in parts]
    tokens = None if units.tokens is None else plan_tokens(model, asked, units.tokens)
    try:
        sizes = Sizes(model, thins=units.kind != LAYER, tokens=tokens)
    except InputError as error:
        if units.kind != BOTH:
            raise
        say(f"layers alone are removed: {error}")
        sizes = Sizes(model, thins=False, tokens=tokens)
    shares = sizes.wanted(settings)
    profile = fitted_profile(settings.serve, model.context_length, "serve" in settings.model_fields_set)
    if profile.engine != TRANSFORMERS:
        timer_of(model, profile=profile)
    for name in settings.versus:
        other_model(model.settings, name)
    if settings.gguf_types:
        check_makers(converts=gguf_file(model.settings.model) is None)
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


def checks_for(model: ModelHandle, cells: Sequence[Cell], seed: int) -> list[Cell]:
    """The checks of side effects, but no long texts; none of a model that takes no conversations, or short ones.

    A check has ``ITEMS`` items, and as many more as add at most a tenth to the tokens that answers to ``cells``, the
    goal's selection and report items, may have. Both models write both. Settings decide it and no clock, so that a
    resumed run asks the same.
    """
    if not model.has_chat_template or (model.context_length or _ROOM) < _ROOM:
        return []

    def checks(limit: int) -> list[Cell]:
        suite = make_task_cells(suite_named("side_effects", limit=limit), seed)
        return [cell for cell in suite if not cell.task.name.startswith(_LONG)]

    return checks(ITEMS + _longest_answers(cells) // (10 * _longest_answers(checks(1))))


def _longest_answers(cells: Sequence[Cell]) -> int:
    """Tokens of all answers, each as long as it may be; none of those that are ranked."""
    requests = (cell.task.request(sample, cell.readout) for cell in cells for sample in cell.samples)
    return sum(request.max_new_tokens for request in requests if isinstance(request, GenerationRequest))
