"""Selection bias, measured: the chosen plan's scores on its selection items and on held-out items.

The best of many noisy candidates scores too high on its selection items (the winner's curse). Held-out items come
from the selection split of a task, after those of the search; report items stay reserved for reports.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from layercut.errors import InputError
from layercut.evidence.clusters import clusters_of
from layercut.evidence.intervals import plain_estimates
from layercut.evidence.means import TaskValues, mean_kept
from layercut.evidence.paired import compare_paired
from layercut.progress import Progress, silent
from layercut.selection.answers import ObjectiveTask
from layercut.selection.objective import TaskObjective
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Sample
from layercut.tasks.selected_items import record_items

Records = Sequence[Mapping[str, Any]]


def held_out(
    objective: TaskObjective,
    plan: CutPlan,
    *,
    num_items: int | None,
    seen: Mapping[str, Collection[str]],
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score a chosen plan and the original model, on selection items and on held-out ones; JSON-able.

    Args:
        num_items: held-out items of each task; as many as it had selection items if None.
        seen: ids per task of all items that the choice rests on; none of them is held out.

    Returns:
        ``items``, the held-out ids per task as ``record_items`` has them; ``rows``, per task and readout ``selected``
        and ``held_out`` as ``compare_paired`` gives them, the latter None where no item is left; ``objective``, the
        maximised value as ``selected``, and as ``held_out`` with its interval, or why there is none; ``seed``.
    """
    fresh = [_unseen(part, num_items, seen.get(part.task.name, ())) for part in objective.parts]
    chosen = _records(objective, plan, objective.samples, progress)
    unseen = _records(objective, plan, fresh, progress)
    rows = []
    ids: dict[str, set[str]] = {}
    for number, (part, samples) in enumerate(zip(objective.parts, fresh, strict=True)):
        rows.append(
            {
                "task": part.task.name,
                "readout": part.readout,
                "metric": _headline(chosen[number][0]),
                "selected": _compared(part, *chosen[number], seed),
                "held_out": _compared(part, *unseen[number], seed) if samples else None,
            }
        )
        ids.setdefault(part.task.name, set()).update(sample.id for sample in samples)
    return {
        "items": record_items(ids),
        "rows": rows,
        "objective": _objective(objective, plan, unseen, seed),
        "seed": seed,
    }


def _unseen(part: ObjectiveTask, num_items: int | None, seen: Collection[str]) -> list[Sample]:
    """Selection items of a task that the choice does not rest on, in the task's order; none where it used all."""
    if part.limit is None:
        return []
    wanted = part.limit if num_items is None else num_items
    # Another readout of the task, or the start of a search, may have used more items than this limit.
    seen = {*seen, *(sample.id for sample in part.task.samples("selection", part.limit))}
    more = part.task.samples("selection", len(seen) + wanted)
    return [sample for sample in more if sample.id not in seen][:wanted]


def _records(
    objective: TaskObjective, plan: CutPlan, samples: Sequence[Sequence[Sample]], progress: Progress
) -> list[tuple[Records, Records]]:
    """Answers of the original model and of the plan, per task; empty for a task without samples."""
    uncut = CutPlan(num_layers=plan.num_layers)
    answers = objective.answers_on(samples)
    tasks = [task for task, items in enumerate(samples) if items]
    answers.complete(tasks, [uncut], whole=True, progress=progress)
    answers.complete(tasks, [plan], whole=False, progress=progress)
    return [
        (answers.part(task, uncut, whole=True).records, answers.part(task, plan).records)
        for task in range(len(samples))
    ]


def _compared(part: ObjectiveTask, uncut: Records, cut: Records, seed: int) -> dict[str, Any]:
    metric = _headline(uncut)
    chance = part.task.split_chance("selection", part.readout).get(metric)
    before, after = _values(uncut, metric), _values(cut, metric)
    compared = compare_paired(before, after, chance=chance, seed=seed, clusters=clusters_of(uncut))
    shown = plain_estimates(compared._asdict())
    for name in ("lost", "gained"):
        if shown[name] is None:
            del shown[name]
    return {"chance": chance, "n": len(uncut), **shown}


def _objective(
    objective: TaskObjective, plan: CutPlan, unseen: Sequence[tuple[Records, Records]], seed: int
) -> dict[str, Any]:
    try:
        (selected,) = objective.values([plan])
        uncut = objective.uncut
    except InputError as error:  # a task at chance, which criteria such as trace_damage accept
        return {"selected": None, "held_out": None, "refused": str(error)}
    empty = [part.label for part, (before, _) in zip(objective.parts, unseen, strict=True) if not before]
    if empty:
        return {"selected": selected, "held_out": None, "refused": f"no items of {', '.join(empty)} were held out"}
    values = [
        TaskValues(
            part.label,
            _values(before, whole.metric),
            _values(after, whole.metric),
            whole.floor,
            clusters_of(before),
            whole.is_log,
        )
        for part, whole, (before, after) in zip(objective.parts, uncut, unseen, strict=True)
    ]
    mean = mean_kept(values, seed=seed)
    estimate = None if mean.estimate is None else mean.estimate._asdict()
    return {"selected": selected, "held_out": estimate, "refused": mean.refused}


def _headline(records: Records) -> str:
    return str(next(iter(records[0]["metrics"])))


def _values(records: Records, metric: str) -> list[float]:
    return [float(record["metrics"][metric]) for record in records]
