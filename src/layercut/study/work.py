"""The work of a study for one model: arms, cells and their order, plans, healing runs, and finished results.

An arm is the original model, a cut, or a cut healed, under one seed; each has a run folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.progress import Progress, Say, silent
from layercut.progress.bars import StudyStep
from layercut.progress.cost import Workload as Cost
from layercut.runs.environment import machine
from layercut.runs.notes import Notes
from layercut.runs.settings import settings_hash, settings_in
from layercut.runs.study import seconds_in
from layercut.selection.select import objective_parts
from layercut.selection.specs import plan_of
from layercut.settings import UNCUT
from layercut.study.choosing import choose_plans, search_identity
from layercut.study.healing_arms import Healer, checked_in_full, healing_folder, items_of, recorded_in_full
from layercut.study.settings import CriterionSettings, HealingArm, StudySettings
from layercut.study.store import CellStore, Measured, cell_identity, finished_cell, model_identity, notes_of
from layercut.surgery.plan import CutPlan
from layercut.tasks import base_name, load_task
from layercut.tasks.cells import Cell, make_cells, run_settings
from layercut.tasks.reported import decided, tell_reported, tell_shortfalls
from layercut.tasks.selected_items import used_items

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
        """Make a search, and record the plans of its cuts in ``notes``; without them, take what is known."""
        arms = self.arms_chosen_by(search)
        criterion = arms[0].criterion
        assert criterion is not None
        plans = choose_plans(
            self.model,
            search,
            criterion,
            [arm.depth for arm in arms],
            folder=self.folder,
            notes=notes,
            store=self.store,
            decoding=self.settings.decoding,
            seed=arms[0].seed,
            progress=progress,
            say=say,
        )
        self.plans |= {arm.name: plans[arm.depth] for arm in arms if arm.depth in plans}

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

    def is_elsewhere(self, arm: StudyArm, cell: Cell) -> bool:
        """True if other studies hold all answers of a cell."""
        ids = [sample.id for sample in cell.samples]
        return self.store.covers(self.identity(arm, cell), ids, exclude=self.folder / arm.name)

    def is_known(self, arm: StudyArm, cell: Cell) -> bool:
        """True if a cell needs no model: its plan is chosen, and this folder or other studies hold all answers."""
        if (arm.cut or arm.name) not in self.plans:
            return False
        return self.finished(arm, cell) is not None or self.is_elsewhere(arm, cell)

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


def reused(measured: Mapping[str, Measured]) -> dict[str, Sequence[Sequence[Any]]]:
    """Sources of reused answers, by cell: run folder and number of items."""
    return {name: [list(one) for one in found.reused] for name, found in measured.items() if found.reused}
