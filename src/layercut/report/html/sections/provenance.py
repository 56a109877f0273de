"""How this was made: model, hashes, items, decoding, seeds, versions, commands and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layercut.evidence.comparison import SELECTED_ON
from layercut.report import words
from layercut.report.elements import Block, Details, Section, Table
from layercut.report.html.prose import blocks
from layercut.report.html.source import Source
from layercut.report.provenance import provenance as lines_of
from layercut.report.provenance import python_of, version_of
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home

_MODEL_KEYS = ("model", "model_hash", "revision", "dtype", "engine", "batch_size")


def provenance(source: Source) -> Section | None:
    """The facts as a table, everything else folded."""
    first = source.runs[0]
    scope = _scope(first, source)
    table = Table(name="provenance", caption="What decides the numbers", head=["what", "value"], rows=scope)
    more: list[Block] = []
    if source.study is not None:
        runs = [source.study.uncut, *source.study.cuts]
        more.append(_folded("Plans, commands, versions and settings of the study", runs))
    for name, run in (("sweep", source.sweep_run), ("diagnosis", source.diagnosis_run)):
        if run is not None:
            more.append(_folded(f"Command, versions and settings of the {name}", [run]))
    return Section(
        name="provenance",
        title="How this was made",
        short="Provenance",
        lead="Everything on this page comes from the run folder; the same folder gives the same page.",
        blocks=(table, *more),
    )


def _folded(summary: str, runs: Sequence[RunFolder]) -> Details:
    return Details(summary=summary, blocks=tuple(blocks(lines_of(runs))))


def _scope(run: RunFolder, source: Source) -> list[list[str]]:
    settings, environment = run.settings, run.environment
    model = settings.get("model")
    known: Mapping[str, Any] = model if isinstance(model, dict) else settings
    scope = [[_name(key), hide_home(str(known[key]))] for key in _MODEL_KEYS if known.get(key) is not None]
    split = source.sweep.split if source.study is None and source.sweep is not None else "report"
    apart = "; no layer was chosen on them" if split == "report" else "; used to choose layers, not to report"
    if source.study is not None and any(SELECTED_ON in row.note for row in source.study.rows):
        apart = "; a plan was selected on some of them, see the notes at the scores"
    scope.append(["items", f"{split} items{apart}"])
    if source.study is not None and (sets := words.test_sets(source.study.rows)):
        scope.append(["test sets", sets])
    if isinstance(settings.get("tasks"), list):
        named = [
            f"{task['task']} ({task['readout']}, version {task.get('version', '?')})"
            for task in settings["tasks"]
            if isinstance(task, dict) and {"task", "readout"} <= task.keys()
        ]
        if named:
            scope.append(["tasks", ", ".join(named)])
    decoding = settings.get("decoding")
    if isinstance(decoding, dict):
        temperature = decoding.get("temperature", 0)
        drawn = ", ".join(f"{key} {value:g}" for key, value in decoding.items() if isinstance(value, int | float))
        scope.append(["decoding", f"greedy ({drawn})" if not temperature else f"sampled ({drawn})"])
    scope.append(["seed", str(settings.get("seed", "-"))])
    scope.append(["command", environment["command"]])
    scope.append(["layercut", version_of(environment)])
    scope.append(["versions", python_of(environment)])
    machine = [environment["cpu"], f"{environment['cores']} cores", f"{environment['memory_gib']} GiB"]
    machine.append(environment["accelerator"] or "no accelerator")
    scope.append(["machine", ", ".join(str(part) for part in machine)])
    scope.append(["begun", environment["time"]])
    return scope


def _name(key: str) -> str:
    return {"model_hash": "fingerprint of its weights", "dtype": "precision", "batch_size": "batch size"}.get(key, key)
