"""Provenance: model, items, decoding, seeds, versions and settings of the runs; and the size of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from layercut.evidence.comparison import SELECTED_ON, ComparedRun, arm_of
from layercut.report import words
from layercut.report.elements import Block, Details, Section
from layercut.report.html.layout import blocks, prose
from layercut.report.provenance import chosen_by, python_of, version_of
from layercut.report.provenance import provenance as lines_of
from layercut.report.source import Source
from layercut.report.table import Column, Surface, Table, texts
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home
from layercut.text.numbers import parameters

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MODEL_KEYS = ("model", "model_hash", "revision", "dtype", "engine", "batch_size")


def cost(source: Source) -> Section | None:
    """Make the section of sizes; None without a study."""
    study = source.study
    if study is None:
        return None
    arms = [arm_of(study.uncut), *(arm_of(run, study.uncut) for run in study.cuts)]
    table = _sizes(arms, str(study.uncut.settings.get("dtype", "")))
    note = (
        "Parameters are counted in the weight files. The KV cache shrinks with the share of removed layers. Speed is "
        "not measured in a study; `layercut diagnose --only cost` does."
    )
    return Section(
        name="cost",
        title="What it saves",
        short="Size",
        blocks=(Details(summary=table.caption, blocks=(table, prose(note))),),
    )


def _sizes(arms: Sequence[ComparedRun], dtype: str) -> Table:
    whole = arms[0].num_parameters

    def share(arm: ComparedRun) -> float | None:
        """Parameters, as a share of the original model's."""
        return arm.num_parameters / whole if arm.num_parameters and whole else None

    def removed(arm: ComparedRun) -> str:
        return f"{100 * arm.depth / arm.num_layers:.1f}" if arm.num_layers else "-"

    def change(arm: ComparedRun) -> str:
        known = share(arm)
        return "-" if known is None or not arm.is_cut else f"{100 * (known - 1):+.1f}"

    def weights(arm: ComparedRun) -> str:
        return f"{arm.num_parameters * _BYTES[dtype] / 2**20:,.0f}" if arm.num_parameters else "-"

    csv, page = Surface.CSV, Surface.PAGE
    columns = [
        Column("model", lambda arm: arm.name),
        Column("layers removed", lambda arm: str(arm.depth), numeric=True, raw={"removed": attrgetter("depth")}),
        Column("num_layers", attrgetter("num_layers"), on=csv),
        Column("of the layers, %", removed, numeric=True, on=page),
        Column(
            "which",
            lambda arm: arm.label or "-",
            raw={"layers": lambda arm: " ".join(map(str, arm.removed)), "mlp": attrgetter("mlp")},
        ),
        Column("chosen by", chosen_by, raw={"criterion": attrgetter("criterion")}),
        Column(
            "parameters",
            lambda arm: parameters(arm.num_parameters) if arm.num_parameters else "-",
            numeric=True,
            raw={"num_parameters": lambda arm: arm.num_parameters or None},
        ),
        Column("change, %", change, numeric=True, raw={"share_of_uncut": share}),
        *([Column(f"weights as {dtype}, MiB", weights, numeric=True, on=page)] if dtype in _BYTES else []),
    ]
    return Table(name="cost", caption="Size of every model", columns=columns, rows=arms)


def provenance(source: Source) -> Section | None:
    """The facts as a table, everything else folded."""
    first = source.runs[0]
    columns, scope = texts("what", "value"), _scope(first, source)
    table = Table(name="provenance", caption="What decides the numbers", columns=columns, rows=scope)
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
