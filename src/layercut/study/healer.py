"""The healing of a study's cuts: each is one ``layercut heal`` with its own folder inside that of the healed cut."""

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
from layercut.healing.data import BUILT_IN, full_test_sets, tasks_to_check
from layercut.healing.generate import answer_prompts
from layercut.healing.outline import IN_FULL, ProcessGroup, check_method
from layercut.healing.prompt_sources import Answering, PromptSource, PromptSpec, prompt_source
from layercut.healing.settings import HealSettings
from layercut.progress import Say
from layercut.runs.directory import ENVIRONMENT
from layercut.runs.healing import CHECKPOINT
from layercut.runs.lock import LOCK
from layercut.runs.settings import CONFIG, settings_hash
from layercut.settings import ModelSettings, TaskSettings
from layercut.study.settings import HealingArm
from layercut.tasks import base_name
from layercut.tasks.base import Task

if TYPE_CHECKING:
    from layercut.healing.heal import Healed

_NOTHING_YET = frozenset({CONFIG, ENVIRONMENT, LOCK, "plan.json", "loss.jsonl"})
"""Files in the folders of a healing before weights or answers of it are kept."""


@dataclass
class Healer:
    """One healing arm of one cut, under one seed."""

    arm: HealingArm
    uncut: ModelSettings  # the teacher
    tasks: Sequence[TaskSettings]  # of the study; training data holds none of their report items
    study_seed: int  # for an arm without a seed of its own
    folder: Path
    answers: Path  # holds a run folder with the original model's answers for each way of asking
    in_full: Sequence[str] = ()  # tasks of whose whole test sets training data holds no item

    def check(self) -> None:
        """Raise InputError or MissingExtra now for what would fail after hours of other work."""
        group = ProcessGroup.of_this_process()
        if group.size > 1:
            raise InputError(
                f"a study runs in one process, and {group.size} were launched; start it without a launcher."
            )
        check_method(self.arm.train, group, read_source(self.arm))
        _ = self.identity

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Settings that decide the healed weights, beside the original model and the removed layers."""
        source, how = read_source(self.arm), self._answering
        settings = self.settings.as_dict()
        del settings["data"]  # files with items that must not be trained on; their tasks name them
        prompts = source.describe()
        if source.records is not None:
            prompts = {"n": len(source.records), "records": settings_hash({"records": source.records})}
        return {
            "settings": settings,
            "prompts": prompts,
            "decoding": how.decoding.as_dict(),
            "max_new_tokens": how.max_new_tokens,
            "system": how.system,
            **how.extra(),
            **({IN_FULL: list(self.in_full)} if self.in_full else {}),
        }

    def heal(self, cut: Path | None, *, console: Console, say: Say) -> Healed:
        """Heal a pruned checkpoint, or train the original model for None; see ``heal_model``."""
        from layercut.healing.heal import heal_model

        source, how, settings = read_source(self.arm), self._answering, self.settings
        if source.records is None and settings.asks_teacher:
            # Generated once for all cuts of the study and all arms that ask the same.
            question = {"prompts": source.describe(), "decoding": how.decoding.as_dict(), "seed": self.seed}
            name = settings_hash({**question, "max_new_tokens": how.max_new_tokens, **how.extra()})
            out, teacher = self.answers / name, ModelHandle(self.uncut)
            records = answer_prompts(
                teacher, source, how, remove=None, out=out, seed=self.seed, console=console, say=say
            )
            source = replace(source, records=records)
        healed = heal_model(
            self.uncut if cut is None else self.uncut.replace(model=str(cut), revision=None),
            self.uncut,
            source,
            settings,
            how,
            out=self.folder,
            console=console,
            say=say,
            is_control=cut is None,
            in_full=tuple(self.in_full),
        )
        assert healed is not None, "a study runs in one process"
        return healed

    @property
    def seed(self) -> int:
        """Random seed of its answers and training."""
        return self.study_seed if self.arm.seed is None else self.arm.seed

    @property
    def settings(self) -> HealSettings:
        """Settings of ``layercut heal``."""
        return HealSettings(
            train=self.arm.train.replace(seed=self.seed),
            filters=self.arm.filters,
            responses=self.arm.responses,
            save_dtype=self.arm.save_dtype,
            decontaminate=_checked_tasks(self.arm, self.tasks),
            data=_data_of(self.tasks),
        )

    @property
    def _answering(self) -> Answering:
        how = self.arm.with_its_preset
        return how.replace(max_new_tokens=how.max_new_tokens or read_source(self.arm).max_new_tokens)

    @property
    def checkpoint(self) -> Path:
        """Of the healed model."""
        return self.folder / CHECKPOINT

    @cached_property
    def engine(self) -> Engine:
        """Engine of the healed model, loaded on first use."""
        return ModelHandle(self.uncut.replace(model=str(self.checkpoint), revision=None)).engine

    def release(self) -> None:
        """Let the healed model go."""
        vars(self).pop("engine", None)


def healing_folder(study: Path, name: str) -> Path:
    """The run folder of the healing of a variant ``CUT+ARM``."""
    cut, _, arm = name.partition("+")
    return study / cut / f"heal-{arm}"


def is_begun(study: Path, name: str) -> bool:
    """True if anything is lost with the run folder and the healing folder of a healed variant."""
    files = (file for folder in (study / name, healing_folder(study, name)) for file in folder.rglob("*"))
    return any(file.name not in _NOTHING_YET for file in files if not file.is_dir())


def tasks_in_full(
    arms: Sequence[HealingArm],
    tasks: Sequence[TaskSettings],
    loaded: Mapping[str, Task],
    begun: Mapping[str, Any] | None,
) -> dict[str, tuple[str, ...]]:
    """By arm, the tasks of whose whole test sets its training data must hold no item; see ``full_test_sets``.

    Args:
        loaded: tasks of the study by base name, so that none is read twice.
        begun: settings of the study as it was begun, which then holds.
    """
    if begun is not None:  # layercut did not always report whole test sets
        return {arm.name: tuple(begun.get("healing", {}).get(arm.name, {}).get(IN_FULL, ())) for arm in arms}
    own = {arm.name: {base_name(name): name for name in _checked_tasks(arm, tasks)} for arm in arms}
    others = {base: name for names in own.values() for base, name in names.items() if base not in loaded}
    known = {**loaded, **tasks_to_check([*others.values()], _data_of(tasks))}
    return {
        arm.name: full_test_sets({base: known[base] for base in sorted(own[arm.name])}, read_source(arm))
        for arm in arms
    }


def read_source(arm: HealingArm) -> PromptSource:
    """The prompts of a healing arm. Raises InputError: they cannot be read, or are not of the kind that it needs."""
    try:
        source = _read_prompts(arm.prompts, arm.with_its_preset.system)
    except InputError as error:
        raise InputError(f"healing arm {arm.name}: {error}") from error
    if arm.responses == "original" and source.records is not None:
        raise InputError(
            f"healing arm {arm.name}: {arm.prompts[0].source} holds a model's answers, not original ones; give the "
            "file of prompts."
        )
    return source


@lru_cache(maxsize=8)
def _read_prompts(prompts: tuple[PromptSpec, ...], system: str | None) -> PromptSource:
    return prompt_source(prompts, system=system)


def _checked_tasks(arm: HealingArm, tasks: Sequence[TaskSettings]) -> tuple[str, ...]:
    """Names of the tasks whose items are looked for in training data."""
    return tuple(sorted({*(task.task for task in tasks if task.task not in BUILT_IN), *arm.decontaminate}))


def _data_of(tasks: Sequence[TaskSettings]) -> dict[str, str]:
    """Local files of tasks, by name."""
    return {task.task: task.data for task in tasks if task.data is not None}
