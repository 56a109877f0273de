"""Which runs of a study belong to one line: same criterion and healing arm, one point for each depth and seed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.report.compare import arm_of

if TYPE_CHECKING:
    from layercut.runs.directory import RunFolder

NOT_HEALED = "none"
"""The arm of a model that was cut and not trained."""


class Place(NamedTuple):
    """Where a run stands among the runs of its study."""

    criterion: str
    """Who chose the layers; of lists given by hand, the plan's name without its depth."""
    arm: str
    """How the cut model was healed; ``none`` where it was not."""
    depth: int
    """Layers removed."""
    part: str
    """Runs of one part are joined by a line: one seed each, and one run at each depth."""

    @property
    def series(self) -> str:
        """Name of the line."""
        return self.criterion if self.arm == NOT_HEALED else f"{self.criterion}, healed: {self.arm}"


def places(runs: Sequence[RunFolder]) -> dict[str, Place]:
    """The place of each cut run, by its name.

    The healing arm is what a run's settings call ``arm``, or the name or method of its ``healing``.
    """
    found = {run.name: _place(run) for run in runs}
    crowds = Counter((place.part, place.depth) for place in found.values())
    crowded = {part for (part, _), count in crowds.items() if count > 1}
    return {
        name: place._replace(part=f"{place.part}, {name}") if place.part in crowded else place
        for name, place in found.items()
    }


def _place(run: RunFolder) -> Place:
    model = arm_of(run)
    criterion = model.criterion
    if criterion in ("", "explicit"):
        criterion = re.sub(r"[-_ ]*\d+$", "", run.name) or run.name
    arm = _healing(run.settings)
    seed = run.settings.get("seed", 0)
    return Place(criterion, arm, len(model.removed), f"{criterion}, {arm}, seed {seed}")


def _healing(settings: Mapping[str, Any]) -> str:
    for key in ("arm", "healing"):
        value = settings.get(key)
        if isinstance(value, Mapping):
            value = value.get("name") or value.get("method")
        if isinstance(value, str) and value:
            return value
    return NOT_HEALED
