"""The work of a study: its variants and cells, plans, healing runs, and finished results."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from layercut.engine.base import Decoding
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.outline import training_disk
from layercut.progress import Progress, Say, show_nothing
from layercut.progress.bars import Workload
from layercut.runs.dry_run import Outline, PlannedStep
from layercut.runs.records import MetricRow, Notes
from layercut.runs.settings import CONFIG, settings_hash, settings_in
from layercut.selection.base import SearchSettings
from layercut.selection.select import SelectionRequest, objective_parts, select_layers
from layercut.selection.specs import LayerSpec, plan_of
from layercut.settings import GENERATED
from layercut.study.settings import CriterionSettings, StudySettings
from layercut.study.variants import (
    CELL,
    CHOSEN,
    Healer,
    StudyVariant,
    first_layers,
    is_healing_begun,
    list_variants,
    order_cells,
    read_source,
)
from layercut.surgery.checkpoint import plan_cut
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.cells import Cell, make_task_cells, run_settings
from layercut.tasks.selected_items import (
    check_report_items,
    decide_split,
    reported_split,
    tell_shortfalls,
    used_items,
)


class StudyWork:
    """What a study does. Creating it runs and writes nothing, and checks the settings against the model."""

    def __init__(self, settings: StudySettings, limit: int | None = None) -> None:
        """``limit`` lowers every task's number of items."""
        self.settings, self.folder = settings, settings.out
        self.model = model = ModelHandle(settings.model)
        self.variants = list_variants(settings, model.num_layers)
        self.cuts = [variant for variant in self.variants if not variant.healing]
        self.searches: dict[str, list[StudyVariant]] = {}  # the cuts whose layers each chooses
        self.plans: dict[str, CutPlan] = {}  # by name of the cut; those of a search once it was made
        for variant in self.cuts:
            if variant.criterion is None:
                self.plans[variant.name] = plan_of(model, variant.spec, variant.seed)
            elif variant.cost:
                self.searches.setdefault(variant.search, []).append(variant)
            else:
                spec = f"{variant.criterion.criterion}:{variant.depth}"
                self.plans[variant.name] = plan_of(model, spec, variant.seed)
        for name in self.searches:
            self.choose(name)
        begun = settings_in(self.folder)
        used = self._used_items()
        self.cells = make_task_cells(settings.tasks, settings.seed, limit, decide_split(used, begun))
        for cell in self.cells:
            if cell.split == "full" and reported_split(cell.task, used) != "full":
                raise InputError(
                    f"{self.folder} reports the whole test set of {cell.task.name}, and now some of its items choose "
                    "layers or heal; use another `out`."
                )
        self.order = order_cells(self.variants, self.cells)
        self.healers = {
            variant.name: Healer(arm, self.folder, variant.name, model.settings, settings.tasks, variant.seed)
            for variant in self.variants
            if (arm := variant.healing)
        }

    def _used_items(self) -> frozenset[str] | None:
        """Ids of all items that any variant uses: of the model itself, of given plans, searches and healings.

        A search may score its plan again on further selection items, so all of its tasks' count, but for tasks that
        make their own.
        """
        settings = self.settings
        used = used_items([*self.model.earlier_plans, *self.plans.values()], self.model.healings)
        if used is None:
            return None
        objectives = [task for criterion in settings.criteria for task in criterion.objective]
        searched = [load_task(task.task, data=task.data, seed=settings.seed) for task in objectives]
        known = [task.samples("selection", None) for task in searched if task.shares_test_set is not None]
        healed = [ids for arm in settings.healing for ids in read_source(arm).items.values()]
        return used.union(*({sample.id for sample in samples} for samples in known), *healed)

    def shortfalls(self) -> list[str]:
        """Tasks that have fewer items than the study asks for, for the report or for choosing layers, in words."""
        lines: list[str] = []
        tell_shortfalls(((cell.task, cell.split, cell.limit) for cell in self.cells), lines.append)
        for variant in (cuts[0] for cuts in self.searches.values()):
            objective = variant.criterion.objective if variant.criterion else ()
            parts = [part for task in objective for part in objective_parts(task, variant.seed)]
            tell_shortfalls(((part.task, "selection", part.limit) for part in parts), lines.append)
        return list(dict.fromkeys(lines))

    def choose(
        self, search: str, notes: Notes | None = None, progress: Progress = show_nothing, say: Say = lambda text: None
    ) -> None:
        """Make a search, and record the plans of its cuts in ``notes``; without them, take what is known.

        Where a deeper cut of the criterion contains the shallower one, there is one search, and the shallower plans are
        its first layers; others are searched for each depth. A search that was made is not repeated.

        Raises:
            InputError: see ``select_layers``.
        """
        cuts = self.searches[search]
        criterion, seed = cuts[0].criterion, cuts[0].seed
        assert criterion is not None, "a search has a criterion"
        depths = sorted(cut.depth for cut in cuts)
        plans, chosen = {}, Notes(self.folder)
        for depth in depths[-1:] if criterion.row.is_nested else depths:
            key = settings_hash(self._search_identity(criterion, depth, seed))
            if (known := chosen.get(CHOSEN + key)) is not None:
                plans[depth] = CutPlan.from_dict(known)
                continue
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
                decoding=self.settings.decoding,
                seed=seed,
            )
            out = self.folder / "searches" / search
            plans[depth] = select_layers(self.model, request, out=out, progress=progress, say=say).plan
            notes.put(CHOSEN + key, plans[depth].to_dict())
        deepest = plans[depths[-1]]
        self.plans |= {cut.name: plans.get(cut.depth) or first_layers(deepest, cut.depth) for cut in cuts}

    def _search_identity(self, criterion: CriterionSettings, depth: int, seed: int) -> Mapping[str, Any]:
        """All settings that decide the choice. Files count by their content, a criterion of your own by its name."""
        tasks = [
            {**task.as_dict(), "data": None, **load_task(task.task, data=task.data, seed=seed).settings()}
            for task in criterion.objective
        ]
        text = criterion.calibration.as_dict()
        if criterion.calibration.source != GENERATED:
            file = Path(criterion.calibration.source)
            text["content"] = hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file.is_file() else None
        return {
            **criterion.model_dump(exclude={"name"}),
            "objective": tasks,
            "calibration": text,
            "depth": depth,
            "decoding": self.settings.decoding.as_dict(),
            "seed": seed,
        }

    def plan(self, variant: StudyVariant) -> CutPlan:
        """The layers of the original model that a variant removes."""
        return self.plans[variant.plan_name]

    def decoding(self, variant: StudyVariant) -> Decoding:
        return Decoding(**self.settings.decoding.as_dict(), seed=variant.seed)

    def run_settings(self, variant: StudyVariant) -> Mapping[str, Any]:
        """The settings that decide the numbers of a variant's run folder."""
        settings = run_settings(self.model, self.plan(variant), self.cells, self.decoding(variant), self.settings.seed)
        return {**settings, "healing": self.healers[variant.name].identity} if variant.healing else settings

    def whole(self) -> Mapping[str, Any]:
        """The settings that must be the same for the study to continue in its folder."""
        settings, healing = self.settings, dict[str, Any]()
        plans = {name: self.plans[name] for name in settings.plans}
        for healer in self.healers.values():
            healing.setdefault(healer.arm.name, healer.identity)  # under the first of its seeds
        extra = {
            "criteria": [criterion.as_dict() for criterion in settings.criteria],
            "depths": [depth.text for depth in settings.depths],
            "healing": healing,
            "seeds": list(settings.seeds[1:]),
        }
        return {
            "plans": {
                name: [*plan.removed, *([plan.channels.key] if plan.channels else [])] for name, plan in plans.items()
            },
            "checkpoints": settings.checkpoints,
            **self.run_settings(self.variants[0]),
            **{name: value for name, value in extra.items() if value},
        }

    def check_items(self, plan: CutPlan, cell: Cell) -> None:
        """Raise InputError where some of a cell's items chose the plan, or one before it."""
        check_report_items((*self.model.earlier_plans, plan), cell.task.name, [sample.id for sample in cell.samples])

    def finished(self, variant: StudyVariant, cell: Cell) -> list[MetricRow] | None:
        """The scores of a cell; None where it is not finished, answers were lost, or no plan is chosen."""
        run = self.folder / variant.name
        if variant.plan_name not in self.plans or (note := Notes(run).get(CELL + cell.label)) is None:
            return None
        is_same = (note["limit"], note["split"]) == (cell.limit, cell.split)
        return note["rows"] if is_same and cell.is_whole(run) else None

    def is_known(self, variant: StudyVariant, cell: Cell) -> bool:
        """True if a cell needs no model: its plan is chosen, and all of its answers are there."""
        return variant.plan_name in self.plans and cell.is_whole(self.folder / variant.name)

    @cached_property
    def pieces(self) -> dict[tuple[str, str], tuple[str, Workload]]:
        """For progress: the cells in order, the searches and the healings.

        By the names of variant and cell; by the name of the search or healed variant, and no cell.
        """
        pieces = {}
        for variant, cell in self.order:
            pieces[variant.name, cell.label] = (f"{variant.name}: {cell.label}", cell.work())
        for name in self.searches:
            pieces[name, ""] = f"choosing layers by {name}", Workload(kind=f"search {name}", num_items=1)
        for name, healer in self.healers.items():
            pieces[name, ""] = f"healing {name}", Workload(kind=f"healing {healer.arm.name}", num_items=1)
        return pieces

    @cached_property
    def index(self) -> dict[tuple[str, str], int]:
        """Number of each piece."""
        return {piece: place for place, piece in enumerate(self.pieces)}

    def outline(self) -> Outline:
        """Count the work that is left."""
        left = {
            variant.name: [cell for cell in self.cells if not self.is_known(variant, cell)] for variant in self.variants
        }
        trainings = [name for name in self.healers if left[name]]
        steps = [
            PlannedStep(f"choosing layers by {name}", 1, "search")
            for name, cuts in self.searches.items()
            if any(cut.name not in self.plans for cut in cuts)
        ]
        steps += [PlannedStep(f"healing {name}", 1, "training") for name in trainings]
        for name, cells in left.items():
            done = f"{name}, {len(self.cells) - len(cells)} of {len(self.cells)} cells done"
            steps.append(PlannedStep(done, sum(len(cell.samples) for cell in cells)))
        written = [num_bytes for variant in self.variants if (num_bytes := self._checkpoint_bytes(variant))]
        counts, keeps = self.model.counts, self.settings.checkpoints
        # Counted on the original model, which is a little larger.
        training = max((training_disk(counts, self.healers[name].arm.train) for name in trainings), default=0)
        return Outline(
            steps=tuple(steps),
            checkpoints=len(written) if keeps else 0,
            disk_bytes=sum(written) + training,
            stays_bytes=sum(written) if keeps else 0,
            memory_bytes=counts.in_memory(self.model.dtype) + round(self.model.settings.cache_gib * 2**30),
            folder=self.folder,
            more=(self.model.settings.model, *self.shortfalls()),
        )

    def _checkpoint_bytes(self, variant: StudyVariant) -> int:
        """Bytes of a variant's checkpoint; 0 where none is written."""
        is_healed = any(other.cut == variant.name for other in self.variants)
        if variant.is_uncut or not (self.settings.checkpoints or variant.healing or is_healed):
            return 0
        num_layers = self.model.num_layers
        # Not chosen yet: layers are of about one size.
        last = CutPlan(num_layers=num_layers, removed=tuple(range(num_layers - variant.depth, num_layers)))
        return plan_cut(self.model.source.path, self.plans.get(variant.plan_name, last)).bytes_after


def settings_but_tasks(had: Mapping[str, Any], wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a run that must stay, as its folder has them and as they are wanted now.

    It may take other tasks, and more items; the settings of a task that stays are the same.
    """
    before, now = (
        {f"{task['task']}/{task['readout']}": task for task in settings["tasks"]} for settings in (had, wanted)
    )
    for name in before.keys() & now.keys():
        old, new = before[name]["limit"], now[name]["limit"]
        if old is not None and (new is None or new > old):
            before[name] = {**before[name], "limit": new}
    return (
        {**had, "tasks": {name: task for name, task in before.items() if name in now}},
        {**wanted, "tasks": {name: task for name, task in now.items() if name in before}},
    )


def study_settings_to_keep(
    folder: Path, had: Mapping[str, Any], wanted: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings that a study must keep, as its folder has them and as they are wanted now.

    It may take new tasks, plans, criteria, depths, healing arms and seeds, and other settings for plans and healing
    arms of which no weights or answers are kept: one that failed for want of memory, say.
    """
    if "plans" not in had:  # the run of another verb
        return {**had}, {**wanted}
    before, now = settings_but_tasks(had, wanted)
    # ``last+seam-seed2`` has the run folders of the plan last and of the healing arm seam.
    begun = (file.parent.name for file in folder.glob(f"*/{CONFIG}"))
    parts = {part for name in begun if "+" not in name or is_healing_begun(folder, name) for part in name.split("+")}
    parts |= {part.rsplit("-seed", 1)[0] for part in parts}
    for key in ("plans", "healing"):
        before[key] = {name: settings for name, settings in had.get(key, {}).items() if name in parts}
        now[key] = {name: settings for name, settings in wanted.get(key, {}).items() if name in before[key]}
    for key in ("criteria", "depths", "seeds"):
        before[key] = had.get(key, [])
        now[key] = [entry for entry in wanted.get(key, []) if entry in before[key]]
    return before, now
