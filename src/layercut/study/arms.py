"""The arms of a study and the order of its work: the original model, cuts, and cuts healed, under one seed each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from layercut.errors import InputError
from layercut.settings import UNCUT
from layercut.study.settings import CriterionSettings, HealingArm, StudySettings
from layercut.tasks.cells import Cell

_READOUT_COST = {"short": 1, "chain": 2}  # readouts that generate cost more than those that rank


@dataclass(frozen=True, kw_only=True)
class StudyArm:
    """One model to be measured: its plan, who chose it, its healing and its seed."""

    name: str
    spec: str | None = None  # a plan as people write it; None for the original model and for a criterion's choice
    criterion: CriterionSettings | None = None
    depth: int = 0  # number of layers that a criterion removes; 0 for a given plan
    healing: HealingArm | None = None
    seed: int  # seed of all draws in this arm
    round: int = 0  # index of the seed among the study's
    cut: str = ""  # name of the cut that is healed here; empty without healing
    start: str = ""  # name of the healed arm that is healed further here; empty where the cut itself is healed
    mark: str = ""  # answer tokens after which the training of another arm is measured here; empty for its end

    @property
    def is_uncut(self) -> bool:
        return self.name == UNCUT

    @property
    def training(self) -> str:
        """Name of the arm whose training this is, as it was at the mark; empty without a mark."""
        return self.name.removesuffix(f"@{self.mark}") if self.mark else ""

    @property
    def cost(self) -> int:
        """The cost of choosing its layers, see CriterionSettings."""
        return self.criterion.cost if self.criterion else 0

    @property
    def search(self) -> str:
        """Name of the search that chooses the layers of a cut; empty without one."""
        if self.criterion is None:
            return ""
        return self.criterion.name + (f"-seed{self.seed}" if self.round else "")

    @property
    def waits_for(self) -> tuple[int, int, str]:
        """Seed, cost and search of the layers: cuts that share these are ready at the same time."""
        return self.seed, self.cost, self.search if self.cost else ""

    def describe(self) -> dict[str, Any]:
        """For study.json and for the run's metrics."""
        return {
            "name": self.name,
            "plan": self.cut or self.name,
            "criterion": self.criterion.criterion if self.criterion else None,
            "depth": self.depth or None,
            "healing": self.healing.name + (f"@{self.mark}" if self.mark else "") if self.healing else None,
            "seed": self.seed,
            **({"start": self.start or self.cut} if self.healing else {}),
        }


def arms_of(settings: StudySettings, num_layers: int) -> list[StudyArm]:
    """All arms in the order of the report: uncut, then each plan with its healed arms and their marks, by seed.

    The original model is trained as well where a healing arm names it, as a control or for a parent model.

    A further seed has only arms that draw: random plans, plans by generated text or sampled answers, and healing
    without a seed of its own. Where answers are sampled, every plan is asked again. Raises InputError for two arms of
    one name, or a depth that leaves no layer.
    """
    uncut = StudyArm(name=UNCUT, seed=settings.seed)
    arms = []
    for cut in (uncut, *_cuts(settings, num_layers)):
        for place, seed in enumerate(settings.seeds):
            if place == 0 or (not cut.is_uncut and _draws(settings, cut)):
                suffix = f"-seed{seed}" if place else ""
                own = replace(cut, name=cut.name + suffix, seed=seed, round=place)
                arms += [own, *_healed(own, cut, settings.healing, "")]
            else:  # the cut is that of the first seed, and is healed again
                healed = [arm for arm in settings.healing if arm.seed is None]
                arms += _healed(replace(cut, seed=seed, round=place), cut, healed, f"-seed{seed}")
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two arms of the study would be called {name}; give a plan or a criterion another name.")
    return arms


def in_order(arms: Sequence[StudyArm], cells: Sequence[Cell]) -> Iterator[tuple[StudyArm, Cell]]:
    """Every arm and cell, cheap and informative ones first.

    The original model comes first. Of one seed, cuts come before healed ones; among cuts, those without a search, then
    those chosen by text, then those chosen by task scores; within these, ranked readouts before written ones and
    shallow cuts before deep ones. A healed model is measured completely before the next one is made.
    """
    pieces = [(arm, cell) for arm in arms for cell in cells]

    def key(place: int) -> tuple[object, ...]:
        arm, cell = pieces[place]
        readout = _READOUT_COST.get(cell.readout.partition("@")[0], 0)
        if arm.healing:
            return (arm.round, 1, arm.cost, arm.depth, place // len(cells), readout)
        return (arm.round, 0, not arm.is_uncut, arm.cost, readout, arm.depth)

    yield from (pieces[place] for place in sorted(range(len(pieces)), key=lambda place: (key(place), place)))


def _cuts(settings: StudySettings, num_layers: int) -> Iterator[StudyArm]:
    for name, spec in settings.plans.items():
        yield StudyArm(name=name, spec=spec, seed=settings.seed)
    for criterion in settings.criteria:
        for depth in dict.fromkeys(depth.layers(num_layers) for depth in settings.depths):
            if depth >= num_layers:
                raise InputError(f"depth {depth} leaves no layer of {num_layers}; choose 1 to {num_layers - 1}.")
            yield StudyArm(name=f"{criterion.name}-{depth}", criterion=criterion, depth=depth, seed=settings.seed)


def _healed(cut: StudyArm, plain: StudyArm, healing: Sequence[HealingArm], suffix: str) -> list[StudyArm]:
    names = {plain.name, plain.criterion.name if plain.criterion else plain.name}
    repeated = {arm.name for arm in healing if arm.seed is None}

    def name(arm: str) -> str:
        return f"{cut.name}+{arm}{suffix if arm in repeated else ''}"

    found = []
    for arm in healing:
        if names & set(arm.plans) or not (arm.plans or plain.is_uncut):
            start = name(arm.after) if arm.after else ""
            whole = replace(cut, name=name(arm.name), healing=arm, cut=cut.name, start=start)
            marks = sorted(arm.train.marks, key=int)
            found += [whole, *(replace(whole, name=f"{whole.name}@{mark}", mark=mark) for mark in marks)]
    return found


def _draws(settings: StudySettings, cut: StudyArm) -> bool:
    if settings.decoding.temperature > 0:
        return True
    if cut.criterion:
        return cut.criterion.draws(settings.decoding)
    return (cut.spec or "").startswith("random:")
