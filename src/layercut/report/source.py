"""Input of reports, a run folder that is read once; and how a report was made: model, items, versions, commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from layercut.evidence.diagnosis import load_diagnosis
from layercut.evidence.study import KEEP, StudyResults, study_results
from layercut.evidence.sweep import Sweep
from layercut.report import words
from layercut.report.elements import Block, Section, Table, bullet_list, text_columns
from layercut.runs.directory import DIAGNOSIS, SWEEP, RunFolder, is_run_folder
from layercut.runs.environment import hide_home
from layercut.text import escape_inline

Kind = Literal["study", "sweep", "diagnosis"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that sections may show. Numbers are compared once, here; sections only lay them out."""

    folder: Path
    kind: Kind
    value: Any
    """Its results: StudyResults, Sweep, or the content of diagnose.json."""
    runs: Sequence[RunFolder]  # of a study, the original model's first
    use: str = "all"  # what plans of a study are judged for, and the share that they have to keep
    keep: float = KEEP

    @cached_property
    def model(self) -> str:
        """The original model, as it was named, of a path in a study only the last part."""
        if self.kind == "study":
            name = str((self.runs[0].metrics().get("plan") or {}).get("model") or "the model")
            is_path = name.startswith(("/", ".", "~", "\\")) or name[1:3] == ":\\"
            return Path(name).name if is_path else name
        return hide_home(str((self.value.model if self.kind == "sweep" else self.value.get("model")) or "the model"))


def read_source(folder: Path, study: StudyResults | None = None) -> Source:
    """Read a run folder. InputError: it holds no finished run of these kinds."""
    kind: Kind = "study"
    value: Any = study
    if study is None and (folder / DIAGNOSIS).is_file():
        kind, value = "diagnosis", load_diagnosis(folder)
    elif study is None and (folder / SWEEP).is_file():
        kind, value = "sweep", Sweep.load(folder)
    elif study is None:
        value = study_results(folder)
    runs = [value.uncut, *value.cuts] if kind == "study" else [RunFolder.open(folder)]
    return Source(folder=folder, kind=kind, value=value, runs=runs)


def provenance_section(source: Source) -> Section:
    """What decides the numbers, as a table."""
    # A study or a run of prune was begun in a folder of its own, before the models in it were asked.
    own = [RunFolder.open(source.folder)] if source.kind == "study" and is_run_folder(source.folder) else []
    folders = [*own, *source.runs]
    columns, rows = text_columns("what", "value"), _facts(folders[0].environment, source)
    blocks: list[Block] = [Table(name="provenance", caption="What decides the numbers", columns=columns, rows=rows)]
    blocks.append(bullet_list(words.isolation_words(source.runs[0].environment) + _resumptions(folders)))
    return Section(
        name="provenance",
        title="How this was made",
        short="Provenance",
        lead="Everything here comes from the run folder; the same folder gives the same report.",
        blocks=blocks,
    )


def _facts(environment: Mapping[str, Any], source: Source) -> list[tuple[str, str]]:
    items = "report items; no layer was chosen on them"
    if source.kind == "sweep":
        items = "selection items; used to choose layers, not to report"
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    git = environment.get("git")
    commit = f", commit {git['commit'][:12]}{' with changes' if git['dirty'] else ''}" if git else ""
    machine = f"{environment['cpu']}, {environment['cores']} cores, {environment['memory_gib']} GiB"
    facts = [
        ("items", items),
        ("test sets", words.test_set_words(source.value.rows) if source.kind == "study" else ""),
        ("seed", str(source.runs[0].settings.get("seed", "-"))),
        ("command", environment["command"]),
        ("layercut", f"{environment['layercut']}{commit}"),
        ("versions", f"Python {environment['python']}, {packages}"),
        ("machine", f"{machine}, {environment['accelerator'] or 'no accelerator'}"),
        ("begun", f"{environment['time']} on {environment['platform']}"),
    ]
    return [(name, text) for name, text in facts if text]


def _resumptions(folders: Sequence[RunFolder]) -> list[str]:
    return [
        f"{escape_inline(run.name)} was resumed {later['time']} under other versions or on another machine "
        f"(layercut {later['layercut']}); its environment.json has the details."
        for run in folders
        for later in run.environment.get("resumed", ())
    ]
