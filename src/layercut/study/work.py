"""The work of a study for one model: arms, cells and their order, plans, healing runs, and finished results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.progress import Progress, silent
from layercut.progress.estimate import Workload as Cost
from layercut.progress.live import StudyStep
from layercut.runs.environment import machine
from layercut.runs.settings import settings_hash
from layercut.runs.study import seconds_in
from layercut.selection.select import objective_parts
from layercut.selection.specs import plan_of
from layercut.settings import UNCUT
from layercut.study.arms import StudyArm, arms_of, in_order
from layercut.study.cell_run import Measured, finished_cell
from layercut.study.choosing import choose_plans, search_identity
from layercut.study.healing_arms import Healer
from layercut.study.store import SEARCHES, CellStore, cell_identity, model_identity
from layercut.study.study_settings import StudySettings
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell, make_cells, run_settings
from layercut.tasks.shortfall import tell_shortfalls


class StudyWork:
    """One model's part of a study. Nothing is run or written by making it."""

    def __init__(
        self, settings: StudySettings, model: ModelHandle, *, folder: Path, store: CellStore, limit: int | None = None
    ) -> None:
        """Find the arms, the cells, and the plans that need no search or were chosen before.

        Args:
            settings: of the study.
            model: the original one.
            folder: the study's, or this model's within it.
            store: where other studies lie.
            limit: lowers every task's number of items.

        Raises:
            InputError: plans, depths, tasks or data that cannot be used with this model.
        """
        self.settings, self.model, self.folder, self.store = settings, model, folder, store
        self.arms = arms_of(settings, model.num_layers)
        self.cells = make_cells(settings.tasks, settings.seed, limit)
        self.order = list(in_order(self.arms, self.cells))
        self.plans: dict[str, CutPlan] = {}
        """By arm that is not healed; those of a search once it was made."""
        for arm in self.arms:
            if not arm.healing and arm.criterion is None:
                self.plans[arm.name] = plan_of(model, arm.spec, arm.seed)
        for name in dict.fromkeys(arm.search for arm in self.arms if not arm.healing and arm.criterion):
            self.choose(name, known_only=True)
        self.healers = {
            arm.name: Healer(
                arm.healing,
                model.settings,
                settings.tasks,
                arm.seed,
                folder=folder / arm.cut / f"heal-{arm.name.removeprefix(arm.cut + '+')}",
                answers=folder / "answers",
            )
            for arm in self.arms
            if arm.healing
        }
        self._costs = {cell.label: cell.work() for cell in self.cells}

    def shortfalls(self) -> list[str]:
        """Tasks that have fewer items than the study asks for, to be reported or to choose layers by, in words."""
        said: list[str] = []
        tell_shortfalls(self.cells, "report", said.append)
        for arm in self.arms:
            if arm.criterion is not None and not arm.healing and arm.search in self.searches:
                parts = [part for one in arm.criterion.objective for part in objective_parts(one, arm.seed)]
                tell_shortfalls(parts, "selection", said.append)
        return list(dict.fromkeys(said))

    @cached_property
    def searches(self) -> list[str]:
        """Names of the searches that measure something."""
        return list(dict.fromkeys(arm.search for arm in self.arms if not arm.healing and arm.cost))

    def arms_chosen_by(self, search: str) -> list[StudyArm]:
        """The cuts whose layers a search chooses."""
        return [arm for arm in self.arms if not arm.healing and arm.search == search]

    def choose(
        self,
        search: str,
        progress: Progress = silent,
        say: Callable[[str], None] = lambda text: None,
        *,
        known_only: bool = False,
    ) -> None:
        """Make a search, and know the plans of its cuts from then on; see ``choose_plans``."""
        arms = self.arms_chosen_by(search)
        criterion = arms[0].criterion
        assert criterion is not None
        plans = choose_plans(
            self.model,
            criterion,
            [arm.depth for arm in arms],
            folder=self.folder / SEARCHES / search,
            store=self.store,
            decoding=self.settings.decoding,
            seed=arms[0].seed,
            progress=progress,
            say=say,
            known_only=known_only,
        )
        self.plans |= {arm.name: plans[arm.depth] for arm in arms if arm.depth in plans}

    def plan(self, arm: StudyArm) -> CutPlan:
        """Layers of the original model that are gone in an arm."""
        return self.plans[arm.cut or arm.name]

    def decoding(self, arm: StudyArm) -> Decoding:
        """How answers are drawn."""
        return Decoding(**asdict(self.settings.decoding), seed=arm.seed)

    def identity(self, arm: StudyArm, cell: Cell) -> dict[str, Any]:
        """What decides a cell's answers."""
        healing = self.healers[arm.name].identity if arm.healing else None
        return cell_identity(self.model, self.plan(arm), cell, self.decoding(arm), healing)

    def run_settings(self, arm: StudyArm) -> Mapping[str, Any]:
        """What decides the numbers of an arm's run folder."""
        settings = run_settings(self.model, self.plan(arm), self.cells, self.decoding(arm), self.settings.seed)
        return {**settings, "healing": self.healers[arm.name].identity} if arm.healing else settings

    def whole(self) -> Mapping[str, Any]:
        """What must be the same for the study to go on in its folder."""
        settings = self.settings
        given = {name: list(self.plans[name].removed) for name in settings.plans}
        healing: dict[str, Any] = {}
        for arm in self.arms:
            if arm.healing:
                healing.setdefault(arm.healing.name, self.healers[arm.name].identity)
        extra = {
            "criteria": [asdict(one) for one in settings.criteria],
            "depths": [depth.text for depth in settings.depths],
            "healing": healing,
            "seeds": list(settings.seeds[1:]),
        }
        return {
            "plans": given,
            "checkpoints": settings.checkpoints,
            **run_settings(self.model, self.plans[UNCUT], self.cells, self.decoding(self.arms[0]), settings.seed),
            **{name: value for name, value in extra.items() if value},
        }

    def finished(self, arm: StudyArm, cell: Cell) -> Measured | None:
        """A cell as this folder holds it; None where it is not finished, or its plan not chosen yet."""
        if (arm.cut or arm.name) not in self.plans:
            return None
        return finished_cell(self.folder / arm.name, cell, self.identity(arm, cell))

    def is_elsewhere(self, arm: StudyArm, cell: Cell) -> bool:
        """Whether other studies hold all answers of a cell."""
        ids = [sample.id for sample in cell.task.samples("report", cell.limit)]
        return self.store.covers(self.identity(arm, cell), ids, exclude=self.folder / arm.name)

    def pieces(self) -> list[StudyStep]:
        """The cells in order, then the searches, then the healings; for progress and forecasts."""
        cells = [StudyStep(arm.name, cell.label, self._costs[cell.label]) for arm, cell in self.order]
        searches = [
            StudyStep("", f"choosing layers by {name}", Cost(kind=self.search_kind(name), num_items=1, weight=0))
            for name in self.searches
        ]
        healings = [
            StudyStep(name, "healing", Cost(kind=self.healing_kind(name), num_items=1, weight=0))
            for name in self.healers
        ]
        return [*cells, *searches, *healings]

    def index(self, step: str) -> int:
        """Number of a search or of an arm's healing among the pieces."""
        return len(self.order) + [*self.searches, *self.healers].index(step)

    def search_kind(self, search: str) -> str:
        """What decides how long a search takes."""
        arms = self.arms_chosen_by(search)
        criterion, deepest = arms[0].criterion, max(arm.depth for arm in arms)
        assert criterion is not None
        identity = search_identity(self.model, criterion, deepest, self.settings.decoding, arms[0].seed)
        return f"search {settings_hash({**identity, 'seed': None, 'where': self.where})}"

    def healing_kind(self, arm: str) -> str:
        """What decides how long a healing takes, whichever layers are gone."""
        identity = {"model": model_identity(self.model), "healing": self.healers[arm].identity}
        return f"healing {settings_hash({**identity, 'where': self.where})}"

    @cached_property
    def where(self) -> str:
        """What the model runs on: speeds belong to it."""
        import torch  # noqa: F401  before the accelerator is looked for

        return f"{self.model.settings.device}: {machine()}"

    def speeds(self) -> list[tuple[Any, int, float]]:
        """What earlier studies measured on this model and machine: kind of work, items, seconds."""
        mine = model_identity(self.model)
        found: list[tuple[Any, int, float]] = []
        for _, data in self.store.cells:
            identity, speed = data.get("identity", {}), data.get("speed", {})
            if {name: identity.get(name) for name in mine} == mine and speed.get("where") == self.where:
                found.append(((identity["task"], identity["readout"]), speed["items"], speed["seconds"]))
        for study in dict.fromkeys([self.folder, *self.store.studies()]):
            found += [(kind, 1, seconds) for kind, seconds in seconds_in(study).items()]
        return found


def reused(measured: Mapping[str, Measured]) -> dict[str, Sequence[Sequence[Any]]]:
    """Where answers were taken from, by cell: run folder and number of items."""
    return {name: [list(one) for one in found.reused] for name, found in measured.items() if found.reused}
