"""The front of a run of prune that made files: bytes of each model against what it keeps, the one to take marked."""

from __future__ import annotations

from typing import Any

from layercut.report.charts import DASHES, SERIES, kept_share_panel, percent_point
from layercut.report.elements import Figure, Key, Panel
from layercut.report.words import task_and_readout
from layercut.runs.prune import Estimated, PruneResult, TaskKept
from layercut.runs.study import UNCUT

QUANTISED, PRUNED, TAKEN = "the original model in fewer bits, or named", "pruned, also in fewer bits", "the one to take"
_LOOKS = {QUANTISED: SERIES[0], PRUNED: SERIES[1], TAKEN: SERIES[3]}
_MEGABYTE = 1e6


def front_figure(result: PruneResult) -> Figure | None:
    """A plot for each task; None where no files were made.

    Filled points answered report items. Hollow ones are files that were not tested, on selection items.
    """
    if not result.formats:
        return None
    panels = [_task_panel(result, task.task, task.readout) for task in result.goal.tasks]
    return Figure(
        name="front",
        title="Bytes, and what they keep",
        panels=panels,
        legend=[Key(label=name, colour=colour, dash="1 0") for name, colour in _LOOKS.items()],
        caption="What each model keeps of the original's score above chance, with 95 % intervals. Filled: on report "
        "items. Hollow: not tested, on the items that chose.",
    )


def _task_panel(result: PruneResult, task: str, readout: str) -> Panel:
    pruned_files = {made.run for made in result.formats if made.plan != UNCUT}
    tested = {model.run for model in result.versus}
    models = [(plan.disk_bytes, plan.kept, PRUNED, False, plan is result.smallest) for plan in result.tested]
    for other in result.versus:
        series = PRUNED if other.run in pruned_files else QUANTISED
        models.append((other.disk_bytes, other.kept, series, False, other is result.smallest))
    for made in result.formats:
        if made.run not in tested:
            models.append((made.disk_bytes, made.kept, PRUNED if made.run in pruned_files else QUANTISED, True, False))
    points: list[dict[str, Any]] = []
    for disk_bytes, kept, series, hollow, is_taken in sorted(models, key=lambda model: model[0]):
        if (share := _share_of(kept, task, readout)) is not None:
            point = {**percent_point(share), "x": disk_bytes / _MEGABYTE, "hollow": hollow}
            points += [{**point, "series": name, "part": name} for name in (series, *([TAKEN] if is_taken else []))]
    most = max((point["x"] for point in points), default=1.0)
    name = task_and_readout(task, readout)
    return kept_share_panel(
        points,
        name,
        f"{name}: size in MB and share kept in % of {len(models)} models",
        x_title="weights, MB",
        x=(0, 1.05 * most),
        colours=_LOOKS,
        dashes=dict.fromkeys(_LOOKS, DASHES[0]),
    )


def _share_of(kept: tuple[TaskKept, ...], task: str, readout: str) -> Estimated | None:
    return next((own.kept for own in kept if (own.task, own.readout) == (task, readout)), None)
