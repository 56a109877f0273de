"""The healing of a study's cuts: each is one ``layercut heal`` with its own folder inside that of the healed cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from layercut.settings import ModelSettings, TaskSettings
from layercut.study.settings import HealingArm
from layercut.surgery.checkpoint import recorded_plans_of

if TYPE_CHECKING:
    from layercut.healing.heal import Healed

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
