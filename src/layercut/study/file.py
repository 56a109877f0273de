"""A study from YAML: the file that ``layercut run`` takes, checked key by key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from layercut.errors import InputError, first_line, unknown_name
from layercut.healing.prompt_sources import PREFIX, PromptSpec, check_prompts, with_preset
from layercut.healing.settings import FilterSettings, TrainSettings
from layercut.runs.json_text import load_yaml
from layercut.settings import CalibrationSettings, DecodingSettings, Depth, ModelSettings, TaskSettings
from layercut.study.settings import CriterionSettings, HealingArm, StudySettings
from layercut.tasks import check_task_name
from layercut.tasks.suites import SUITE, check_tasks, suite_named, with_local_data

_NO_TASK = "{} is no task; write its name, or keys such as task, readouts, limit, data."
_OF_PROMPTS = tuple(name for name in PromptSpec.model_fields if name != "source")
"""Keys of a healing arm that each of its sources may have as well."""


class StudyLoader(yaml.SafeLoader):
    """Reads 1e-3 as a number, as YAML 1.2 does; PyYAML wants 1.0e-3. Without a minus it may be a commit: 12e4567."""


StudyLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[0-9]+[eE]-[0-9]+$"), list("0123456789"))


def read_study_file(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises InputError: no such file, or other text than YAML."""
    try:
        data = load_yaml(path, StudyLoader)
    except OSError as error:
        raise InputError(
            f"{path}: no study can be read here ({error.strerror}); give a YAML file such as examples/quickstart.yaml."
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not a YAML file that can be used: {first_line(error)}.") from error
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: a study is a set of keys (model, plans, tasks, out, ...), "
            f"but this file holds {type(data).__name__}."
        )
    return data


def study_from_dict(data: Mapping[str, Any]) -> StudySettings:
    """Settings from plain data, as in the YAML file; the model's own settings are keys beside the study's."""
    more = ("seed", "data_dir")
    _check_keys(data, {*ModelSettings.model_fields, *StudySettings.model_fields, *more})
    for key, others in (("model", ()), ("tasks", ()), ("out", ()), ("plans", ("criteria", "healing"))):
        if all(data.get(name) in (None, "", [], {}) for name in (key, *others)):
            raise InputError(
                f"the key {key} is missing; every study needs a model, plans, criteria or healing, tasks, and out."
            )
    keys = {key: value for key, value in data.items() if value is not None}
    _expect(keys["model"], "model", str, "the name or path of a model")
    model = ModelSettings(**{key: keys[key] for key in ModelSettings.model_fields if key in keys})
    rest: dict[str, Any] = {"model": model, "tasks": _tasks(keys), "out": Path(str(data["out"]))}
    rest |= _read({key: value for key, value in keys.items() if key in StudySettings.model_fields and key not in rest})
    if "data_dir" in keys:
        rest = _with_folder(rest, Path(str(keys["data_dir"])))
    if "seed" in keys:
        if "seeds" in keys:
            raise InputError("the study gives seed and seeds; write one of the two.")
        rest["seeds"] = (keys["seed"],)
    study = StudySettings(**rest)
    # Unknown tasks, readouts and prompts are refused now; no model is read.
    check_tasks((*study.tasks, *(task for criterion in study.criteria for task in criterion.objective)))
    for arm in study.healing:
        check_prompts(arm.prompts)
        check_tasks(TaskSettings(task=name) for name in arm.decontaminate)
    return study


def _tasks(keys: Mapping[str, Any]) -> tuple[TaskSettings, ...]:
    """The listed tasks, those of a suite (``suite:NAME``) in its place, but for those that are listed themselves."""
    entries = [_named(entry, "task", _NO_TASK) for entry in _list(keys.get("tasks", []), "tasks")]
    names = [str(entry["task"]) for entry in entries]
    tasks: list[TaskSettings] = []
    for name, entry in zip(names, entries, strict=True):
        if not name.startswith(SUITE):
            tasks.append(_task(entry))
            continue
        _check_keys(entry, ("task", "limit"))
        of_suite = suite_named(name.removeprefix(SUITE), limit=entry.get("limit"))
        tasks += [task for task in of_suite if task.task not in names]
    return tuple(tasks)


def _with_folder(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Local data from a folder for all tasks of a study, also those of searches and prompts, that name none."""

    def served(tasks: tuple[TaskSettings, ...]) -> tuple[TaskSettings, ...]:
        local = with_local_data(tasks, {}, folder)
        return tuple(task if task.data else other for task, other in zip(tasks, local, strict=True))

    def read(spec: PromptSpec) -> PromptSpec:
        if spec.data or not spec.source.startswith(PREFIX):
            return spec
        (task,) = served((TaskSettings(task=spec.source.removeprefix(PREFIX)),))
        return spec.replace(data=task.data) if task.data else spec

    return {
        **settings,
        "tasks": served(settings["tasks"]),
        "criteria": tuple(
            criterion.replace(objective=served(criterion.objective)) if criterion.objective else criterion
            for criterion in settings.get("criteria", ())
        ),
        "healing": tuple(arm.replace(prompts=tuple(map(read, arm.prompts))) for arm in settings.get("healing", ())),
    }


def _plans(value: Any) -> dict[str, str]:
    """Plans by name, or a list of plans, each with itself as its name."""
    if isinstance(value, dict):
        return {str(name): str(spec) for name, spec in value.items()}
    plans = {}
    for spec in map(str, _list(value, "plans")):
        plans[spec.replace(":", "-").replace("/", "-")] = spec
    return plans


def _criterion(entry: Any) -> CriterionSettings:
    wanted = "criteria: {} is none; write its name, or keys such as criterion, objective, settings."
    return CriterionSettings(**_read(_named(entry, "criterion", wanted)))


def _arm(entry: Any) -> HealingArm:
    """A healing arm: its own keys, those of training and those of the filters are on one level."""
    if not isinstance(entry, dict) or "name" not in entry:
        raise InputError(f"healing: {entry!r} is no arm; write keys such as name, prompts, method, max_steps.")
    for name in _list(entry.get("decontaminate", []), "decontaminate"):
        check_task_name(str(name))
    own = [name for name in HealingArm.model_fields if name not in ("train", "filters")]
    train = [name for name in TrainSettings.model_fields if name != "seed"]
    _check_keys(entry, {*own, *train, *_OF_PROMPTS, *FilterSettings.model_fields})
    with _of(f"healing arm {entry['name']}"):
        expanded = with_preset(entry.get("preset"), entry)
        data = {key: entry[key] for key in own if key in entry}
        data |= _read({"decoding": entry["decoding"]}) if "decoding" in entry else {}
        sources = entry.get("prompts") or ()
        sources = [sources] if isinstance(sources, str) else _list(sources, "prompts")
        entries = [source if isinstance(source, dict) else {"source": str(source)} for source in sources]
        # Keys beside the sources hold for all of them.
        shared = {key: entry[key] for key in _OF_PROMPTS if key in entry}
        data["prompts"] = tuple(PromptSpec(**_read(shared | source)) for source in entries)
        data["train"] = TrainSettings(**{key: expanded[key] for key in train if key in expanded})
        data["filters"] = FilterSettings(**{key: entry[key] for key in FilterSettings.model_fields if key in entry})
    return HealingArm(**data)


def _task(entry: Any) -> TaskSettings:
    entry = _named(entry, "task", _NO_TASK)
    check_task_name(str(entry["task"]))
    with _of(f"task {entry['task']}"):
        return TaskSettings(**_read(entry))


def _named(entry: Any, key: str, refusal: str) -> Mapping[Any, Any]:
    """An entry that is written as a name alone, or with keys; InputError with its text in ``refusal`` for others."""
    if isinstance(entry, str):
        return {key: entry}
    if not isinstance(entry, dict) or key not in entry:
        raise InputError(refusal.format(repr(entry)))
    return entry


def _read(data: Mapping[Any, Any]) -> dict[str, Any]:
    """The values of keys, which may be anything, those of sections as settings."""
    return {str(key): _READ[key](value) if key in _READ else value for key, value in data.items()}


@contextmanager
def _of(whom: str) -> Iterator[None]:
    """Name the task or arm of a value that cannot be used."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{whom}: {error}") from error


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{name}: {value!r} is not a list; write one entry a line, each after a dash.")
    return list(value)


def _expect(value: Any, key: str, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise InputError(f"{key}: {value!r} is not {what}.")
    return value


def _check_keys(data: Mapping[str, Any], known: Any) -> None:
    for key in data:
        if key not in known:
            raise unknown_name("key", str(key), known)


_READ: dict[Any, Callable[[Any], Any]] = {
    "plans": _plans,
    "criteria": lambda value: tuple(_criterion(entry) for entry in _list(value, "criteria")),
    "depths": lambda value: tuple(Depth(text=str(entry)) for entry in _list(value, "depths")),
    "healing": lambda value: tuple(
        _arm(entry) for entry in _list(value, "healing") if entry not in ("none", {"name": "none"})
    ),
    "seeds": lambda value: tuple(_list(value, "seeds")),
    "decoding": lambda value: DecodingSettings(
        **_read(_expect(value, "decoding", dict, "keys and values (temperature, top_p, top_k)"))
    ),
    "objective": lambda value: tuple(map(_task, _list(value, "objective"))),
    "calibration": lambda value: CalibrationSettings(**_read(value if isinstance(value, dict) else {"source": value})),
    "settings": lambda value: _expect(value, "settings", dict, "keys and values, such as search: one_shot"),
}
"""Readers of the values of keys, of a study and of its sections."""
