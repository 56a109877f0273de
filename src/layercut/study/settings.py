"""Settings of a study: what stands in the YAML file given to ``layercut run``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from layercut.engine.pool_where import Where
from layercut.errors import InputError, unknown

Built = TypeVar("Built")

ENGINES = ("shared", "plain")
"""What runs the model; the first is the reference."""

UNCUT = "uncut"
"""Name of the uncut model's folder in a study; no plan may take it."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """One task and how it is read out."""

    task: str
    """Name of the task."""
    readouts: tuple[str, ...] | None = None
    """What to read out (rank, gold, token, short, chain); what the task reads out by itself if left out."""
    limit: int | None = None
    """Only the first so many report items."""
    data: str | None = None
    """A local file or folder in place of the hub data set."""
    max_new_tokens: int | None = None
    """Longest answer, for tasks where it can be chosen; the task's own number if left out."""

    def __post_init__(self) -> None:
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise InputError(f"task {self.task}: max_new_tokens {self.max_new_tokens} is too small; write 1 or more.")
        if self.limit is not None and (not isinstance(self.limit, int) or self.limit < 1):
            raise InputError(
                f"task {self.task}: limit {self.limit!r} is not a number of items; write 1 or more, or leave it out."
            )
        if self.readouts is not None:
            object.__setattr__(self, "readouts", tuple(self.readouts))


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Which model, and how it is loaded."""

    model: str
    """Hugging Face id, local folder, .gguf file, or bundled:smollm2-135m."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: str = "auto"
    """auto (the checkpoint's own, on a CPU float32), float32, bfloat16 or float16."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    device_map: str | None = None
    """Spread a large model over devices, as in transformers: auto, balanced, ..."""
    trust_remote_code: bool = False
    """Run model code that travels with the checkpoint."""
    batch_size: int = 32
    """Sequences run at once; halved when memory runs out."""
    engine: str = ENGINES[0]
    """plain, or shared: what plans have in common is computed once."""
    cache_gib: float = 2.0
    """Memory for keys and values that plans share, in GiB; only the shared engine uses it."""
    engine_pool: str | None = None
    """local:N or ray://HOST:PORT: engines in many processes, each with a model of its own."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size {self.batch_size} is too small; write 1 or more.")
        if self.engine not in ENGINES:
            raise unknown("engine", self.engine, ENGINES)
        if self.engine_pool is not None:
            Where.parse(self.engine_pool)
        if not self.cache_gib > 0:
            raise InputError(f"cache_gib {self.cache_gib} is too small; write a number above 0, such as 2.")

    def identity(self) -> dict[str, Any]:
        """What decides the numbers, for a run's settings.

        How much memory may be used decides none, nor by how many processes. The plain engine goes without saying, so
        that a run that was begun before there was another goes on.
        """
        settings = asdict(self)
        del settings["cache_gib"], settings["engine_pool"]
        if self.engine == "plain":
            del settings["engine"]
        return settings


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How answers are drawn; see layercut.engine.base.Decoding."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Everything a study is made of. Model, plans and tasks have no defaults."""

    model: ModelSettings
    plans: Mapping[str, str]
    """Name to plan: a layer list (3,8,21-24), criterion:N (reverse:3), or the path of a plan.json."""
    tasks: tuple[TaskSettings, ...]
    out: Path
    """The run folder."""
    seed: int = 0
    """Root of all chance: random plans, sampled answers, bootstrap."""
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    checkpoints: bool = True
    """Write each cut model to disk as well."""

    def __post_init__(self) -> None:
        if not self.tasks:
            raise InputError("the study names no tasks; list at least one under tasks.")
        if UNCUT in self.plans:
            raise InputError(
                f"a plan is called {UNCUT!r}, which is the name of the model without a cut; call it otherwise."
            )
        for name in self.plans:
            if not name or any(c in name for c in "/\\") or name.startswith("."):
                raise InputError(f"plan name {name!r} cannot be a folder name; use letters, digits, '-' and '_'.")
        named = [task.task for task in self.tasks]
        for name in named:
            if named.count(name) > 1:
                raise InputError(f"the task {name} is listed twice; give its readouts in one entry.")


def load_study(path: Path) -> StudySettings:
    """Read a study from YAML.

    Raises:
        InputError: no such file, not YAML, an unknown key (with the nearest right one), or a value of a wrong kind.
    """
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: no study can be read here ({error.strerror}); give a YAML file such as examples/quickstart.yaml."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" (line {line + 1})" if line is not None else ""
        raise InputError(
            f"{path}: not a YAML file{where}: {getattr(error, 'problem', None) or 'it cannot be parsed'}."
        ) from error
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: a study is a set of keys (model, plans, tasks, out, ...), "
            f"but this file holds {type(data).__name__}."
        )
    try:
        return study_from_dict(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def study_from_dict(data: Mapping[str, Any]) -> StudySettings:
    """Settings from plain data, as in the YAML file; the model's own settings stand beside the study's."""
    model_keys = _names(ModelSettings)
    _check_keys(data, {*model_keys, *_names(StudySettings)})
    for key in ("model", "plans", "tasks", "out"):
        if data.get(key) in (None, "", [], {}):
            raise InputError(f"the key {key} is missing; every study needs model, plans, tasks and out.")
    _expect(data, "model", str, "the name or path of a model")
    rest = {key: value for key, value in data.items() if key not in model_keys}
    rest["model"] = _build(ModelSettings, {key: data[key] for key in data if key in model_keys})
    rest["plans"] = _plans(data["plans"])
    rest["tasks"] = tuple(_task(entry) for entry in _list(data["tasks"], "tasks"))
    rest["out"] = Path(str(data["out"]))
    if "decoding" in data:
        _expect(data, "decoding", dict, "keys and values (temperature, top_p, top_k)")
        rest["decoding"] = _build(DecodingSettings, data["decoding"])
    return _build(StudySettings, rest)


def _plans(value: Any) -> dict[str, str]:
    """Plans by name, or a plain list, in which case each plan is named after itself."""
    if isinstance(value, dict):
        return {str(name): str(spec) for name, spec in value.items()}
    specs = [str(spec) for spec in _list(value, "plans")]
    return {spec.replace(":", "-").replace("/", "-"): spec for spec in specs}


def _task(entry: Any) -> TaskSettings:
    if isinstance(entry, str):
        return TaskSettings(task=entry)
    if not isinstance(entry, dict) or "task" not in entry:
        raise InputError(f"{entry!r} is no task; write its name, or keys such as task, readouts, limit, data.")
    return _build(TaskSettings, entry)


def _build(kind: type[Built], data: Mapping[str, Any]) -> Built:
    """A settings object from a mapping whose keys are checked, values coerced only where nothing is lost."""
    _check_keys(data, _names(kind))
    values: dict[str, Any] = {}
    for item in dataclasses.fields(cast("Any", kind)):
        if item.name in data:
            values[item.name] = _coerce(item.name, data[item.name], str(item.type))
    return kind(**values)


def _coerce(name: str, value: Any, kind: str) -> Any:
    wanted = {"int": int, "float": (int, float), "bool": bool, "str": str}
    base = kind.removesuffix(" | None")
    if value is None and kind.endswith("| None"):
        return None
    if base in wanted:
        expected = wanted[base]
        if not isinstance(value, expected) or (isinstance(value, bool) and base != "bool"):  # type: ignore[arg-type]
            raise InputError(f"{name}: {value!r} is not of the kind {base}.")
    if base == "tuple[str, ...]":
        return tuple(str(part) for part in _list(value, name))
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{name}: {value!r} is not a list; write one entry a line, each after a dash.")
    return list(value)


def _expect(data: Mapping[str, Any], key: str, kind: type, what: str) -> None:
    if not isinstance(data[key], kind):
        raise InputError(f"{key}: {data[key]!r} is not {what}.")


def _names(kind: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(kind)]


def _check_keys(data: Mapping[str, Any], known: Any) -> None:
    for key in data:
        if key not in known:
            raise unknown("key", str(key), known)
