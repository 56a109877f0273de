"""Which runs of a study belong to one line: same criterion and healing arm, one point for each depth and seed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

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
