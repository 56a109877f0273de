"""Provenance of a report: model, items, decoding, seeds, versions and settings of the runs; and the size of every
model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import yaml

from layercut.evidence.comparison import SELECTED_ON, ComparedRun, arm_of
from layercut.evidence.study import further_reports
from layercut.report import words
from layercut.report.elements import Block, Details, Section, bullets
from layercut.report.table import Column, Styled, Surface, Table, texts
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home
from layercut.text.markup import escape, fenced
from layercut.text.numbers import parameters
from layercut.text.removal import label_of

if TYPE_CHECKING:
    from layercut.report.source import Source

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MODEL_KEYS = {
    "model": "model",
    "model_hash": "fingerprint of its weights",
    "revision": "revision",
    "dtype": "precision",
    "engine": "engine",
    "batch_size": "batch size",
}


def cost(source: Source) -> Section | None:
    """Make the section of sizes; None without a study."""
    study = source.study
    if study is None:
        return None
    arms = [arm_of(study.uncut), *(arm_of(run, study.uncut) for run in study.cuts)]
    table = _sizes(arms, str(study.uncut.settings.get("dtype", "")))
    note = (
        "Parameters are counted in the weight files. The KV cache shrinks with the share of removed layers. Speed is "
        "not measured in a study; `layercut prune` does."
    )
    blocks = (Details(summary="Layers, channels and parameters", blocks=(table, note)),)
    return Section(name="cost", title="What it saves", short="Size", blocks=blocks)


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


def further(source: Source) -> Section | None:
    """Make the section that links the reports of a study's sweep and diagnosis; None without them."""
    reports = further_reports(source.folder) if source.study is not None else []
    links = [f"[{path.parent.name}]({path.parent.name}/{path.name})" for path in reports]
    if not links:
        return None
    return Section(name="further", title="Sweep and diagnosis", blocks=(bullets(links),), on=Surface.MARKDOWN)


def provenance(source: Source) -> Section:
    """The facts as a table, everything else folded."""
    columns, rows = texts("what", "value"), _facts(source.runs[0], source)
    blocks: list[Block] = [Table(name="provenance", caption="What decides the numbers", columns=columns, rows=rows)]
    if source.study is not None:
        runs = [source.study.uncut, *source.study.cuts]
        summary = "Plans, commands, versions and settings of the study"
        blocks.append(Details(summary=summary, blocks=[_runs_table(runs), *_settings(runs)]))
    for name, run in source.own_runs.items():
        on = Surface.REPORTS if name == source.kind else Surface.PAGE
        own = ["\n".join(fenced(run.environment["command"])), *_settings([run])]
        blocks.append(Details(summary=f"Command, versions and settings of the {name}", blocks=own, on=on))
    return Section(
        name="provenance",
        title="How this was made",
        short="Provenance",
        lead="Everything here comes from the run folder; the same folder gives the same report.",
        blocks=blocks,
    )


def _settings(runs: Sequence[RunFolder]) -> list[Block]:
    """Isolation, resumptions and settings of runs, those of the first one in full."""
    notes = words.isolation(runs[0].environment)
    for run in runs:
        for later in run.environment.get("resumed", ()):
            notes.append(
                f"{escape(run.name)} was resumed {later['time']} under other versions or on another machine "
                f"(layercut {later['layercut']}); its environment.json has the details."
            )
    blocks: list[Block] = [bullets(notes)]
    if len(runs) > 1:
        blocks.append("Settings of the uncut run; the others differ in what is listed after it.")
    blocks.append(_yaml(runs[0].settings))
    for run in runs[1:]:
        blocks += [f"{escape(run.name)}:", _yaml(_changed(runs[0].settings, run.settings))]
    return blocks


def version_of(environment: Mapping[str, Any]) -> str:
    """layercut's version, with its commit where it ran from a clone."""
    git = environment.get("git")
    version = str(environment["layercut"]) + (f", commit {git['commit'][:12]}" if git else "")
    return version + (" with changes" if git and git["dirty"] else "")


def _runs_table(runs: Sequence[RunFolder]) -> Table:
    arms = {run.name: arm_of(run) for run in runs}

    def removed(run: RunFolder) -> str:
        arm = arms[run.name]
        return " ".join(filter(None, (", ".join(map(str, arm.removed)), label_of((), arm.mlp)))) or "none"

    return Table(
        name="provenance-runs",
        caption="Plans, commands and versions",
        columns=[
            Column("run", lambda run: run.name),
            Column("removed, in order", removed),
            Column("chosen by", lambda run: chosen_by(arms[run.name])),
            Column("command", lambda run: Styled(run.environment["command"], "code")),
            Column("layercut", lambda run: version_of(run.environment)),
        ],
        rows=runs,
    )


def chosen_by(arm: ComparedRun) -> str:
    """The criterion that chose the layers, and where the model comes from."""
    return "; ".join(filter(None, (arm.criterion if arm.is_cut else "", arm.origin))) or "-"


def _yaml(data: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=110)
    return "\n".join(["```yaml", *(hide_home(line) for line in text.rstrip("\n").split("\n")), "```"])


def _changed(base: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name in dict.fromkeys([*base, *other]):
        before, after = base.get(name), other.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            inner = _changed(before, after)
            if inner:
                changed[name] = inner
        elif before != after:
            changed[name] = after
    return changed


def _facts(run: RunFolder, source: Source) -> list[list[str]]:
    settings, environment = run.settings, run.environment
    model = settings.get("model")
    known: Mapping[str, Any] = model if isinstance(model, dict) else settings
    scope = [[name, hide_home(str(known[key]))] for key, name in _MODEL_KEYS.items() if known.get(key) is not None]
    split = source.sweep.split if source.study is None and source.sweep is not None else "report"
    apart = "; no layer was chosen on them" if split == "report" else "; used to choose layers, not to report"
    if source.study is not None and any(SELECTED_ON in row.note for row in source.study.rows):
        apart = "; a plan was selected on some of them, see the notes at the scores"
    if source.kind not in ("evaluation", "healing"):
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
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    scope.append(["versions", f"Python {environment['python']}, {packages}"])
    machine = [environment["cpu"], f"{environment['cores']} cores", f"{environment['memory_gib']} GiB"]
    machine.append(environment["accelerator"] or "no accelerator")
    scope.append(["machine", ", ".join(str(part) for part in machine)])
    scope.append(["begun", f"{environment['time']} on {environment['platform']}"])
    return scope
