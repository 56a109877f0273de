"""lm-eval's ``samples_TASK_DATE.jsonl`` (``--log_samples``), with the ``results_DATE.json`` beside them.

A task behind several filters is several readouts. Items are known by the hash of their document, equal documents by
their ``doc_id`` as well; of prompts the hash is kept, to say where they differ. Values that only make sense over all
items (perplexity of a text, F1 of a corpus) are left out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field

from layercut.errors import InputError
from layercut.runs.environment import shown_path
from layercut.runs.json_text import LARGEST, check_fields, parse_json
from layercut.runs.logs import logged
from layercut.runs.logs.logged import RANKED, WRITTEN, LoggedRun, LoggedTask, json_object

FILES = "lm-eval's samples_TASK_DATE.jsonl, or a folder of them"
_NAME = re.compile(r"samples_(.+?)(?:_(\d{4}-\d\d-\d\dT[\d\-.]+))?\.jsonl")
_ASKED = {"num_fewshot": "few-shot examples", "generation_kwargs": "decoding", "filter_list": "filters"}


class _Sample(BaseModel, strict=True, extra="allow"):
    __pydantic_extra__: dict[str, Annotated[float | None, BeforeValidator(logged.score_of_metric)]]
    doc_id: int
    doc_hash: str | None = None
    arguments: dict[str, dict[str, Any]]
    doc: Any = None
    resps: list[list[Any]]
    filtered_resps: list[Any] | None = None
    filter: str | None = None
    target: Any = Field(None, validation_alias=AliasChoices("target", "target_hash"))
    prompt_hash: Any = None
    metrics: list[str]


class _Results(BaseModel, strict=True):
    configs: dict[str, dict[str, Any]] = {}
    higher_is_better: dict[str, dict[str, bool | None]] = {}
    num_shots: dict[str, Any] = Field({}, validation_alias="n-shot")
    versions: dict[str, Any] = {}
    group_subtasks: dict[str, list[str]] = {}
    groups: dict[str, Any] = {}  # those that have a score
    model_name: Any = None
    model_source: Any = None


def holds_known_logs(path: Path) -> bool:
    """True if a path is such a file, or a folder that holds some."""
    if path.is_file():
        return path.suffix == ".jsonl" and "doc_id" in next(_rows(path), ("", {}))[1]
    return path.is_dir() and bool(_samples_in(path))


def read_log_file(path: Path) -> LoggedRun:
    """One task's samples, or of a folder the newest of each task. Raises InputError: a folder of several models."""
    newest = [(path, "")] if path.is_file() else _samples_in(path)
    read = [(file, _results(file), remark) for file, remark in newest]
    tasks = [task for file, results, remark in read for task in _tasks(file, results, remark)]
    about, inner = read[-1][1], dict(pair for _, results, _ in read for pair in results.group_subtasks.items())
    for name in dict.fromkeys(name for _, results, _ in read for name in results.groups):
        members = [task for task in tasks if task.name in _tasks_of_group(name, inner) and not task.group]
        for readout in dict.fromkeys(task.readout for task in members):
            parts = [task for task in members if task.readout == readout]
            tasks += [logged.pool_tasks(name, parts)] if len(parts) > 1 else []
    return LoggedRun(path, "lm-eval", str(about.model_name or about.model_source or ""), tasks)


def _tasks_of_group(name: str, groups: Mapping[str, Sequence[str]], depth: int = 9) -> set[str]:
    """Names of the tasks of a group, those of groups inside it as well."""
    inner = groups.get(name) if depth else None
    return {name} if not inner else {task for part in inner for task in _tasks_of_group(part, groups, depth - 1)}


def _samples_in(folder: Path) -> list[tuple[Path, str]]:
    """The newest file of each task with a remark, in the folder or in the one that lm-eval makes for the model."""
    inner = sorted(place for place in folder.iterdir() if place.is_dir())
    places = [place for place in (folder, *inner) if any(_NAME.fullmatch(file.name) for file in place.glob("*.jsonl"))]
    if len(places) > 1 and places[0] != folder:
        models = ", ".join(place.name for place in places)
        raise InputError(
            f"{shown_path(folder)} holds the logs of {len(places)} models, {models}; give the folder of one."
        )
    newest: dict[str, tuple[Path, str]] = {}
    for file in sorted(places[0].glob("samples_*.jsonl") if places else ()):
        if match := _NAME.fullmatch(file.name):  # dates sort as text
            newest[match[1]] = file, logged.newest_of_several(places[0]) if match[1] in newest else ""
    return list(newest.values())


def _results(samples: Path) -> _Results:
    """The results of the date of the samples, or without a date the newest in their folder; empty if there are none."""
    match = _NAME.fullmatch(samples.name)
    files = sorted(samples.parent.glob(f"results_{match[2] if match and match[2] else '*'}.json"))
    if not files:
        return _Results()
    return check_fields(
        _Results, json_object(files[-1]), shown_path(files[-1]), "Remove that file to read the samples alone."
    )


def _tasks(file: Path, results: _Results, remark: str) -> Iterator[LoggedTask]:
    match = _NAME.fullmatch(file.name)
    name = match[1] if match else file.stem
    if name not in results.configs and len(results.configs) == 1:  # a file that was renamed
        name = str(*results.configs)
    config, senses = results.configs.get(name, {}), results.higher_is_better.get(name, {})
    settings = {words: config[key] for key, words in _ASKED.items() if config.get(key) is not None}
    if (shots := results.num_shots.get(name)) is not None:
        settings["few-shot examples"] = shots
    version = str(results.versions.get(name) or "")
    unknown = f"{name}: no results_DATE.json says for which metrics lower is better; higher is taken"
    remark = "; ".join(filter(None, (remark, "" if senses else unknown)))
    tasks: dict[str, LoggedTask] = {}
    for where, row in _rows(file):
        sample = check_fields(_Sample, row, where, "Log the samples again with lm-eval 0.4.4 or later.")
        record = _record(sample, senses)
        kind, chain = RANKED if "options" in record else WRITTEN, sample.filter or "none"
        readout = kind if chain == "none" or kind == RANKED else chain
        task = LoggedTask(name=name, readout=readout, asked=settings, version=version, remark=remark)
        tasks.setdefault(readout, task).records.append(record)
    for readout, task in tasks.items():
        times: Counter[str] = Counter()
        for record in sorted(task.records, key=itemgetter("doc_id")):  # equal documents, by their place in the data
            item = f"{record['id']}#{record['doc_id']}" if record["id"] in times else record["id"]
            times[item] += 1
            record["id"] = item if times[item] == 1 else f"{item}#{times[item]}"
        counts = [len(record.get("options", ())) for record in task.records]
        task.chance = logged.mean_chance(counts) if readout == RANKED else 0.0
        yield task


def _record(sample: _Sample, senses: Mapping[str, bool | None]) -> dict[str, Any]:
    requests = [list(request.values()) for request in sample.arguments.values()]
    scores = {name: score for name in sample.metrics if (score := (sample.model_extra or {}).get(name)) is not None}
    metrics = dict(logged.name_metric(name, score, senses.get(name)) for name, score in scores.items())
    record: dict[str, Any] = {
        "id": sample.doc_hash or str(sample.doc_id),
        "doc_id": sample.doc_id,
        "gold": str(sample.target),
        "metrics": metrics,
        "outcome": logged.outcome_of(metrics),
        "question": _question(sample.doc, requests),
        "answer": "",
        "prompt": sample.prompt_hash,
    }
    if len(requests) > 1 and len(requests[0]) > 1 and isinstance(requests[0][1], str):
        if "acc_mutual_info" in sample.metrics:  # the second half are the options again, without the question
            requests = requests[: len(requests) // 2]
        return record | _ranked(sample, [str(request[1]).strip() for request in requests if len(request) > 1])
    answer = (sample.filtered_resps or [""])[0]
    completion = str(sample.resps[0][0] if sample.resps and sample.resps[0] else "")
    # A likelihood is no answer; a list is one for each of several repeats.
    return record | {"completion": completion, "answer": "" if isinstance(answer, list) else str(answer)}


def _ranked(sample: _Sample, options: list[str]) -> dict[str, Any]:
    """Options of an item, with the right one, their log-likelihoods and the likeliest, where these are logged.

    lm-eval logs the right option as text, or as its number in text. Where it may be either, neither is read.
    """
    record: dict[str, Any] = {"options": options}
    with suppress(ValueError, TypeError, LookupError, OverflowError):
        values = [float(responses[0][0]) for responses in sample.resps[: len(options)]]
        target = str(sample.target)
        right = options[int(target)] if target.isdecimal() and int(target) < len(options) else target
        if len(values) == len(options) and all(map(math.isfinite, values)) and target not in {*options} - {right}:
            answer = options[values.index(max(values))]
            record |= {"log_likelihoods": values, "answer": answer, "right_option": right}
    return record


def _question(doc: Any, requests: Sequence[Sequence[Any]]) -> str:
    for name in ("question", "query", "problem", "prompt", "text", "input"):
        if isinstance(doc, dict) and isinstance(doc.get(name), str):
            return str(doc[name])
    return str(requests[0][0]) if requests and requests[0] else ""


def _rows(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, with their place for a message."""
    number = 0
    try:
        with file.open("rb") as lines:
            while line := lines.readline(LARGEST + 1):
                number += 1
                if len(line) > LARGEST:
                    raise ValueError(f"longer than {LARGEST >> 20} MiB")
                if line.strip():
                    row = parse_json(line, halves=True)
                    if not isinstance(row, dict):
                        raise ValueError("no object")
                    yield f"{shown_path(file)}: line {number}", row
    except (OSError, ValueError) as error:
        raise InputError(f"{shown_path(file)}: line {number} cannot be read ({error}).") from error
