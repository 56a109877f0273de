"""lm-eval's ``samples_TASK_DATE.jsonl`` (``--log_samples``), with the ``results_DATE.json`` beside them.

A task behind several filters is several readouts. Items are known by the hash of their document; of prompts the hash is
kept, to say where they differ. Values that only make sense over all items (perplexity, F1 of a corpus) are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.runs.json_text import load, parse
from layercut.runs.logs.logged import RANKED, WRITTEN, LoggedRun, LoggedTask, guessing, outcome_of
from layercut.runs.settings import shown

FILES = "lm-eval's samples_TASK_DATE.jsonl, or a folder of them"
_NAME = re.compile(r"samples_(.+?)(?:_(\d{4}-\d\d-\d\dT[\d\-.]+))?\.jsonl")
_ASKED = {"num_fewshot": "few-shot examples", "generation_kwargs": "decoding", "filter_list": "filters"}


def are_here(path: Path) -> bool:
    """True if a path is such a file, or a folder that holds some."""
    if path.is_file():
        return path.suffix == ".jsonl" and "doc_id" in next(iter(_rows(path)), {})
    return path.is_dir() and bool(_samples_in(path))


def read(path: Path) -> LoggedRun:
    """One task's samples, or of a folder the newest of each task."""
    files = [path] if path.is_file() else _samples_in(path)
    results = _results(files[0].parent)
    tasks = [task for file in files for task in _tasks(file, results)]
    return LoggedRun(path, "lm-eval", str(results.get("model_name") or results.get("model_source") or ""), tasks)


def _samples_in(folder: Path) -> list[Path]:
    """The newest file of each task, in the folder or in the one that lm-eval makes in it for the model."""
    found: dict[str, Path] = {}
    places = [folder, *sorted(one for one in folder.iterdir() if one.is_dir())]
    here = next((place for place in places if any(place.glob("samples_*.jsonl"))), folder)
    for file in sorted(here.glob("samples_*.jsonl")):
        if match := _NAME.fullmatch(file.name):
            found[match[1]] = file  # dates sort as text
    return list(found.values())


def _results(folder: Path) -> dict[str, Any]:
    files = sorted(folder.glob("results_*.json"))
    try:
        found = load(files[-1]) if files else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _tasks(file: Path, results: Mapping[str, Any]) -> Iterator[LoggedTask]:
    match = _NAME.fullmatch(file.name)
    name = match[1] if match else file.stem
    config = (results.get("configs") or {}).get(name) or {}
    asked = {words: config[key] for key, words in _ASKED.items() if config.get(key) is not None}
    shots = (results.get("n-shot") or {}).get(name)
    asked |= {} if shots is None else {"few-shot examples": shots}
    found: dict[str, LoggedTask] = {}
    seen: Counter[tuple[str, str]] = Counter()
    options: dict[str, list[int]] = {}
    for row in _rows(file):
        kind, record, count = _record(row, file)
        chain = str(row.get("filter") or "none")
        readout = kind if chain == "none" or kind == RANKED else chain
        version = str((results.get("versions") or {}).get(name) or "")
        task = found.setdefault(readout, LoggedTask(name=name, readout=readout, asked=asked, version=version))
        seen[readout, record["id"]] += 1
        if (times := seen[readout, record["id"]]) > 1:  # documents that are equal
            record["id"] += f"#{times}"
        task.records.append(record)
        options.setdefault(readout, []).append(count)
    for readout, task in found.items():
        task.chance = guessing(options[readout]) if readout == RANKED else 0.0
        yield task


def _record(row: Mapping[str, Any], file: Path) -> tuple[str, dict[str, Any], int]:
    """The kind of answer, the record, and how many options there were."""
    try:
        metrics = {name: row[name] for name in row["metrics"]}
        requests = [list(one.values()) for one in row["arguments"].values()]
        responses, doc = row["resps"], row["doc"]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{shown(file)}: an item lacks {error}; log the samples again with lm-eval 0.4.4 or later."
        ) from error
    values = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    is_ranked = bool(requests) and len(requests[0]) > 1 and isinstance(requests[0][1], str) and len(requests) > 1
    record: dict[str, Any] = {
        "id": str(row.get("doc_hash") or row["doc_id"]),
        "gold": str(row.get("target_hash") or row.get("target")),
        "metrics": values,
        "outcome": outcome_of(next(iter(values.values()), -1.0)),
        "question": _question(doc, requests),
        "answer": str((row.get("filtered_resps") or [""])[0]),
        "prompt": row.get("prompt_hash"),
    }
    if is_ranked:
        record |= {"options": [str(one[1]).strip() for one in requests]}
    else:
        record |= {"completion": str(responses[0][0] if responses and responses[0] else "")}
    return (RANKED if is_ranked else WRITTEN), record, len(requests)


def _question(doc: Any, requests: list[list[Any]]) -> str:
    for name in ("question", "query", "problem", "prompt", "text", "input"):
        if isinstance(doc, dict) and isinstance(doc.get(name), str):
            return str(doc[name])
    return str(requests[0][0]) if requests and requests[0] else ""


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as lines:
            for row in (parse(line, halves=True) for line in lines if line.strip()):
                if not isinstance(row, dict):
                    raise ValueError("a line is no object")
                yield row
    except (OSError, ValueError) as error:
        raise InputError(f"{shown(file)} cannot be read ({error}).") from error
