"""The variants of a study, in order: the original model, cuts, and cuts healed, each under one seed.

Each healing is one ``layercut heal`` with its own folder inside that of the healed cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from layercut.engine.base import Engine
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.data import BUILT_IN
from layercut.healing.generate import answer_prompts
from layercut.healing.outline import ProcessGroup, check_method
from layercut.healing.prompt_sources import PromptSource, prompt_source
from layercut.healing.settings import ArmSettings, HealSettings
from layercut.progress import Say
from layercut.runs.directory import ENVIRONMENT
from layercut.runs.healing import CHECKPOINT
from layercut.runs.lock import LOCK
from layercut.runs.settings import CONFIG, settings_hash
from layercut.runs.study import UNCUT
from layercut.settings import ModelSettings, TaskSettings
from layercut.study.settings import CriterionSettings, HealingArm, StudySettings
from layercut.surgery.checkpoint import recorded_plans_of
from layercut.surgery.plan import CutPlan
from layercut.tasks.cells import Cell

if TYPE_CHECKING:
    from layercut.healing.heal import Healed

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


_NOTHING_YET = frozenset({CONFIG, ENVIRONMENT, LOCK, "plan.json", "loss.jsonl"})
"""Files in the folders of a healing before weights or answers of it are kept."""
_read_prompts = lru_cache(maxsize=8)(prompt_source)  # variants of one arm read the same


class Healer:
    """One healing arm of one cut, under one seed. Raises InputError: the arm's prompts cannot be read."""

    def __init__(
        self, arm: HealingArm, study: Path, name: str, uncut: ModelSettings, tasks: Sequence[TaskSettings], seed: int
    ) -> None:
        """Make the variant ``name`` of a study, with ``uncut`` as the teacher, without report items of ``tasks``."""
        self.arm, self.uncut, self.folder = arm, uncut, healing_folder(study, name)
        self.answers = study / "answers"  # the original model's, for each way of asking
        self.seed = seed if arm.seed is None else arm.seed
        self.source, how = read_source(arm), arm.with_its_preset
        self.how = how.replace(max_new_tokens=how.max_new_tokens or self.source.max_new_tokens)
        shared = {name: getattr(arm, name) for name in ArmSettings.model_fields}
        named = [task.task for task in tasks if task.task not in BUILT_IN]
        self.settings = HealSettings(
            train=arm.train.replace(seed=self.seed),
            filters=arm.filters,
            data={task.task: task.data for task in tasks if task.data is not None},
            **{**shared, "decontaminate": tuple(sorted({*named, *arm.decontaminate}))},
        )

    def check(self) -> None:
        """Raise InputError or MissingExtra now for what would fail after hours of other work."""
        if (group := ProcessGroup.of_this_process()).size > 1:
            raise InputError(
                f"a study runs in one process, and {group.size} were launched; start it without a launcher."
            )
        check_method(self.arm.train, group, self.source)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Settings that decide the healed weights, beside the original model and the removed layers."""
        settings, records = self.settings.as_dict(), self.source.records
        del settings["data"]  # files with items that must not be trained on; their tasks name them
        prompts = self.source.describe()
        if records is not None:
            prompts = {"n": len(records), "records": settings_hash({"records": records})}
        return {
            "settings": settings,
            "prompts": prompts,
            "decoding": self.how.decoding.as_dict(),
            "max_new_tokens": self.how.max_new_tokens,
            "system": self.how.system,
        }

    def heal(self, cut: Path | None, *, console: Console, say: Say) -> Healed:
        """Heal a pruned checkpoint, or train the original model for None; see ``heal_model``."""
        from layercut.healing.heal import heal_model

        source, how = self.source, self.how
        if source.records is None and self.settings.asks_teacher:
            # Generated once for all cuts of the study and all arms that ask the same.
            question = {"prompts": source.describe(), "decoding": how.decoding.as_dict(), "seed": self.seed}
            name = settings_hash({**question, "max_new_tokens": how.max_new_tokens})
            records = answer_prompts(
                *(ModelHandle(self.uncut), source, how),
                remove=None,
                out=self.answers / name,
                seed=self.seed,
                console=console,
                say=say,
            )
            source = replace(source, records=records)
        healed = heal_model(
            self.uncut if cut is None else self.uncut.replace(model=str(cut), revision=None),
            self.uncut,
            source,
            self.settings,
            how,
            out=self.folder,
            console=console,
            say=say,
            is_control=cut is None,
        )
        assert healed is not None, "a study runs in one process"
        return healed

    @property
    def checkpoint(self) -> Path:
        return self.folder / CHECKPOINT

    def last_entry(self) -> Mapping[str, Any] | None:
        """The last entry on healing in the checkpoint's plan.json; None without one."""
        entries = plans[-1].get("healing") if (plans := recorded_plans_of(self.checkpoint)) else None
        return entries[-1] if entries else None

    @cached_property
    def engine(self) -> Engine:
        """Engine of the healed model, loaded on first use."""
        return ModelHandle(self.uncut.replace(model=str(self.checkpoint), revision=None)).engine

    def release(self) -> None:
        vars(self).pop("engine", None)


def healing_folder(study: Path, name: str) -> Path:
    """The run folder of the healing of a variant ``CUT+ARM``."""
    cut, _, arm = name.partition("+")
    return study / cut / f"heal-{arm}"


def is_healing_begun(study: Path, name: str) -> bool:
    """True if anything is lost with the run folder and the healing folder of a healed variant."""
    files = (file for folder in (study / name, healing_folder(study, name)) for file in folder.rglob("*"))
    return any(file.name not in _NOTHING_YET for file in files if not file.is_dir())


def read_source(arm: HealingArm) -> PromptSource:
    """The prompts of a healing arm. Raises InputError: they cannot be read, or are not of the kind that it needs."""
    try:
        source = _read_prompts(arm.prompts, system=arm.with_its_preset.system)
        if arm.responses == "original" and source.records is not None:
            name = arm.prompts[0].source
            raise InputError(f"{name} holds a model's answers, not original ones; give the file of prompts.")
    except InputError as error:
        raise InputError(f"healing arm {arm.name}: {error}") from error
    return source
