"""Cost: layers and parameters of every plan."""

from __future__ import annotations

from typing import Any

from layercut.evidence.comparison import arm_of
from layercut.report.elements import Details, Section, Table
from layercut.report.html.prose import prose
from layercut.report.html.source import Source
from layercut.surgery.plan import format_layers
from layercut.text.numbers import parameters

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def cost(source: Source) -> Section | None:
    """None without a study."""
    study = source.study
    if study is None:
        return None
    arms = [arm_of(study.uncut), *(arm_of(run, study.uncut) for run in study.cuts)]
    whole = arms[0]
    dtype = str(study.uncut.settings.get("dtype", ""))
    head = ["model", "layers removed", "of the layers, %", "which", "chosen by", "parameters", "change, %"]
    raw: list[list[Any]] = [
        ["model", "removed", "num_layers", "layers", "criterion", "num_parameters", "share_of_uncut"]
    ]
    if dtype in _BYTES:
        head.append(f"weights as {dtype}, MiB")
    rows = []
    for arm in arms:
        known = bool(arm.num_parameters and whole.num_parameters)
        share = (arm.num_parameters or 0) / (whole.num_parameters or 1)
        cells = [
            arm.name,
            str(len(arm.removed)),
            f"{100 * len(arm.removed) / arm.num_layers:.1f}" if arm.num_layers else "-",
            format_layers(arm.removed) or "-",
            "; ".join(filter(None, (arm.criterion if arm.removed else "", arm.origin))) or "-",
            parameters(arm.num_parameters) if arm.num_parameters else "-",
            f"{100 * (share - 1):+.1f}" if known and arm.removed else "-",
        ]
        if dtype in _BYTES:
            cells.append(f"{arm.num_parameters * _BYTES[dtype] / 2**20:,.0f}" if arm.num_parameters else "-")
        rows.append(cells)
        plan = [arm.name, len(arm.removed), arm.num_layers, " ".join(map(str, arm.removed)), arm.criterion]
        raw.append([*plan, arm.num_parameters or "", share if known else ""])
    note = (
        "Parameters are counted in the weight files. The KV cache shrinks with the share of removed layers. Speed is "
        "not measured in a study; `layercut diagnose --only cost` does."
    )
    numeric = frozenset({1, 2, 5, 6, 7})
    table = Table(name="cost", caption="Size of every model", head=head, rows=rows, numeric=numeric, raw=raw)
    return Section(
        name="cost",
        title="What it saves",
        short="Size",
        blocks=(Details(summary=table.caption, blocks=(table, prose(note))),),
    )
