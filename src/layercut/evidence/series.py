"""Which runs of a study belong to one line: same criterion and healing arm, one point for each depth and seed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from layercut.evidence.paired import Comparison, compare_paired

if TYPE_CHECKING:
    from layercut.evidence.comparison import ComparedRun, ComparisonRow
    from layercut.runs.directory import RunFolder

NOT_HEALED = "none"
"""The arm of a model that was cut and not trained."""


class Place(NamedTuple):
    """Where a run stands among the runs of its study."""

    criterion: str
    """Who chose the layers; of lists given by hand, the plan's name without its depth."""
    arm: str
    """How the pruned model was healed; ``none`` where it was not."""
    depth: int
    """Layers removed."""
    part: str
    """Runs of one part are joined by a line: one seed each, and one run at each depth."""

    @property
    def series(self) -> str:
        """Name of the line."""
        return self.criterion if self.arm == NOT_HEALED else f"{self.criterion}, healed: {self.arm}"


def places(runs: Sequence[RunFolder], rows: Sequence[ComparisonRow]) -> dict[str, Place]:
    """The place of each cut run, by its name; ``rows`` compare them with the original model.

    What a run is in its study stands in its metrics under ``arm``: criterion, healing and seed. Where that is missing,
    the criterion is the plan's, and the seed is that of the settings.
    """
    arms = {row.cut.name: row.cut for row in rows}
    found = {run.name: _place(run, arms[run.name]) for run in runs}
    crowds = Counter((place.part, place.depth) for place in found.values())
    crowded = {part for (part, _), count in crowds.items() if count > 1}
    return {
        name: place._replace(part=f"{place.part}, {name}") if place.part in crowded else place
        for name, place in found.items()
    }


def _place(run: RunFolder, model: ComparedRun) -> Place:
    about = run.metrics().get("arm") or {}
    criterion = str(about.get("criterion") or model.criterion)
    if criterion in ("", "explicit"):
        name = str(about.get("plan") or run.name)
        criterion = re.sub(r"[-_ ]*\d+$", "", name) or name
    arm = model.healing or NOT_HEALED
    seed = about.get("seed", run.settings.get("seed", 0))
    return Place(criterion, arm, model.depth, f"{criterion}, {arm}, seed {seed}")


class OverSeeds(NamedTuple):
    """One metric of one task and readout, over all seeds of a plan."""

    rows: tuple[ComparisonRow, ...]
    """Of each seed, in the order of the study."""
    values: Comparison
    """Of all of them: a value per item and seed, with the item, or what it shares with others, as the cluster."""

    @property
    def first(self) -> ComparisonRow:
        """The row of the first seed."""
        return self.rows[0]


def over_seeds(cuts: Sequence[RunFolder], rows: Sequence[ComparisonRow], *, seed: int = 0) -> list[OverSeeds]:
    """Rows of runs that differ in their seed alone, put together; none where every plan has one seed.

    An item's values under all seeds keep together in the resampling, with the original model's, so the interval is over
    items, given these seeds.

    Args:
        cuts: the runs of the pruned models.
        rows: of compare_runs.
        seed: of the resampling.
    """
    where = {name: place[:3] for name, place in places(cuts, rows).items()}
    groups: dict[tuple[object, ...], list[ComparisonRow]] = {}
    for row in rows:
        groups.setdefault((where[row.cut.name], row.task, row.readout, row.metric), []).append(row)
    return [
        OverSeeds(tuple(group), _together(group, seed))
        for group in groups.values()
        if len({row.cut.seed for row in group}) == len(group) > 1
    ]


def _together(rows: Sequence[ComparisonRow], seed: int) -> Comparison:
    uncut: list[float] = []
    cut: list[float] = []
    clusters: list[str] = []
    for row in rows:
        assert row.items is not None, "rows of compare_runs carry their items"
        uncut += row.items.uncut
        cut += row.items.cut
        clusters += row.items.clusters or row.items.ids
    return compare_paired(uncut, cut, chance=rows[0].chance, seed=seed, clusters=clusters)
