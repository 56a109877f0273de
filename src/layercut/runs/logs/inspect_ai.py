"""inspect_ai's logs: ``.eval`` files, which are archives, and ``.json`` ones; version 2 of its schema.

Each epoch of a sample is an item, and the epochs of one sample share a cluster. ``C``, ``P``, ``I`` and ``N`` are 1,
0.5, 0 and 0, as in inspect_ai's ``value_to_float``; a scorer that gives several numbers is several metrics.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.runs.json_text import load, parse
from layercut.runs.logs.logged import RANKED, WRITTEN, LoggedRun, LoggedTask, guessing, outcome_of
from layercut.runs.settings import shown

FILES = "inspect_ai's .eval or .json logs"
VERSION = 2
_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
_ASKED = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "longest answer"}
_LARGEST = 2**28
"""Bytes of one sample, unpacked: 256 MiB."""


def are_here(path: Path) -> bool:
    """True if a path is such a file."""
    if not path.is_file():
        return False
    if path.suffix == ".eval":
        return True
    if path.suffix != ".json":
        return False
    try:
        head = load(path)
    except (OSError, ValueError):
        return False
    return isinstance(head, dict) and {"version", "eval", "samples"} <= {*head}


def read(path: Path) -> LoggedRun:
    """The samples of one log.

    Raises:
        InputError: another version of the schema, an archive that is damaged or packed with a library that is not
            there, or a log without samples.
    """
    try:
        head, samples = _archive(path) if path.suffix == ".eval" else _plain(path)
        if head.get("version") != VERSION:
            raise InputError(f"{shown(path)} has version {head.get('version')} of inspect_ai's log; {VERSION} is read.")
        about = head["eval"]
        config = {**(about.get("model_generate_config") or {}), **((head.get("plan") or {}).get("config") or {})}
        asked = {words: config[name] for name, words in _ASKED.items() if config.get(name) is not None}
        items = [_record(sample) for sample in samples]
        is_ranked = bool(items) and all("options" in record for record in items)
        task = LoggedTask(
            name=str(about["task"]).rpartition("/")[2],
            readout=RANKED if is_ranked else WRITTEN,
            records=items,
            chance=guessing([len(record["options"]) for record in items]) if is_ranked else 0.0,
            version=str(about.get("task_version") or ""),
            asked=asked,
        )
        return LoggedRun(path, "inspect_ai", str(about.get("model") or ""), [task])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{shown(path)} is no log of inspect_ai that can be read ({error!r:.100}).") from error


def _plain(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    data = json.loads(path.read_bytes())
    return data, data.get("samples") or []


def _archive(path: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    with suppress(ImportError):
        import zipfile_zstd  # noqa: F401  # teaches zipfile what newer versions of inspect_ai pack with
    files = zipfile.ZipFile(path)
    try:
        head = parse(files.read("header.json"), halves=True)
    except NotImplementedError as error:
        raise InputError(
            f"{shown(path)} is packed with Zstandard, which this Python cannot read: pip install zipfile-zstd."
        ) from error
    except KeyError as error:
        raise InputError(f"{shown(path)} holds no header.json: the evaluation has not ended.") from error
    names = sorted(name for name in files.namelist() if name.startswith("samples/"))
    if any(files.getinfo(name).file_size > _LARGEST for name in names):
        raise InputError(f"{shown(path)} holds a sample of more than {_LARGEST >> 20} MiB.")
    return head, (parse(files.read(name), halves=True) for name in names)


def _record(sample: Mapping[str, Any]) -> dict[str, Any]:
    target = sample.get("target")
    metrics: dict[str, float] = {}
    answer = ""
    for scorer, score in (sample.get("scores") or {}).items():
        answer = answer or str(score.get("answer") or "")
        value = score.get("value")
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for name, part in parts:
            if (number := _number(part)) is not None:
                metrics[f"{scorer} {name}".strip()] = number
    output = sample.get("output") or {}
    usage = output.get("usage") or {}
    record: dict[str, Any] = {
        "id": f"{sample['id']}#{sample['epoch']}" if sample.get("epoch", 1) != 1 else str(sample["id"]),
        "cluster": str(sample["id"]),
        "gold": "; ".join(map(str, target)) if isinstance(target, list) else str(target),
        "metrics": metrics,
        "outcome": outcome_of(next(iter(metrics.values()), -1.0)),
        "question": _text(sample.get("input")),
        "answer": answer,
        "completion": str(output.get("completion") or ""),
        "prompt": _text(sample.get("input")),
    }
    if isinstance(tokens := usage.get("output_tokens"), int):
        record["num_new_tokens"] = tokens
    if sample.get("choices"):
        record["options"] = [str(one) for one in sample["choices"]]
    return record


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        text = value.strip().lower()
        return _VALUES.get(value, {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}.get(text))
    return float(value) if isinstance(value, int | float) else None


def _text(found: Any) -> str:
    if isinstance(found, list):
        return "\n".join(_text(one.get("content")) for one in found if isinstance(one, dict))
    return str(found or "")
