"""A model behind a server, for a study that only evaluates."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from layercut.engine.handle import ModelHandle
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan

if TYPE_CHECKING:
    from layercut.engine.base import Engine


class ServedModel:
    """One served model; ``layercut eval`` uses it in place of a ModelHandle."""

    earlier_plans: tuple[CutPlan, ...] = ()  # None are known
    healings: tuple[dict[str, Any], ...] = ()

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        made: Engine = ENGINES[self.settings.engine].make(self)
        return made

    def plan(self, spec: str | CutPlan | None = None) -> CutPlan:
        """The original model, which is taken as one whole. Raises InputError: layers are to be removed."""
        if spec is not None:
            raise InputError(
                f"`remove` {spec}: layers of a served model cannot be removed. Cut the checkpoint with layercut cut "
                "and serve that, or use `engine` vllm and the model itself."
            )
        return CutPlan(num_layers=1, model=self.settings.model)

    def introduce(self, plan: CutPlan) -> str:
        return f"{self.settings.model}: as served at {self.settings.base_url}"

    def size(self, plan: CutPlan) -> dict[str, int]:
        """Nothing is known."""
        return {}

    def recorded(self, plan: CutPlan) -> None:
        """Nothing is written of a plan: the model may have been cut or not."""

    def describe(self) -> dict[str, Any]:
        """Settings that decide the numbers, for a run's settings, as far as it is known."""
        return self.settings.identity() | {"revision": None, "model_hash": None}


def handle_of(settings: ModelSettings) -> ModelHandle | ServedModel:
    """The model that settings name, in memory or behind a server. Raises InputError as ModelHandle."""
    return ServedModel(settings) if ENGINES[settings.engine].is_served else ModelHandle(settings)
