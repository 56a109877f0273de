"""Settings of a study: criteria x depths x healing arms x tasks x readouts x seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from layercut.base_settings import Names, Seed, Settings
from layercut.errors import InputError
from layercut.healing.prompt_sources import Answering, PromptSpec, answering_under
from layercut.healing.settings import METHODS, ArmSettings, FilterSettings, TrainSettings
from layercut.runs.study import UNCUT
from layercut.selection import CriterionRow, criterion_row
from layercut.selection.base import SearchSettings
from layercut.settings import (
    GENERATED,
    CalibrationSettings,
    DecodingSettings,
    Depth,
    ModelSettings,
    TaskSettings,
)

NO_HEALING = "none"  # the arm that every cut has by default
LONGEST_NAME = 100
"""Bytes. The folder of a healed plan has the names of the plan, the arm and the seed, and a system allows 255."""
RESERVED = (UNCUT, "searches", "answers", "failures")  # folders of a study that no plan may have


class CriterionSettings(SearchSettings):
    """One way of choosing layers, at every depth of the study."""

    criterion: str = Field(description="Name of a criterion, or my.module:function.")
    name: str = Field(
        "", description="Prefix of its plans' names, before the number of layers; the criterion's name if left out."
    )
    objective: tuple[TaskSettings, ...] = Field(
        (),
        description="Tasks whose selection items score a plan, for criteria that use task scores; 100 items each by "
        "default.",
    )
    calibration: CalibrationSettings = Field(
        CalibrationSettings(), description="Calibration text, for criteria that read text."
    )
    protect: str | None = Field(None, description="Layers that must stay: first:4,last:2,0,7-9, or none.")
    settings: Mapping[str, Any] = Field({}, description="Settings of the criterion itself, such as search: one_shot.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        row = self.row
        if not self.name:
            self.__dict__["name"] = re.sub(r"[^\w.-]+", "-", self.criterion)
        check_folder_name(self.name, "criterion")
        if row.needs_objective and not self.objective:
            raise InputError(
                f"criterion {self.name} chooses layers by task scores; give it some, such as objective: [arithmetic]."
            )
        if not row.needs_model and (self.objective or self.protect):
            raise InputError(
                f"criterion {self.name} takes layers by their place, so objective and protect have no effect; leave "
                "them out."
            )
        return self

    @property
    def row(self) -> CriterionRow:
        return criterion_row(self.criterion)

    @property
    def cost(self) -> int:
        """0: needs no model, 1: runs the model on text, 2: answers tasks."""
        return 2 if self.row.needs_objective or self.objective else int(self.row.needs_model)

    def draws(self, decoding: DecodingSettings) -> bool:
        """True if a seed matters: random layers, generated text, sampled answers."""
        made_text = self.row.needs_text and self.calibration.source == GENERATED
        sampled = self.cost == 2 and decoding.temperature > 0
        return self.row.is_drawn or made_text or sampled


class HealingArm(ArmSettings, Answering):
    """One way of healing the cuts, as ``layercut heal`` does it."""

    name: str = Field(description="Name of the arm and part of its folders' names.")
    prompts: tuple[PromptSpec, ...] = Field(description="One source of prompts or several.")
    train: TrainSettings = TrainSettings()
    filters: FilterSettings = FilterSettings()
    preset: str | None = Field(None, description="paper: answers and training as in arXiv:2602.01997.")
    plans: Names = Field(
        (), description="Plans or criteria that are healed, all of them if left out; uncut trains the original model."
    )
    seed: Seed | None = Field(
        None,
        description="Random seed of answers and training. If left out, the arm is repeated for each seed of the study.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_folder_name(self.name, "healing arm")
        if self.name == NO_HEALING:
            raise InputError(f"a healing arm is called {NO_HEALING!r}, which every plan has anyway; call it otherwise.")
        if not self.prompts:
            raise InputError(f"healing arm {self.name} has no prompts; give a file, or task:NAME for selection items.")
        if not METHODS[self.train.method].repairs:
            self.train.batches()  # a study runs in one process
        return self

    @property
    def with_its_preset(self) -> Answering:
        """Settings of the answers to prompts."""
        return answering_under(self.preset, **{name: getattr(self, name) for name in Answering.model_fields})


class StudySettings(Settings):
    """All settings of a study. Model and tasks have no defaults; plans, criteria or both must be given."""

    model: ModelSettings
    tasks: tuple[TaskSettings, ...]
    out: Path = Field(description="The run folder.")
    plans: Mapping[str, str] = Field(
        {}, description="Name to plan: a layer list (3,8,21-24), reverse:N or random:N, or the path of a plan.json."
    )
    criteria: tuple[CriterionSettings, ...] = Field((), description="Criteria, each used at every depth.")
    depths: tuple[Depth, ...] = ()
    healing: tuple[HealingArm, ...] = Field((), description="Healing arms, in addition to the cut without healing.")
    seeds: tuple[Seed, ...] = Field((0,), description="Random seeds; the first one is the main seed.")
    """They decide generated items, random plans, generated text, sampled answers, healing and the bootstrap. Under each
    further seed only random plans, sampled answers and healing arms are drawn anew; the items stay.
    """
    decoding: DecodingSettings = DecodingSettings()
    checkpoints: bool = Field(
        True,
        description="Keep each cut and healed model on disk. Otherwise those that healing needs are deleted after "
        "their evaluation.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.tasks:
            raise InputError("the study names no tasks; list at least one under tasks.")
        if not self.plans and not self.criteria and not any(UNCUT in arm.plans for arm in self.healing):
            raise InputError("the study cuts nothing; give plans, or criteria and depths.")
        if bool(self.criteria) != bool(self.depths):
            present, missing = ("criteria", "depths") if self.criteria else ("depths", "criteria")
            raise InputError(
                f"the study gives {present} without {missing}; depths say how many layers criteria choose."
            )
        if UNCUT in self.plans:
            raise InputError(
                f"a plan is called {UNCUT!r}, which is the name of the model without a cut; call it otherwise."
            )
        for name in self.plans:
            check_folder_name(name, "plan")
        if not self.seeds:
            raise InputError("seeds is an empty list; write at least one, such as [0].")
        for kind, names, what_to_do in (
            ("task", [task.task for task in self.tasks], "give its readouts in one entry"),
            ("criterion", [criterion.name for criterion in self.criteria], "give one of them another name"),
            ("healing arm", [arm.name for arm in self.healing], "give one of them another name"),
            ("seed", [str(seed) for seed in self.seeds], "write each once"),
        ):
            if twice := [name for name in names if names.count(name) > 1]:
                raise InputError(f"the {kind} {twice[0]} is listed twice; {what_to_do}.")
        known = {UNCUT, *self.plans, *(criterion.name for criterion in self.criteria)}
        for arm in self.healing:
            for name in arm.plans:
                if name not in known:
                    raise InputError(
                        f"healing arm {arm.name} is for {name}, which is no plan or criterion of this study. "
                        f"Known: {', '.join(sorted(known))}."
                    )
        return self

    @property
    def seed(self) -> int:
        return self.seeds[0]


def check_folder_name(name: str, kind: str) -> None:
    """Refuse text that cannot be a folder's name, or part of one, with an InputError."""
    if not name or any(c in name for c in "/\\+<>") or name.startswith(".") or not name.isprintable():
        raise InputError(f"{kind} name {name[:80]!r} cannot be a folder name; use letters, digits, '-' and '_'.")
    if len(name.encode()) > LONGEST_NAME:
        raise InputError(
            f"{kind} name {name[:20]!r}... has {len(name)} letters, and folders are named after it; use at most "
            f"{LONGEST_NAME}, such as: plans: {{short: ...}}."
        )
    if name in RESERVED:
        raise InputError(f"a {kind} is called {name!r}, which a study uses for itself; call it otherwise.")
