"""A model that is described from its files, and loaded only when something must be computed; or a served one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from layercut.engine.base import Engine
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.models.cache import remembered_value
from layercut.models.convert import file_sha256
from layercut.models.loading import LoadedModel, WeightlessModel, load_as_set, load_without_weights
from layercut.models.placement import dtype_as_set, give_back_memory, quantise_weights, stored_bytes
from layercut.models.sources import ModelSource, describe_source, resolve_source
from layercut.models.weights import WeightCounts, weight_counts
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import earlier_plans, files_to_copy, plan_cut, recorded_healings, with_earlier
from layercut.surgery.gguf import gguf_bytes, gguf_file
from layercut.surgery.plan import CutPlan


class ModelHandle:
    """One model of a study."""

    def __init__(
        self, settings: ModelSettings, *, source: ModelSource | None = None, loaded: LoadedModel | None = None
    ) -> None:
        """Find the model's files; nothing is loaded yet. ``loaded`` is the caller's, and outlives ``release``."""
        if ENGINES[settings.engine].is_served:
            raise InputError("a served model can only be evaluated; for this use `engine` vllm, shared or plain.")
        self.settings = settings
        self.source: ModelSource = source or resolve_source(
            settings.model, revision=settings.revision, weights=not ENGINES[settings.engine].runs_gguf
        )
        self.metadata = describe_source(self.source)
        self.num_layers = self.metadata.num_layers
        self._given = loaded

    @cached_property
    def dtype(self) -> str:
        """The settings' dtype, resolved; ``auto`` only where it is the checkpoint's own."""
        return dtype_as_set(self.settings, self.source.path)

    @cached_property
    def loaded(self) -> LoadedModel:
        if self._given is not None:
            return self._given
        model = load_as_set(self.settings, self.source)
        if self.settings.quantize is not None:
            quantise_weights(model.model, self.settings.quantize, self.settings.model)
        return model

    @cached_property
    def weightless(self) -> WeightlessModel:
        options = {name: getattr(self.settings, name) for name in ("dtype", "device")}
        return load_without_weights(self.source, **options)

    def read(self, kind: str, asked: Any, read: Callable[[WeightlessModel], Any]) -> Any:
        """``read(self.weightless)``, remembered, so that a dry run loads no tokenizer for what was counted before."""
        _ = self.dtype  # refuses a device that this machine does not have
        return remembered_value(kind, [self._texts, asked], lambda: read(self.weightless))

    @cached_property
    def _texts(self) -> dict[str, str]:
        """SHA-256 of the files that say how the model reads texts."""
        names = ("config.json", *files_to_copy(self.source.path))
        return {name: file_sha256(self.source.path / name) for name in names}

    @property
    def tokenizer_hash(self) -> str:
        """SHA-256 of its tokenizer.json; empty where it has none."""
        return self._texts.get("tokenizer.json", "")

    @property
    def context_length(self) -> int | None:
        return self.read("contexts", None, lambda model: model.context_length)  # type: ignore[no-any-return]

    @property
    def has_chat_template(self) -> bool:
        return bool(self.read("templates", None, lambda model: model.has_chat_template))

    @property
    def reader(self) -> LoadedModel | WeightlessModel:
        """The reader of texts: the model in memory where the engine runs that one, so that nothing is read twice."""
        return self.weightless if ENGINES[self.settings.engine].reads_weights else self.loaded

    @cached_property
    def engine(self) -> Engine:
        """The engine that the settings name, over it; or over models in the processes of a pool."""
        wanted = self.settings
        if wanted.engine_pool is not None:
            from layercut.engine.ray_pool import RayPool

            alone = wanted.replace(engine_pool=None, dtype=self.dtype)  # what the run's settings say, on any machine
            here = replace(self.source, path=self.source.path.absolute())
            return RayPool(wanted.engine_pool, partial(engine_of, alone, here, self.metadata.model_hash))
        return ENGINES[wanted.engine].make(self)  # type: ignore[no-any-return]

    def release(self) -> None:
        """Let the weights go. What is asked next loads them again."""
        engine = self.__dict__.pop("engine", None)
        if engine is not None and self.settings.engine_pool is None:
            engine.close()
        self.__dict__.pop("loaded", None)
        give_back_memory()

    @cached_property
    def counts(self) -> WeightCounts:
        return weight_counts(self.source.path, self.num_layers, self.metadata.structure)

    @property
    def bytes_in_memory(self) -> int:
        return self.counts.in_memory(self.dtype)

    def size(self, plan: CutPlan) -> dict[str, int]:
        return {"num_parameters": self.num_parameters(plan), "disk_bytes": self.disk_bytes(plan)}

    def num_parameters(self, plan: CutPlan) -> int:
        return plan_cut(self.source.path, plan).parameters_after

    def disk_bytes(self, plan: CutPlan) -> int:
        """Bytes of the weights under a plan, as a checkpoint or the GGUF file that runs stores them, or quantised."""
        whole = plan_cut(self.source.path, plan)
        if self.settings.quantize is not None:
            from layercut.surgery.remove import bypass

            with bypass(self.loaded.model, plan):
                return stored_bytes(self.loaded.model, whole.bytes_after / whole.parameters_after)
        file = gguf_file(self.settings.model) if ENGINES[self.settings.engine].runs_gguf else None
        return whole.bytes_after if file is None else gguf_bytes(file, plan)

    def plan(self, plan: CutPlan | None = None) -> CutPlan:
        """A plan of this model with what this very checkpoint lost before; without one, the model unchanged."""
        if plan is None:
            plan = CutPlan(num_layers=self.num_layers, model=self.settings.model, model_hash=self.metadata.model_hash)
        if plan.vocabulary is not None:
            raise InputError(
                "a plan of tokens is measured on its files: layercut cut MODEL --remove PLAN --out DIR, then DIR."
            )
        return with_earlier(plan, self.source)

    @cached_property
    def earlier_plans(self) -> list[CutPlan]:
        """Plans by which this very checkpoint was cut before, oldest first; empty for a model that is whole."""
        return earlier_plans(self.source.path)

    @property
    def last_cut(self) -> CutPlan:
        return self.earlier_plans[-1] if self.earlier_plans else CutPlan(num_layers=self.num_layers)

    @cached_property
    def healings(self) -> list[dict[str, Any]]:
        """Entries of the healings that made this very checkpoint, oldest first."""
        return recorded_healings(self.source)

    def introduce(self, plan: CutPlan) -> str:
        return f"{self.settings.model}: {plan.describe()}"

    def recorded(self, plan: CutPlan) -> dict[str, Any]:
        return plan.to_dict()

    def describe(self) -> dict[str, Any]:
        """Settings that decide the numbers, with what the commit of a branch and dtype auto stand for."""
        known = {"revision": self.source.revision, "model_hash": self.metadata.model_hash, "dtype": self.dtype}
        return self.settings.identity() | known


class ServedModel:
    """One served model; ``layercut eval`` uses it in place of a ModelHandle."""

    earlier_plans: tuple[CutPlan, ...] = ()  # None are known
    healings: tuple[dict[str, Any], ...] = ()

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings

    @cached_property
    def engine(self) -> Engine:
        return ENGINES[self.settings.engine].make(self)  # type: ignore[no-any-return]

    def plan(self, spec: str | CutPlan | None = None) -> CutPlan:
        """The original model, which is taken as one whole. Raises InputError: layers are to be removed."""
        if spec is not None:
            raise InputError(
                f"`remove` {spec}: layers of a served model cannot be removed; serve what layercut cut writes."
            )
        return CutPlan(num_layers=1, model=self.settings.model)

    def introduce(self, plan: CutPlan) -> str:
        return f"{self.settings.model}: as served at {self.settings.base_url}"

    def size(self, plan: CutPlan) -> dict[str, int]:
        return {}

    def recorded(self, plan: CutPlan) -> None:
        """Nothing is written of a plan: the model may have been cut or not."""

    def describe(self) -> dict[str, Any]:
        return self.settings.identity() | {"revision": None, "model_hash": None}


def open_model_handle(settings: ModelSettings) -> ModelHandle | ServedModel:
    """The model that settings name, in memory or behind a server. Raises InputError as ModelHandle."""
    return ServedModel(settings) if ENGINES[settings.engine].is_served else ModelHandle(settings)


def engine_of(settings: ModelSettings, source: ModelSource, model_hash: str) -> Engine:
    """The engine over a model found in another process or machine. Raises InputError: it is another model here."""
    handle = ModelHandle(settings, source=source if source.path.is_dir() else None)
    if handle.metadata.model_hash != model_hash:
        raise InputError(
            f"{settings.model} is another model on this machine of the pool ({handle.metadata.model_hash}, not "
            f"{model_hash}). Give all machines the same files, or a path that all of them see."
        )
    return handle.engine
