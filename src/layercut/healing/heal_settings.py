"""Settings of one healing: the objective, the answers and the filters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from layercut.base_settings import Names, Settings, one_of
from layercut.errors import InputError
from layercut.healing.filters import FilterSettings
from layercut.healing.settings import SAVED_AS, TrainSettings

RESPONSES = ("self", "original")
"""Whose answers are trained on: the teacher's own, or those that stand beside the prompts in their data set."""


class ArmSettings(Settings):
    """What a single healing and an arm of a study both say, beside models, prompts, training and filters."""

    responses: Annotated[str, one_of(RESPONSES)] = Field(
        RESPONSES[0], description="self: the teacher's own answers; original: those that came with the prompts."
    )
    match_tokens: bool = Field(
        False, description="As many answer tokens as the smaller of the two arms has on the same prompts."
    )
    decontaminate: Names = Field(
        (),
        description="Tasks beside the built-in ones, and those with data, whose report items must not be trained on.",
    )
    save_dtype: Annotated[str, one_of(SAVED_AS)] = Field(
        "auto",
        description="Of the healed weights: float32, bfloat16, float16; auto: as the pruned checkpoint, or float32 "
        "where rounding costs over 2 % of what healing gained.",
    )


class HealSettings(ArmSettings):
    """Everything a healing is made of, beside the models and prompts."""

    keep_adapter: bool = Field(False, description="Do not fold the adapter in.")
    train: TrainSettings = TrainSettings()
    filters: FilterSettings = FilterSettings()
    data: Mapping[str, str] = Field({}, description="Local data of the tasks to decontaminate from.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.keep_adapter and self.train.method not in ("lora", "qlora"):
            raise InputError(f"{self.train.method} makes no adapter, so there is none to keep; leave it out.")
        if self.keep_adapter and self.save_dtype != "auto":
            raise InputError("an adapter that is kept is written as it was trained; leave out save_dtype.")
        return self

    def describe(self) -> dict[str, Any]:
        """What decides the result, for a run's settings. What came later is left out where it is the default, so that a
        run that an older layercut began goes on."""
        return {name: value for name, value in self.as_dict().items() if (name, value) != ("save_dtype", "auto")}
