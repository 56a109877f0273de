"""Provenance of runs and models: commands, versions, machine and settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from layercut.evidence.comparison import ComparedRun, arm_of
from layercut.report import words
from layercut.report.table import Column, Part, Styled, Table, markdown
from layercut.runs.atomic import write_text
from layercut.runs.directory import RunFolder
from layercut.runs.environment import hide_home
from layercut.text.markup import escape, fenced
from layercut.text.removal import label_of


def provenance(runs: Sequence[RunFolder]) -> list[Part]:
    """Commands, versions, machine and settings of runs, the first one in full; of several runs the plans, too."""
    first = runs[0].environment
    machine = [first["cpu"], f"{first['cores']} cores", f"{first['memory_gib']} GiB", first["accelerator"]]
    alone = len(runs) == 1
    parts: list[Part] = [*fenced(first["command"])] if alone else [_runs_table(runs)]
    parts += [
        "",
        f"- Begun {first['time']} on {first['platform']} ({', '.join(str(fact) for fact in machine if fact)}).",
        f"- {f'layercut {version_of(first)}, ' if alone else ''}{python_of(first)}.",
        *words.isolation(first),
    ]
    for run in runs:
        for later in run.environment.get("resumed", ()):
            parts.append(
                f"- {escape(run.name)} was resumed {later['time']} under other versions or on another machine "
                f"(layercut {later['layercut']}); its environment.json has the details."
            )
    parts.append("")
    if not alone:
        parts += ["Settings of the uncut run; the others differ in what is listed after it.", ""]
    parts += [*_yaml(runs[0].settings), ""]
    for run in runs[1:]:
        parts += [f"{escape(run.name)}:", "", *_yaml(_changed(runs[0].settings, run.settings)), ""]
    return parts


def write_report(run: RunFolder, name: str, lines: Sequence[Part]) -> Path:
    """Write a report of one run into its folder, with the run's provenance at the end; gives its path."""
    text = markdown([*lines, "## How this was made", "", *provenance([run])])
    write_text(run.path / name, "\n".join(text).rstrip("\n") + "\n")
    return run.path / name


def version_of(environment: Mapping[str, Any]) -> str:
    """layercut's version, with its commit where it ran from a clone."""
    git = environment.get("git")
    version = str(environment["layercut"]) + (f", commit {git['commit'][:12]}" if git else "")
    return version + (" with changes" if git and git["dirty"] else "")


def python_of(environment: Mapping[str, Any]) -> str:
    """Python and the packages that decide numbers, with their versions."""
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return f"Python {environment['python']}, {packages}"


def _runs_table(runs: Sequence[RunFolder]) -> Table:
    arms = {run.name: arm_of(run) for run in runs}
    return Table(
        name="provenance-runs",
        caption="Plans, commands and versions",
        columns=[
            Column("run", lambda run: run.name),
            Column("removed, in order", lambda run: removed_in_order(arms[run.name]) or "none"),
            Column("chosen by", lambda run: chosen_by(arms[run.name])),
            Column("command", lambda run: Styled(run.environment["command"], "code")),
            Column("layercut", lambda run: version_of(run.environment)),
        ],
        rows=runs,
    )


def removed_in_order(arm: ComparedRun) -> str:
    """The layers in order of removal, and the share of MLP channels."""
    return " ".join(filter(None, (", ".join(map(str, arm.removed)), label_of((), arm.mlp))))


def chosen_by(arm: ComparedRun) -> str:
    """The criterion that chose the layers, and where the model comes from."""
    return "; ".join(filter(None, (arm.criterion if arm.is_cut else "", arm.origin))) or "-"


def _yaml(data: Mapping[str, Any]) -> list[str]:
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=110)
    return ["```yaml", *(hide_home(line) for line in text.rstrip("\n").split("\n")), "```"]


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
