"""Input of reports: one run folder, read once, and related folders of the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from layercut.errors import InputError
from layercut.evidence.diagnosis import load_diagnosis
from layercut.evidence.study import StudyResults, study_results
from layercut.evidence.sweep import Sweep, is_sweep
from layercut.runs.directory import DIAGNOSIS, METRICS, RunFolder, is_run
from layercut.runs.draft import DRAFT, DraftResult
from layercut.runs.environment import hide_home, shown_path
from layercut.runs.healing import entries_of, is_healing
from layercut.runs.study import UNCUT

Kind = Literal["study", "sweep", "diagnosis", "healing", "draft", "evaluation"]


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that sections may show. Numbers are compared once, here; sections only lay them out."""

    folder: Path
    kind: Kind  # of the folder itself
    own_runs: Mapping[str, RunFolder]  # the run folder of each part but the study
    texts: bool = True  # questions and answers are shown
    study: StudyResults | None = None
    sweep: Sweep | None = None
    diagnosis: dict[str, Any] | None = None  # content of diagnose.json
    healing: dict[str, Any] | None = None  # the last entry of ``healing`` in the checkpoint's plan.json
    draft: DraftResult | None = None
    evaluation: list[dict[str, Any]] | None = None  # rows of metrics.json

    @cached_property
    def model(self) -> str:
        """The original model, as it was named, of a path in a study only the last part; of a healing and an evaluation
        the model that was healed or asked."""
        if self.study is not None:
            plan = self.study.uncut.metrics().get("plan") or {}
            name = str(plan.get("model") or "the model")
            is_path = name.startswith(("/", ".", "~", "\\")) or name[1:3] == ":\\"
            return Path(name).name if is_path else name
        if self.draft is not None:
            return Path(self.draft.model).name
        if self.evaluation is not None:
            return self.own_runs["evaluation"].name
        if self.healing is not None:
            run = self.own_runs["healing"]
            cut = run.settings.get("cut", run.settings.get("uncut", {}))
            return hide_home(str(cut.get("model", run.name)))
        named = self.sweep.model if self.sweep is not None else (self.diagnosis or {}).get("model")
        return hide_home(str(named or "the model"))

    @property
    def runs(self) -> list[RunFolder]:
        """Every run folder that is shown, the original one of a study first."""
        of_study = [] if self.study is None else [self.study.uncut, *self.study.cuts]
        return [*of_study, *self.own_runs.values()]


def read_source(
    folder: Path,
    *,
    more: Sequence[Path] = (),
    seed: int | None = None,
    study: StudyResults | None = None,
    texts: bool = True,
) -> Source:
    """Read a run folder and what is shown with it; see ``layercut.report.reports.write_reports``.

    Raises:
        InputError: a folder that holds no finished run of these kinds, a second one of a kind, or another model.
    """
    kind: Kind = "study"
    value: Any = study
    if study is None:
        kind, value = _read(folder, seed)
    parts: dict[str, tuple[Path, Any]] = {kind: (folder, value)}
    for path in more:
        other, value = _read_with_others(path, seed)
        if other in parts:
            raise InputError(
                f"{shown_path(path)} is a second {other}; one page shows one study, one sweep, one diagnosis."
            )
        parts[other] = path, value
    own_runs = {name: RunFolder.open(path) for name, (path, _) in parts.items() if name != "study"}
    values: dict[str, Any] = {name: value for name, (_, value) in parts.items()}
    source = Source(folder=folder, kind=kind, own_runs=own_runs, texts=texts, **values)
    # Pruned runs of a study are paired with the original one item by item.
    first, *others = [*([] if source.study is None else [source.study.uncut]), *own_runs.values()]
    for run in others:
        if (model := _fingerprint(run)) != (known := _fingerprint(first)):
            raise InputError(
                f"{shown_path(run.path)} is of another model ({model}) than {shown_path(first.path)} ({known}); one "
                "page shows one model."
            )
    return source


def _read(folder: Path, seed: int | None) -> tuple[Kind, Any]:
    """The kind of a run folder, and what it holds."""
    if (folder / DRAFT).is_file():
        return "draft", DraftResult.load(folder)
    if is_healing(folder):
        return "healing", entries_of(RunFolder.open(folder))[-1]
    is_alone = not (is_run(folder / UNCUT) or (folder / DIAGNOSIS).is_file() or is_sweep(folder))
    if is_alone and (folder / METRICS).is_file() and (rows := RunFolder.open(folder).metrics()["rows"]):
        return "evaluation", rows
    return _read_with_others(folder, seed)


def _read_with_others(folder: Path, seed: int | None) -> tuple[Kind, Any]:
    """The same of a run that a page can show with others."""
    if (folder / DIAGNOSIS).is_file():
        return "diagnosis", load_diagnosis(folder)
    if is_sweep(folder):
        return "sweep", Sweep.load(folder)
    return "study", study_results(folder, seed=seed)


def model_settings(run: RunFolder) -> Mapping[str, Any]:
    """The settings of a run's model, which some runs have at the top."""
    model = run.settings.get("model")
    return model if isinstance(model, dict) else run.settings


def _fingerprint(run: RunFolder) -> str:
    """The fingerprint of a run's original model, or its name where there is none."""
    known = model_settings(run)
    return str(known.get("model_hash") or known.get("model"))
