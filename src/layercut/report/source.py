"""Input of reports: one run folder, read once, and related folders of the same model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from layercut.errors import InputError
from layercut.evidence.diagnosis import load
from layercut.evidence.study import StudyResults, study_results
from layercut.evidence.sweep import Sweep, is_sweep
from layercut.report.first import FirstScreen, first_screen
from layercut.report.html.layout import browser
from layercut.runs.directory import DIAGNOSIS, RunFolder
from layercut.runs.environment import hide_home
from layercut.runs.settings import shown


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that sections may show. Numbers are compared once, here; sections only lay them out."""

    study: StudyResults | None = None
    sweep: Sweep | None = None
    sweep_run: RunFolder | None = None
    diagnosis: dict[str, Any] | None = None
    """Content of diagnose.json."""
    diagnosis_run: RunFolder | None = None
    texts: bool = True
    """Questions and answers are shown."""

    @property
    def model(self) -> str:
        """The original model, as it was named."""
        if self.study is not None:
            return _model_name(self.study.uncut)
        named = self.sweep.model if self.sweep is not None else str((self.diagnosis or {}).get("model", "the model"))
        return hide_home(named)

    @cached_property
    def first(self) -> FirstScreen | None:
        """The answer of a study."""
        return None if self.study is None else first_screen(self.study.uncut.path.parent, self.study)

    @cached_property
    def browser(self) -> Markup | None:
        """All answers of a study, packed; None of a page without texts."""
        return browser(self.study) if self.study is not None and self.texts else None

    @property
    def runs(self) -> list[RunFolder]:
        """Every run folder that is shown, the original one of a study first."""
        found = [] if self.study is None else [self.study.uncut, *self.study.cuts]
        return [*found, *(run for run in (self.sweep_run, self.diagnosis_run) if run is not None)]


def read_source(
    folder: Path,
    *,
    more: Sequence[Path] = (),
    seed: int | None = None,
    study: StudyResults | None = None,
    texts: bool = True,
) -> Source:
    """Read a study, a sweep or a diagnosis, and what goes with it; see ``layercut.report.reports.write_reports``.

    Raises:
        InputError: a folder that holds no finished run of these kinds, a second one of a kind, or another model.
    """
    found: dict[str, Any] = {}
    for path in (Path(folder), *map(Path, more)):
        if (path / DIAGNOSIS).is_file():
            parts = {"diagnosis": load(path), "diagnosis_run": RunFolder.open(path)}
        elif is_sweep(path):
            parts = {"sweep": Sweep.load(path), "sweep_run": RunFolder.open(path)}
        else:
            own = study if path == Path(folder) else None
            parts = {"study": own or study_results(path, seed=seed)}
        if found.keys() & parts.keys():
            kind = next(iter(parts))
            raise InputError(f"{shown(path)} is a second {kind}; one page shows one study, one sweep, one diagnosis.")
        found |= parts
    source = Source(**found, texts=texts)
    _check_model(source)
    return source


def _fingerprint(run: RunFolder) -> str:
    """Fingerprint of the weights of a run's model; its name where the run does not record one."""
    model = run.settings.get("model")
    known = model if isinstance(model, dict) else run.settings
    return str(known.get("model_hash") or known.get("model"))


def _model_name(run: RunFolder) -> str:
    """The original model as it was named; of a path only the last part."""
    plan = run.metrics().get("plan") or {}
    name = str(plan.get("model") or "the model")
    is_path = name.startswith(("/", ".", "~", "\\")) or name[1:3] == ":\\"
    return Path(name).name if is_path else name


def _check_model(source: Source) -> None:
    first = source.runs[0]
    for run in source.runs[1:]:
        if source.study is not None and run in source.study.cuts:
            continue  # compare_runs has paired their items
        names = [_fingerprint(one) for one in (first, run)]
        if names[0] != names[1]:
            raise InputError(
                f"{shown(run.path)} is of another model ({names[1]}) than {shown(first.path)} ({names[0]}); "
                "one page shows one model."
            )
