"""How a report was made: model, items, decoding, versions and settings of the runs; and the size of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from layercut.evidence.comparison import ComparedRun, arm_of
from layercut.report import words
from layercut.report.elements import Block, Details, Section, bullet_list
from layercut.report.source import Source, model_settings
from layercut.report.table import Styled, Table, text_columns
from layercut.runs.environment import hide_home
from layercut.text import escape_inline, fenced_block, label_of, parameters_text

if TYPE_CHECKING:
    from layercut.evidence.study import StudyResults
    from layercut.runs.directory import RunFolder

_MODEL_KEYS = {
    "model": "model",
    "model_hash": "fingerprint of its weights",
    "revision": "revision",
    "dtype": "precision",
    "engine": "engine",
    "batch_size": "batch size",
}


def cost_section(source: Source) -> Section:
    """Make the section of sizes."""
    study: StudyResults = source.value
    variants = [arm_of(study.uncut), *(arm_of(run, study.uncut) for run in study.cuts)]
    note = (
        "Parameters are counted in the weight files. The KV cache shrinks with the share of removed layers. Speed is "
        "not measured in a study; `layercut prune` does."
    )
    blocks = (Details(summary="Layers, channels and parameters", blocks=(_sizes(variants), note)),)
    return Section(name="cost", title="What it saves", short="Size", blocks=blocks)


def _sizes(variants: Sequence[ComparedRun]) -> Table:
    whole = variants[0].num_parameters
    lines = []
    for variant in variants:
        change, count = "-", "-"
        if variant.num_parameters:
            count = parameters_text(variant.num_parameters)
            change = f"{100 * (variant.num_parameters / whole - 1):+.1f}" if whole and variant.is_cut else "-"
        share = f"{100 * variant.depth / variant.num_layers:.1f}" if variant.num_layers else "-"
        removed = [str(variant.depth), share, variant.label or "-"]
        lines.append([variant.name, *removed, chosen_by(variant), count, change])
    numeric = ("layers removed", "of the layers, %", "parameters", "change, %")
    columns = text_columns("model", *numeric[:2], "which", "chosen by", *numeric[2:], numeric=numeric)
    return Table(name="cost", caption="Size of every model", columns=columns, rows=lines)


def provenance_section(source: Source) -> Section:
    """The facts as a table, everything else folded."""
    columns, rows = text_columns("what", "value"), _facts(source.runs[0], source)
    blocks: list[Block] = [Table(name="provenance", caption="What decides the numbers", columns=columns, rows=rows)]
    if source.kind == "study":
        summary, own = "Plans, commands", [_runs_table(source.runs), *_settings(source.runs)]
    else:
        command = "\n".join(fenced_block(source.runs[0].environment["command"]))
        summary, own = "Command", [command, *_settings(source.runs)]
    blocks.append(Details(summary=f"{summary}, versions and settings of the {source.kind}", blocks=own))
    return Section(
        name="provenance",
        title="How this was made",
        short="Provenance",
        lead="Everything here comes from the run folder; the same folder gives the same report.",
        blocks=blocks,
    )


def _facts(run: RunFolder, source: Source) -> list[tuple[str, str]]:
    settings, environment = run.settings, run.environment
    study: StudyResults | None = source.value if source.kind == "study" else None
    known = model_settings(run)
    model = [(name, hide_home(str(known[key]))) for key, name in _MODEL_KEYS.items() if known.get(key) is not None]
    split = "selection" if source.kind == "sweep" else "report"
    apart = "no layer was chosen on them" if split == "report" else "used to choose layers, not to report"
    tasks = [task for task in settings.get("tasks") or () if isinstance(task, dict) and {"task", "readout"} <= {*task}]
    decoding = settings.get("decoding")
    decoded = ""
    if isinstance(decoding, dict):
        numbers = ", ".join(f"{key} {value:g}" for key, value in decoding.items() if isinstance(value, int | float))
        decoded = f"{'sampled' if decoding.get('temperature', 0) else 'greedy'} ({numbers})"
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    machine = f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_gib']} GiB"
    facts = [
        ("items", "" if source.kind in ("evaluation", "healing") else f"{split} items; {apart}"),
        ("test sets", "" if study is None else words.test_sets(study.rows)),
        (
            "tasks",
            ", ".join(f"{task['task']} ({task['readout']}, version {task.get('version', '?')})" for task in tasks),
        ),
        ("decoding", decoded),
        ("seed", str(settings.get("seed", "-"))),
        ("command", environment["command"]),
        ("layercut", version_of(environment)),
        ("versions", f"Python {environment['python']}, {packages}"),
        ("machine", f"{machine}, {environment['accelerator'] or 'no accelerator'}"),
        ("begun", f"{environment['time']} on {environment['platform']}"),
    ]
    return [*model, *((name, text) for name, text in facts if text)]


def version_of(environment: Mapping[str, Any]) -> str:
    """layercut's version, with its commit where it ran from a clone."""
    git = environment.get("git")
    commit = f", commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else ""
    return f"{environment['layercut']}{commit}"


def _runs_table(runs: Sequence[RunFolder]) -> Table:
    lines = []
    for run in runs:
        variant, command = arm_of(run), run.environment["command"]
        removed = " ".join(filter(None, (", ".join(map(str, variant.removed)), label_of((), variant.mlp))))
        version = version_of(run.environment)
        lines.append([run.name, removed or "none", chosen_by(variant), Styled(command, "code"), version])
    columns = text_columns("run", "removed, in order", "chosen by", "command", "layercut")
    return Table(name="provenance-runs", caption="Plans, commands and versions", columns=columns, rows=lines)


def chosen_by(variant: ComparedRun) -> str:
    """The criterion that chose the layers, and where the model comes from."""
    return "; ".join(filter(None, (variant.criterion if variant.is_cut else "", variant.origin))) or "-"


def _settings(runs: Sequence[RunFolder]) -> list[Block]:
    """Isolation, resumptions and settings of runs, those of the first one in full."""
    first = runs[0]
    notes = words.isolation_words(first.environment) + [
        f"{escape_inline(run.name)} was resumed {later['time']} under other versions or on another machine "
        f"(layercut {later['layercut']}); its environment.json has the details."
        for run in runs
        for later in run.environment.get("resumed", ())
    ]
    text = yaml.safe_dump(dict(first.settings), sort_keys=False, allow_unicode=True, width=110)
    settings = "\n".join(["```yaml", *map(hide_home, text.rstrip("\n").split("\n")), "```"])
    others = "Settings of the uncut run; those of the others are in their folders, in config.yaml."
    return [bullet_list(notes), *([others] if len(runs) > 1 else []), settings]
