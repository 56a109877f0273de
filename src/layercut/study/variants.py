"""The variants of a study, in order: the original model, cuts, and cuts healed, each under one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from layercut.errors import InputError
from layercut.settings import UNCUT
from layercut.study.settings import CriterionSettings, HealingArm, StudySettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell

CELL, CHOSEN = "cell: ", "chosen: "
"""Begin the names of the notes of a run's finished cells, and of the plans that a study's searches chose."""
_READOUT_COST = {"short": 1, "chain": 2}  # readouts that generate cost more than those that rank


@dataclass(frozen=True, kw_only=True)
class StudyVariant:
    """One model to be measured: its plan, who chose it, its healing and its seed."""

    name: str
    spec: str | None = None  # a plan as people write it; None for the original model and for a criterion's choice
    criterion: CriterionSettings | None = None
    depth: int = 0  # number of layers that a criterion removes; 0 for a given plan
    healing: HealingArm | None = None
    seed: int  # seed of all draws in this variant
    round: int = 0  # index of the seed among the study's
    cut: str = ""  # name of the cut that is healed here; empty without healing

    @property
    def is_uncut(self) -> bool:
        return self.name == UNCUT

    @property
    def plan_name(self) -> str:
        """Name of the cut whose plan it has."""
        return self.cut or self.name

    @property
    def cost(self) -> int:
        """The cost of choosing its layers, see CriterionSettings."""
        return self.criterion.cost if self.criterion else 0

    @property
    def search(self) -> str:
        """Name of the search that chooses the layers of a cut; empty without one."""
        return self.criterion.name + (f"-seed{self.seed}" if self.round else "") if self.criterion else ""

    @property
    def waits_for(self) -> tuple[int, int, str]:
        """Seed, cost and search of the layers: cuts that share these are ready at the same time."""
        return self.seed, self.cost, self.search if self.cost else ""

    def describe(self) -> dict[str, Any]:
        """For the notes of the study and for the run's metrics."""
        return {
            "name": self.name,
            "plan": self.plan_name,
            "criterion": self.criterion.criterion if self.criterion else None,
            "depth": self.depth or None,
            "healing": self.healing.name if self.healing else None,
            "seed": self.seed,
        }


def list_variants(settings: StudySettings, num_layers: int) -> list[StudyVariant]:
    """All variants in the order of the report: uncut, then each plan with its healed variants, by seed.

    The original model is trained as well where a healing arm names it, as a control or for a parent model.

    A further seed has only variants that draw: random plans, plans by generated text or sampled answers, and healing
    without a seed of its own. Where answers are sampled, every plan is asked again. Raises InputError for two variants
    of one name, or a depth that leaves no layer.
    """
    specs = {UNCUT: None, **settings.plans}
    cuts = [StudyVariant(name=name, spec=spec, seed=settings.seed) for name, spec in specs.items()]
    for criterion in settings.criteria:
        for depth in dict.fromkeys(depth.layers(num_layers) for depth in settings.depths):
            if depth >= num_layers:
                raise InputError(f"depth {depth} leaves no layer of {num_layers}; choose 1 to {num_layers - 1}.")
            name = f"{criterion.name}-{depth}"
            cuts.append(StudyVariant(name=name, criterion=criterion, depth=depth, seed=settings.seed))
    variants = []
    for cut in cuts:
        for place, seed in enumerate(settings.seeds):
            suffix, own = f"-seed{seed}" if place else "", replace(cut, seed=seed, round=place)
            if place == 0 or (not cut.is_uncut and _draws(settings, cut)):
                own = replace(own, name=cut.name + suffix)
                variants += [own, *_healed(own, cut, settings.healing, "")]
            else:  # the cut is that of the first seed, and is healed again
                variants += _healed(own, cut, [arm for arm in settings.healing if arm.seed is None], suffix)
    names = [variant.name for variant in variants]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two arms of the study would be called {name}; give a plan or a criterion another name.")
    return variants


def order_cells(variants: Sequence[StudyVariant], cells: Sequence[Cell]) -> list[tuple[StudyVariant, Cell]]:
    """Every variant and cell, cheap and informative ones first.

    Of one seed, cuts come before healed ones, the original model first; among cuts, those without a search, then those
    chosen by text, then by task scores; within these, ranked readouts before written ones and shallow cuts before deep
    ones. A healed model is measured completely before the next one is made.
    """

    def cost(cell: Cell) -> int:
        return _READOUT_COST.get(cell.readout, 0)

    def place(piece: tuple[StudyVariant, Cell]) -> tuple[object, ...]:
        variant, cell = piece
        if variant.healing:
            return variant.round, 1, variant.cost, variant.depth
        return variant.round, 0, not variant.is_uncut, variant.cost, cost(cell), variant.depth

    return sorted(((variant, cell) for variant in variants for cell in sorted(cells, key=cost)), key=place)


def _healed(cut: StudyVariant, plain: StudyVariant, arms: Sequence[HealingArm], suffix: str) -> list[StudyVariant]:
    """The healed variants of a cut, which is ``plain`` under one of the seeds."""
    names = {plain.name, plain.criterion.name if plain.criterion else plain.name}
    # An arm with a seed of its own is healed under the first seed alone, without a suffix.
    return [
        replace(cut, name=f"{cut.name}+{arm.name}{suffix if arm.seed is None else ''}", healing=arm, cut=cut.name)
        for arm in arms
        if names & set(arm.plans) or not (arm.plans or plain.is_uncut)
    ]


def _draws(settings: StudySettings, cut: StudyVariant) -> bool:
    if settings.decoding.temperature > 0:
        return True
    if cut.criterion:
        return cut.criterion.draws(settings.decoding)
    return (cut.spec or "").startswith("random:")


def first_layers(plan: CutPlan, depth: int) -> CutPlan:
    """The plan of the same search at a smaller ``depth``. Its selection items stay: all rounds use the same.

    >>> first_layers(CutPlan(num_layers=6, removed=(4, 2, 3)), 2).removed
    (4, 2)
    """
    if depth == len(plan.removed):
        return plan
    assert depth < len(plan.removed), "a search goes to the largest depth"
    scores = dict(plan.scores)
    if "rounds" in scores:
        scores["rounds"] = scores["rounds"][:depth]
        scores["value"] = scores["rounds"][-1]["value"]
    for name in ("perplexity", "race", "selected_scores"):  # of the deepest cut
        scores.pop(name, None)
    settings = {**plan.settings, "num_remove": depth, "first_of": len(plan.removed)}
    return replace(plan, removed=plan.removed[:depth], settings=settings, scores=scores)
