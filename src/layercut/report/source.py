"""Input of reports: one run folder, read once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from layercut.evidence.diagnosis import load_diagnosis
from layercut.evidence.study import StudyResults, study_results
from layercut.evidence.sweep import Sweep, is_sweep
from layercut.runs.directory import DIAGNOSIS, METRICS, RunFolder, is_run
from layercut.runs.draft import DRAFT, DraftResult
from layercut.runs.environment import hide_home
from layercut.runs.healing import entries_of, is_healing
from layercut.runs.study import UNCUT

Kind = Literal["study", "sweep", "diagnosis", "healing", "draft", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that sections may show. Numbers are compared once, here; sections only lay them out."""

    folder: Path
    kind: Kind
    value: Any
    """Its results: StudyResults, Sweep or DraftResult; the content of diagnose.json; the last entry of
    ``healing`` in the checkpoint's plan.json; the rows of an evaluation's metrics.json."""
    runs: Sequence[RunFolder]  # of a study, the original model's first
    texts: bool = True  # questions and answers are shown

    @cached_property
    def model(self) -> str:
        """The original model, as it was named, of a path in a study only the last part; of a healing and an evaluation
        the model that was healed or asked."""
        run = self.runs[0]
        match self.kind:
            case "study":
                name = str((run.metrics().get("plan") or {}).get("model") or "the model")
                is_path = name.startswith(("/", ".", "~", "\\")) or name[1:3] == ":\\"
                return Path(name).name if is_path else name
            case "draft":
                return Path(self.value.model).name
            case "evaluation":
                return run.name
            case "healing":
                cut = run.settings.get("cut", run.settings.get("uncut", {}))
                return hide_home(str(cut.get("model", run.name)))
        return hide_home(str((self.value.model if self.kind == "sweep" else self.value.get("model")) or "the model"))


def read_source(
    folder: Path, *, seed: int | None = None, study: StudyResults | None = None, texts: bool = True
) -> Source:
    """Read a run folder; see ``layercut.report.reports.write_reports``.

    Raises:
        InputError: a folder that holds no finished run of these kinds.
    """
    kind: Kind = "study"
    value: Any = study
    if study is None:
        kind, value = _read(folder, seed)
    runs = [value.uncut, *value.cuts] if kind == "study" else [RunFolder.open(folder)]
    return Source(folder=folder, kind=kind, value=value, runs=runs, texts=texts)


def _read(folder: Path, seed: int | None) -> tuple[Kind, Any]:
    """The kind of a run folder, and what it holds."""
    if (folder / DRAFT).is_file():
        return "draft", DraftResult.load(folder)
    if is_healing(folder):
        return "healing", entries_of(RunFolder.open(folder))[-1]
    if (folder / DIAGNOSIS).is_file():
        return "diagnosis", load_diagnosis(folder)
    if is_sweep(folder):
        return "sweep", Sweep.load(folder)
    is_alone = not is_run(folder / UNCUT) and (folder / METRICS).is_file()
    if is_alone and (rows := RunFolder.open(folder).metrics()["rows"]):
        return "evaluation", rows
    return "study", study_results(folder, seed=seed)


def model_settings(run: RunFolder) -> Mapping[str, Any]:
    """The settings of a run's model, which some runs have at the top."""
    model = run.settings.get("model")
    return model if isinstance(model, dict) else run.settings
