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
from layercut.runs.logs.logged import NEGATED, RANKED, WRITTEN, LoggedRun, LoggedTask, guessing, outcome_of
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
    """One task's samples, or of a folder the newest of each task. Raises InputError: a folder of several models."""
    pairs = [(file, _results(file)) for file in ([path] if path.is_file() else _samples_in(path))]
    tasks = [task for file, results in pairs for task in _tasks(file, results)]
    about = pairs[-1][1]
    return LoggedRun(path, "lm-eval", str(about.get("model_name") or about.get("model_source") or ""), tasks)


def _samples_in(folder: Path) -> list[Path]:
    """The newest file of each task, in the folder or in the one that lm-eval makes in it for the model."""
    inner = sorted(place for place in folder.iterdir() if place.is_dir())
    places = [place for place in (folder, *inner) if any(_NAME.fullmatch(file.name) for file in place.glob("*.jsonl"))]
    if len(places) > 1 and places[0] != folder:
        models = ", ".join(place.name for place in places)
        raise InputError(f"{shown(folder)} holds the logs of {len(places)} models, {models}; give the folder of one.")
    newest: dict[str, Path] = {}
    for file in sorted(places[0].glob("samples_*.jsonl") if places else ()):
        if match := _NAME.fullmatch(file.name):
            newest[match[1]] = file  # dates sort as text
    return list(newest.values())


def _results(samples: Path) -> dict[str, Any]:
    """The results of the date of the samples, or without a date the newest in their folder; empty if there are none."""
    match = _NAME.fullmatch(samples.name)
    files = sorted(samples.parent.glob(f"results_{match[2] if match and match[2] else '*'}.json"))
    try:
        data = load(files[-1]) if files else {}
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _tasks(file: Path, results: Mapping[str, Any]) -> Iterator[LoggedTask]:
    match = _NAME.fullmatch(file.name)
    name = match[1] if match else file.stem
    tables = {key: value for key, value in results.items() if isinstance(value, dict)}
    configs = tables.get("configs", {})
    if name not in configs and len(configs) == 1:  # a file that was renamed
        name = str(*configs)
    values = (configs.get(name), tables.get("higher_is_better", {}).get(name))
    config, senses = (value if isinstance(value, dict) else {} for value in values)
    asked = {words: config[key] for key, words in _ASKED.items() if config.get(key) is not None}
    shots, version = (tables.get(key, {}).get(name) for key in ("n-shot", "versions"))
    asked |= {} if shots is None else {"few-shot examples": shots}
    remark = "" if senses else f"{name}: no results_DATE.json says for which metrics lower is better; higher is taken"
    found: dict[str, LoggedTask] = {}
    seen: Counter[tuple[str, str]] = Counter()
    options: dict[str, list[int]] = {}
    for row in _rows(file):
        try:
            kind, record, count = _record(row, senses)
        except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"{shown(file)}: an item cannot be read ({error!r:.100}); log the samples again with lm-eval 0.4.4 or "
                "later."
            ) from error
        chain = str(row.get("filter") or "none")
        readout = kind if chain == "none" or kind == RANKED else chain
        task = LoggedTask(name=name, readout=readout, asked=asked, version=str(version or ""), remark=remark)
        task = found.setdefault(readout, task)
        seen[readout, record["id"]] += 1
        if (times := seen[readout, record["id"]]) > 1:  # documents that are equal
            record["id"] += f"#{times}"
        task.records.append(record)
        options.setdefault(readout, []).append(count)
    for readout, task in found.items():
        task.chance = guessing(options[readout]) if readout == RANKED else 0.0
        yield task


def _record(row: Mapping[str, Any], senses: Mapping[str, Any]) -> tuple[str, dict[str, Any], int]:
    """The kind of answer, the record, and how many options there were.

    Metrics of which lower is better (false in ``senses``) are negated and named ``neg_...``, as ``eval`` does.
    """
    metrics = {name: row[name] for name in row["metrics"]}
    requests = [list(one.values()) for one in row["arguments"].values()]
    responses, doc = row["resps"], row["doc"]
    numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    lower = {name for name in numbers if senses.get(name) is False}
    values = {
        f"{NEGATED}{name}" if name in lower else name: 0.0 - value if name in lower else value
        for name, value in numbers.items()
    }
    headline = next(iter(numbers), "")
    is_ranked = bool(requests) and len(requests[0]) > 1 and isinstance(requests[0][1], str) and len(requests) > 1
    record: dict[str, Any] = {
        "id": str(row.get("doc_hash") or row["doc_id"]),
        "gold": str(row.get("target", row.get("target_hash"))),
        "metrics": values,
        "outcome": outcome_of(1 - numbers[headline] if headline in lower else numbers.get(headline, -1.0)),
        "question": _question(doc, requests),
        "answer": str((row.get("filtered_resps") or [""])[0]),
        "prompt": row.get("prompt_hash"),
    }
    if "acc_mutual_info" in metrics:  # the second half are the options again, without the question
        requests = requests[: len(requests) // 2]
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
