"""Write an evaluation in the form of the LM Evaluation Harness: ``layercut eval --log-samples``.

``lm_eval/samples_TASK_DATE.jsonl`` and ``lm_eval/results_DATE.json`` in the run folder, as ``lm_eval --log_samples``
writes them in version 0.4.13. A readout that writes is a filter of its name; one that ranks has none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from statistics import stdev
from typing import Any

from layercut.engine.base import GenerationRequest, LikelihoodRequest, Prompt
from layercut.runs.atomic import write_json, write_text
from layercut.runs.directory import RunFolder
from layercut.tasks.base import Sample
from layercut.tasks.budget import asked
from layercut.tasks.cells import Cell

FOLDER = "lm_eval"


def log_samples(run: RunFolder, cells: Sequence[Cell], model: str) -> Path:
    """Write the answers of all cells, and give the folder; files of an earlier call are replaced.

    Args:
        model: its name.
    """
    folder = run.path / FOLDER
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*_*.json*"):
        old.unlink()
    date = datetime.now().strftime("%Y-%m-%dT%H-%M-%S.%f")
    results: dict[str, dict[str, Any]] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        name, chain = cell.task.name, _filter(cell)
        records = {record["id"]: record for record in run.records(name, cell.readout)}
        of_task = results.setdefault(name, {"name": name, "alias": name, "sample_len": len(records)})
        for metric in next(iter(records.values()))["metrics"]:
            values = [float(record["metrics"][metric]) for record in records.values()]
            of_task[f"{metric},{chain}"] = sum(values) / len(values)
            error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else "N/A"
            of_task[f"{metric}_stderr,{chain}"] = error
        items = enumerate(cell.samples)
        samples.setdefault(name, []).extend(_row(cell, at, one, records[one.id], chain) for at, one in items)
    for name, rows in samples.items():
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        write_text(folder / f"samples_{_safe(name)}_{date}.jsonl", text)
    write_json(folder / f"results_{date}.json", {**dict(_about(cells, run)), "results": results, "model_name": model})
    return folder


def _about(cells: Sequence[Cell], run: RunFolder) -> Iterator[tuple[str, Any]]:
    tasks = {cell.task.name: cell.task for cell in cells}
    decoding = run.settings.get("decoding")
    yield "configs", {name: {"task": name, "generation_kwargs": decoding, "repeats": 1} for name in tasks}
    yield "versions", {name: task.version for name, task in tasks.items()}
    yield "n-shot", dict.fromkeys(tasks, 0)
    better: dict[str, dict[str, bool]] = {name: {} for name in tasks}
    for row in run.metrics()["rows"]:
        better[row["task"]][row["metric"]] = True
    yield "higher_is_better", better
    counts = {cell.task.name: len(cell.samples) for cell in cells}
    yield "n-samples", {name: {"original": count, "effective": count} for name, count in counts.items()}


def _row(cell: Cell, at: int, sample: Sample, record: Mapping[str, Any], chain: str) -> dict[str, Any]:
    request = asked(cell.task, sample, cell.readout)
    doc = {"id": sample.id, "question": sample.question, "gold": sample.gold}
    if isinstance(request, GenerationRequest):
        until = {"until": list(request.stop), "max_gen_toks": request.max_new_tokens}
        arguments: list[tuple[str, Any]] = [(_text(request.prompt), until)]
        answers: list[Any] = [record["completion"]]
        filtered: list[Any] = [record["answer"]]
    else:
        arguments = list(_options(request))
        answers = filtered = [[score, False] for score in record["log_likelihoods"]]
    metrics = {name: float(value) for name, value in record["metrics"].items()}
    return {
        "doc_id": at,
        "doc": doc,
        "target": sample.gold,
        "arguments": {
            f"gen_args_{number}": {"arg_0": one, "arg_1": other} for number, (one, other) in enumerate(arguments)
        },
        "resps": [[one] for one in answers],
        "filtered_resps": filtered,
        "filter": chain,
        "metrics": list(metrics),
        "doc_hash": _hash(json.dumps(doc, sort_keys=True)),
        "prompt_hash": _hash(arguments[0][0]),
        "target_hash": _hash(sample.gold),
        **metrics,
    }


def _options(request: LikelihoodRequest) -> Iterator[tuple[str, str]]:
    prompts = request.prompts or (request.prompt,) * len(request.continuations)
    return ((_text(prompt), option) for prompt, option in zip(prompts, request.continuations, strict=True))


def _text(prompt: Prompt) -> str:
    """A conversation as JSON, as lm-eval gives it to models behind an API."""
    if isinstance(prompt, str):
        return prompt
    return json.dumps([{"role": turn.role, "content": turn.content} for turn in prompt], ensure_ascii=False)


def _filter(cell: Cell) -> str:
    return "none" if cell.readout in ("rank", "gold", "token") else cell.readout


def _safe(name: str) -> str:
    return name.replace("/", "__").replace(":", "_")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
