"""Settings of one healing: what is learnt, from which answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from layercut.errors import InputError, unknown
from layercut.healing.filters import FilterSettings
from layercut.healing.settings import SAVED_AS, TrainSettings

RESPONSES = ("self", "original")
"""Whose answers are learnt: the teacher's own, or those that stand beside the prompts in their data set."""


@dataclass(frozen=True, kw_only=True)
class HealSettings:
    """Everything a healing is made of, beside the models and prompts."""

    train: TrainSettings = field(default_factory=TrainSettings)
    filters: FilterSettings = field(default_factory=FilterSettings)
    responses: str = RESPONSES[0]
    match_tokens: bool = False
    """Learn from as many answer tokens as the smaller of the two arms has on the same prompts."""
    decontaminate: tuple[str, ...] = ()
    """Tasks beside the built-in ones whose report items are looked for."""
    data: Mapping[str, str] = field(default_factory=dict)
    """Local data of those tasks."""
    keep_adapter: bool = False
    """Leave the adapter a PEFT adapter."""
    save_dtype: str = "auto"
    """Of the healed weights: float32, bfloat16, float16, or auto: that of the cut checkpoint, and float32 where
    rounding to it would take more than 2 % of what healing gained."""

    def __post_init__(self) -> None:
        if self.responses not in RESPONSES:
            raise unknown("responses", self.responses, RESPONSES)
        if self.keep_adapter and self.train.method not in ("lora", "qlora"):
            raise InputError(f"{self.train.method} makes no adapter, so there is none to keep; leave it out.")
        if self.save_dtype not in SAVED_AS:
            raise unknown("dtype", self.save_dtype, SAVED_AS)
        if self.keep_adapter and self.save_dtype != "auto":
            raise InputError("an adapter that is kept is written as it was trained; leave out save_dtype.")

    def describe(self) -> dict[str, Any]:
        """What decides the result, for a run's settings. What came later is left out where it is the default, so that a
        run that an older layercut began goes on."""
        shared = {**asdict(self), "data": dict(self.data)}
        return {name: value for name, value in shared.items() if (name, value) != ("save_dtype", "auto")}
