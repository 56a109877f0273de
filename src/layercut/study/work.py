"""The work of a study for one model: its arms and cells, plans, healing runs, and finished results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.progress import Progress, Say, silent
from layercut.progress.bars import StudyStep
from layercut.progress.cost import Workload as Cost
from layercut.runs.environment import machine
from layercut.runs.notes import Notes
from layercut.runs.settings import settings_hash, settings_in
from layercut.runs.study import seconds_in
from layercut.selection.base import SearchSettings
from layercut.selection.select import SelectionRequest, objective_parts, select_layers
from layercut.selection.specs import LayerSpec, plan_of
from layercut.settings import UNCUT
from layercut.study.arms import StudyArm, arms_of, in_order
from layercut.study.choosing import choose_by_position, first_layers, search_identity
from layercut.study.healing_arms import Healer, checked_in_full, healing_folder, items_of, recorded_in_full
from layercut.study.settings import StudySettings
from layercut.study.store import (
    CHOSEN,
    SEARCHES,
    CellStore,
    Measured,
    cell_identity,
    chosen_in,
    finished_cell,
    model_identity,
    notes_of,
)
from layercut.surgery.plan import CutPlan
from layercut.tasks import base_name, load_task
from layercut.tasks.cells import Cell, make_cells, run_settings
from layercut.tasks.reported import decided, tell_reported, tell_shortfalls
from layercut.tasks.selected_items import used_items


class StudyWork:
    """One model's part of a study. Creating it runs and writes nothing, and checks the settings against the model."""

    def __init__(
        self, settings: StudySettings, model: ModelHandle, *, folder: Path, store: CellStore, limit: int | None = None
    ) -> None:
        """``folder`` is the study's, or this model's in it; ``limit`` lowers every task's number of items."""
        self.settings, self.model, self.folder, self.store, self.limit = settings, model, folder, store, limit
        self.arms = arms_of(settings, model.num_layers)
        self.plans: dict[str, CutPlan] = {}  # by arm that is not healed; those of a search once it was made
        for arm in self.arms:
            if not arm.healing and arm.criterion is None:
                self.plans[arm.name] = plan_of(model, arm.spec, arm.seed)
        for name in dict.fromkeys(arm.search for arm in self.arms if not arm.healing and arm.criterion):
            self.choose(name)
        begun = settings_in(folder)
        used = self._used_items() if begun is None else None
        self.cells = make_cells(settings.tasks, settings.seed, limit, decided(used, begun))
        self.order = list(in_order(self.arms, self.cells))
        if begun is None:
            loaded = {base_name(cell.task.name): cell.task for cell in self.cells}
            in_full = checked_in_full(settings.healing, settings.tasks, loaded)
        else:
            in_full = {arm.name: recorded_in_full(arm, begun) for arm in settings.healing}
        self.healers: dict[str, Healer] = {}
        for arm in self.arms:
            if arm.healing:
                self.healers[arm.name] = Healer(
                    arm.healing,
                    model.settings,
                    settings.tasks,
                    arm.seed,
                    folder=healing_folder(folder, arm.training or arm.name),
                    answers=folder / "answers",
                    in_full=in_full[arm.healing.name],
                    start=self.healers.get(arm.start),
                    mark=arm.mark,
                )
        self._costs = {cell.label: cell.work() for cell in self.cells}

    def _used_items(self) -> frozenset[str] | None:
        """Ids of all items that any arm uses: of the model itself, of given plans, searches and healings.

        Known before anything is searched, so that all arms answer the same items. A search may score its plan again on
        further selection items, so all of its tasks' count, but for tasks that make their own.
        """
        settings = self.settings
        made = [*self.model.earlier_plans, *self.plans.values()]
        if (used := used_items(made, self.model.healings)) is None:
            return None
        searched = [
            load_task(one.task, data=one.data, seed=settings.seed) for by in settings.criteria for one in by.objective
        ]
        known = [task.samples("selection", None) for task in searched if task.shares_test_set is not None]
        healed = [ids for arm in settings.healing for ids in items_of(arm).values()]
        return used.union(*({sample.id for sample in samples} for samples in known), *healed)

    def shortfalls(self) -> list[str]:
        """Tasks that have fewer items than the study asks for, for the report or for choosing layers, in words."""
        said: list[str] = []
        tell_reported(self.cells, said.append)
        for arm in self.arms:
            if arm.criterion is not None and not arm.healing and arm.search in self.searches:
                parts = [part for one in arm.criterion.objective for part in objective_parts(one, arm.seed)]
                tell_shortfalls(parts, "selection", said.append)
        return list(dict.fromkeys(said))

    @cached_property
    def trainings(self) -> list[str]:
        """The arms that are healed; those at a mark are not, because they are kept while another is."""
        return [arm.name for arm in self.arms if arm.healing and not arm.mark]

    @cached_property
    def searches(self) -> list[str]:
        return list(dict.fromkeys(arm.search for arm in self.arms if not arm.healing and arm.cost))

    def arms_chosen_by(self, search: str) -> list[StudyArm]:
        """The cuts whose layers a search chooses."""
        return [arm for arm in self.arms if not arm.healing and arm.search == search]

    def choose(
        self, search: str, notes: Notes | None = None, progress: Progress = silent, say: Say = lambda text: None
    ) -> None:
        """Make a search, and record the plans of its cuts in ``notes``; without them, take what is known.

        Where a deeper cut of the criterion contains the shallower one, there is one search, and the shallower plans are
        its first layers; others are searched for each depth. A search that this or another study has made is not
        repeated. Raises InputError as ``select_layers``.
        """
        arms = self.arms_chosen_by(search)
        criterion, seed, decoding = arms[0].criterion, arms[0].seed, self.settings.decoding
        assert criterion is not None
        if not criterion.row.needs_model:
            self.plans |= {arm.name: choose_by_position(self.model, criterion, arm.depth, seed) for arm in arms}
            return
        depths = sorted(arm.depth for arm in arms)
        plans = {}
        for depth in depths[-1:] if criterion.is_nested else depths:
            key = settings_hash(search_identity(self.model, criterion, depth, decoding, seed))
            plan = chosen_in(self.folder, key)
            if plan is None and (elsewhere := self.store.plan(key)) is not None:
                plan, source = elsewhere
                if notes is not None:
                    say(f"{criterion.name}-{depth}: layers as chosen in {source}")
                    notes.put(CHOSEN + key, plan.to_dict())
            if plan is None:
                if notes is None:
                    return
                request = SelectionRequest(
                    remove=LayerSpec.parse(f"{depth} layers"),
                    criterion=criterion.criterion,
                    tasks=criterion.objective,
                    calibration=criterion.calibration,
                    protect=criterion.protect,
                    settings=criterion.settings,
                    search=SearchSettings(normalise=criterion.normalise, race=criterion.race),
                    decoding=decoding,
                    seed=seed,
                )
                out = self.folder / SEARCHES / search
                plan = select_layers(self.model, request, out=out, progress=progress, say=say).plan
                notes.put(CHOSEN + key, plan.to_dict())
            plans[depth] = plan
        if criterion.is_nested:
            plans = {depth: first_layers(plans[depths[-1]], depth) for depth in depths}
        self.plans |= {arm.name: plans[arm.depth] for arm in arms}

    def plan(self, arm: StudyArm) -> CutPlan:
        """The layers of the original model that an arm removes."""
        return self.plans[arm.cut or arm.name]

    def decoding(self, arm: StudyArm) -> Decoding:
        return Decoding(**self.settings.decoding.as_dict(), seed=arm.seed)

    def identity(self, arm: StudyArm, cell: Cell) -> dict[str, Any]:
        healing = self.healers[arm.name].identity if arm.healing else None
        return cell_identity(self.model, self.plan(arm), cell, self.decoding(arm), healing)

    def run_settings(self, arm: StudyArm) -> Mapping[str, Any]:
        """The settings that decide the numbers of an arm's run folder."""
        settings = run_settings(self.model, self.plan(arm), self.cells, self.decoding(arm), self.settings.seed)
        return {**settings, "healing": self.healers[arm.name].identity} if arm.healing else settings

    def whole(self) -> Mapping[str, Any]:
        """The settings that must be the same for the study to continue in its folder."""
        settings = self.settings
        plans = {name: self.plans[name] for name in settings.plans}
        given = {name: [*plan.removed, *([plan.channels.key] if plan.channels else [])] for name, plan in plans.items()}
        healing: dict[str, Any] = {}
        for arm in self.arms:
            if arm.healing:
                healing.setdefault(arm.healing.name, self.healers[arm.name].identity)
        extra = {
            "criteria": [one.as_dict() for one in settings.criteria],
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

    def is_known(self, arm: StudyArm, cell: Cell) -> bool:
        """True if a cell needs no model: its plan is chosen, and this folder or other studies hold all answers."""
        if (arm.cut or arm.name) not in self.plans:
            return False
        if self.finished(arm, cell) is not None:
            return True
        ids = {sample.id for sample in cell.samples}
        others = self.store.records(self.identity(arm, cell), ids, exclude=self.folder / arm.name)
        return ids <= {record["id"] for _, records in others for record in records}

    def pieces(self) -> list[StudyStep]:
        """The cells in order, then the searches, then the healings; for progress and forecasts."""
        cells = [StudyStep(arm.name, cell.label, self._costs[cell.label]) for arm, cell in self.order]
        searches = [
            StudyStep("", f"choosing layers by {name}", Cost(kind=self.search_kind(name), num_items=1, is_item=False))
            for name in self.searches
        ]
        healings = [
            StudyStep(name, "healing", Cost(kind=self.healing_kind(name), num_items=1, is_item=False))
            for name in self.trainings
        ]
        return [*cells, *searches, *healings]

    def index(self, step: str) -> int:
        """Number of a search or of an arm's healing among the pieces."""
        return len(self.order) + [*self.searches, *self.trainings].index(step)

    def search_kind(self, search: str) -> str:
        """Searches of the same kind take the same time."""
        arms = self.arms_chosen_by(search)
        criterion, deepest = arms[0].criterion, max(arm.depth for arm in arms)
        assert criterion is not None
        identity = search_identity(self.model, criterion, deepest, self.settings.decoding, arms[0].seed)
        return f"search {settings_hash({**identity, 'seed': None, 'where': self.where})}"

    def healing_kind(self, arm: str) -> str:
        """Healings of the same kind take the same time. The removed layers do not count."""
        identity = {"model": model_identity(self.model), "healing": self.healers[arm].identity}
        return f"healing {settings_hash({**identity, 'where': self.where})}"

    @cached_property
    def where(self) -> str:
        """The machine that the model runs on, for speeds."""
        import torch  # noqa: F401  before the accelerator is looked for

        return f"{self.model.settings.device}: {machine()}"

    def speeds(self) -> list[tuple[Any, int, float]]:
        """Measurements of earlier studies on this model and machine: kind of work, items, seconds."""
        mine = model_identity(self.model)
        found: list[tuple[Any, int, float]] = []
        for _, data in self.store.cells:
            identity, speed = data["identity"], data["speed"]
            if {name: identity.get(name) for name in mine} == mine and speed.get("where") == self.where:
                found.append(((identity["task"], identity["readout"]), speed["items"], speed["seconds"]))
        for study in dict.fromkeys([self.folder, *self.store.studies()]):
            found += [(kind, 1, seconds) for kind, seconds in seconds_in(notes_of(study)).items()]
        return found
