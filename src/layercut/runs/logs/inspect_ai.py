"""inspect_ai's logs: ``.eval`` files, which are archives, and ``.json`` ones; version 2 of its schema.

Each epoch of a sample is an item, and the epochs of one sample share a cluster. ``C``, ``P``, ``I`` and ``N`` are 1,
0.5, 0 and 0, as in inspect_ai's ``value_to_float``; a scorer that gives several numbers is several metrics.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasPath, BaseModel, BeforeValidator, Field

from layercut.errors import InputError, one_line
from layercut.runs.environment import shown_path
from layercut.runs.json_text import LARGEST, check_fields, parse_json
from layercut.runs.logs import logged
from layercut.runs.logs.logged import RANKED, WRITTEN, LoggedRun, LoggedTask, json_object

FILES = "inspect_ai's .eval or .json logs, or a folder of them"
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_ASKED = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "longest answer"}
_HEADER = "header.json"
_REMEDY = "Write the log again with inspect_ai."
_LARGEST_SAMPLE = 2**28  # bytes, unpacked
_CHUNK = 4096  # bytes that are unpacked at once, for libraries that cannot stop midway
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, 93)  # 93: Zstandard; bzip2 makes gigabytes of one chunk


def _scores_of(value: Any) -> dict[str, float]:
    """The numbers of a score by name; one that is a single number has no name."""
    parts = value if isinstance(value, dict) else {"": value}
    values = {
        name: _VALUES.get(part, _VALUES.get(part.strip().lower())) if isinstance(part, str) else part
        for name, part in parts.items()
    }
    return {name: score for name, part in values.items() if (score := logged.score_of_metric(part)) is not None}


class _Score(BaseModel):
    value: Annotated[dict[str, float], BeforeValidator(_scores_of)] = {}
    answer: Any = None


class _Sample(BaseModel, strict=True):
    id: int | str
    epoch: int = 1
    input: Any = None
    target: Any = None
    choices: list[Any] | None = None
    scores: dict[str, _Score] | None = None
    completion: Any = Field(None, validation_alias=AliasPath("output", "completion"))
    num_new_tokens: Any = Field(None, validation_alias=AliasPath("output", "usage", "output_tokens"))


class _Header(BaseModel, strict=True):
    version: Literal[2]
    samples: list[Any] | None = None
    task: str = Field(validation_alias=AliasPath("eval", "task"))
    task_version: Any = Field(None, validation_alias=AliasPath("eval", "task_version"))
    model: Any = Field(None, validation_alias=AliasPath("eval", "model"))
    model_settings: dict[str, Any] | None = Field(None, validation_alias=AliasPath("eval", "model_generate_config"))
    plan_settings: dict[str, Any] | None = Field(None, validation_alias=AliasPath("plan", "config"))


def holds_known_logs(path: Path) -> bool:
    """True if a path is such a file, or a folder that holds some."""
    return bool(_logs_in(path))


def _logs_in(path: Path) -> list[Path]:
    """The log, or those of a folder, the oldest first: names begin with dates. JSON counts where none is packed."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    packed = [file for file in files if file.suffix == ".eval" and file.is_file()]
    return packed or [file for file in files if {"version", "eval", "samples"} <= {*json_object(file)}]


def read_log_file(path: Path) -> LoggedRun:
    """The samples of one log, or of a folder the newest of each task.

    Raises:
        InputError: another version of the schema, an archive that is damaged, encrypted, too large or packed with a
            library that is not there, a log without samples, or a folder of several models.
    """
    tasks: dict[str, LoggedTask] = {}
    models: dict[str, None] = {}
    for file in _logs_in(path):
        model, task = _read_task(file)
        task.remark = logged.newest_of_several(path) if task.name in tasks else ""
        tasks[task.name], models[model] = task, None
    if len(models) > 1:
        named = ", ".join(models)
        raise InputError(f"{shown_path(path)} holds the logs of {len(models)} models, {named}; give a folder of one.")
    return LoggedRun(path, "inspect_ai", next(iter(models)), tasks.values())


def _read_task(path: Path) -> tuple[str, LoggedTask]:
    """The model and the task of one log."""
    parts = _unpack(path) if path.suffix == ".eval" else iter([(shown_path(path), json_object(path))])
    place, data = next(parts)
    head = check_fields(_Header, data, place, _REMEDY)
    settings = (head.model_settings or {}) | (head.plan_settings or {})
    listed = (
        (f"{shown_path(path)}: sample {number}", sample) for number, sample in enumerate(head.samples or [], start=1)
    )
    items = [_record(check_fields(_Sample, sample, place, _REMEDY)) for place, sample in chain(parts, listed)]
    is_ranked = bool(items) and all("options" in record for record in items)
    task = LoggedTask(
        name=head.task.rpartition("/")[2],
        readout=RANKED if is_ranked else WRITTEN,
        records=items,
        chance=logged.mean_chance([len(record["options"]) for record in items]) if is_ranked else 0.0,
        version=str(head.task_version or ""),
        asked={words: settings[name] for name, words in _ASKED.items() if settings.get(name) is not None},
    )
    return str(head.model or ""), task


def _unpack(path: Path) -> Iterator[tuple[str, Any]]:
    """The header, then the samples of an archive, each with its place for a message."""
    with suppress(ImportError):
        import zipfile_zstd  # noqa: F401  # teaches zipfile what newer versions of inspect_ai pack with
    place = shown_path(path)
    try:
        files = zipfile.ZipFile(path)
        names = sorted(name for name in files.namelist() if name.startswith("samples/") and name.endswith(".json"))
        if _HEADER not in files.namelist():
            raise ValueError(f"it holds no {_HEADER}: the evaluation has not ended")
        for name in (_HEADER, *names):
            place = f"{shown_path(path)}: {name}"
            info, largest = files.getinfo(name), LARGEST if name == _HEADER else _LARGEST_SAMPLE
            if info.file_size > largest or info.compress_type not in _PACKINGS:
                size = f"{info.file_size >> 20:,} MiB, packed by method {info.compress_type}"
                raise ValueError(f"{size}; at most {largest >> 20} MiB of deflate or Zstandard are read")
            with files.open(name) as packed:  # never gives more than the size that was checked
                data = b"".join(iter(lambda: packed.read(_CHUNK), b""))
            yield place, parse_json(data, halves=True)
    except NotImplementedError as error:
        raise InputError(f"{place} cannot be unpacked ({error}). Zstandard needs: pip install zipfile-zstd") from error
    except Exception as error:  # libraries that unpack raise what they like
        raise InputError(f"{place} cannot be read ({one_line(error)}). {_REMEDY}") from error


def _record(sample: _Sample) -> dict[str, Any]:
    scores = sample.scores or {}
    metrics = dict(
        logged.name_metric(f"{scorer} {name}".strip(), value)
        for scorer, score in scores.items()
        for name, value in score.value.items()
    )
    target, text = sample.target, _text(sample.input)
    record: dict[str, Any] = {
        "id": f"{sample.id}#{sample.epoch}" if sample.epoch != 1 else str(sample.id),
        "cluster": str(sample.id),
        "gold": "; ".join(map(str, target)) if isinstance(target, list) else str(target),
        "metrics": metrics,
        "outcome": logged.outcome_of(metrics),
        "question": text,
        "answer": next((str(score.answer) for score in scores.values() if score.answer), ""),
        "completion": str(sample.completion or ""),
        "prompt": text,
    }
    if isinstance(sample.num_new_tokens, int):
        record["num_new_tokens"] = sample.num_new_tokens
    if sample.choices:
        record["options"] = [str(choice) for choice in sample.choices]
    return record


def _text(message: Any) -> str:
    if isinstance(message, list):
        return "\n".join(_text(part.get("content")) for part in message if isinstance(part, dict))
    return str(message or "")
