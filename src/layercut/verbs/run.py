"""``run``: a study of plans, healing arms and tasks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from layercut.base_settings import Seed
from layercut.engines import ENGINES
from layercut.errors import InputError
from layercut.models.sources import depth_of
from layercut.runs.foreign_code import untrusted_code
from layercut.selection.base import Context
from layercut.selection.specs import LayerSpec, check_fits, parse_protected
from layercut.study.file import read_study_file, study_from_dict
from layercut.study.settings import StudySettings
from layercut.text import count_of
from layercut.verbs import VERBS, fields, verb_class
from layercut.verbs.base import Flag, Io, Shown, Verb, shown_outline

if TYPE_CHECKING:
    from layercut.study.job import StudyOutcome


class RunVerb(Verb):
    """Run a study: plans, criteria, healing, tasks and seeds.

    The same command again goes on where it was stopped; finished items are never done again. What fails is noted and
    the rest goes on; exit code 1 says so, and the same command tries it again.

    FILE.yaml may also hold the request of another verb, such as cut: {model: ..., remove: 24-26, out: ...}.

    Example: layercut run examples/quickstart.yaml
    """

    VERB = "run"
    FUNCTION = "run_study"
    POSITIONAL = ("study",)
    RETURNS = "Rows of comparisons, paths of reports and checkpoints, and what failed."
    RUNS_PROGRAMS = True

    study: Annotated[Any, Flag("FILE.yaml", argument=True)] = Field(
        description="YAML file, such as examples/quickstart.yaml."
    )
    out: fields.Out = Field(None, description="Run folder in place of the file's.")
    seed: Annotated[Seed | None, Flag("INTEGER")] = Field(None, description="Random seed, in place of the file's.")
    limit: int | None = Field(None, ge=1, description="At most this many items of each task; shown in every table.")
    report_to: fields.ReportTo

    trust_study_code: bool = Field(False, description="Let the file name code to be run: my.module:function.")

    def check(self) -> None:
        with self.trust():
            _ = self.other or self.settings

    def trust(self) -> AbstractContextManager[None]:
        """Code that the file names runs only where it is trusted."""
        return untrusted_code(self.file) if self.file and not self.trust_study_code else nullcontext()

    @cached_property
    def _data(self) -> Mapping[str, Any]:
        return self.study if isinstance(self.study, Mapping) else read_study_file(Path(self.study))

    @cached_property
    def other(self) -> Verb | None:
        """The request of another verb, where the file holds one: a verb, and its fields below; else None."""
        if isinstance(self.study, StudySettings) or len(self._data) != 1:
            return None
        ((verb, request),) = self._data.items()
        if verb not in VERBS or verb == self.VERB or not isinstance(request, Mapping):
            return None
        named = {str(name): value for name, value in request.items()}
        own = {name: value for name in ("out", "seed", "limit") if (value := getattr(self, name)) is not None}
        return verb_class(str(verb)).of(**named | own)

    @cached_property
    def settings(self) -> StudySettings:
        """The study: of the file, of what such a file holds, or as it was given; with the run's own folder and seed."""
        try:
            study = self.study if isinstance(self.study, StudySettings) else study_from_dict(self._data)
        except InputError as error:
            raise self._named(error) from error
        return study.replace(out=self.out or study.out, seeds=study.seeds if self.seed is None else (self.seed,))

    def _named(self, error: InputError) -> InputError:
        return InputError(f"{self.file}: {error}") if self.file else error

    @property
    def file(self) -> str | None:
        """Path of the study's file, for messages."""
        return None if isinstance(self.study, Mapping | StudySettings) else str(self.study)

    def fit(self) -> None:
        """Check plans, depths and protected layers against the model's config. Raises InputError: they do not fit."""
        with self.trust():
            if self.other is not None:
                self.other.fit()
                return
            try:
                _fit(self.settings)
            except InputError as error:
                raise self._named(error) from error

    def run(self, io: Io) -> Any:
        """Do all that is left; the study's outcome, or what the other verb gives."""
        from layercut.report.reports import write_reports
        from layercut.study.job import run_study

        with self.trust():
            if self.other is not None:
                return self.other.run(io)
            done = run_study(self.settings, limit=self.limit, console=io.console, say=io.say)
            study = done.study
            reports = {} if study is None else write_reports(done.folder, study=study)
            return done._replace(paths=reports | done.paths)

    def rehearse(self, io: Io) -> Shown:
        from layercut.study.job import outline_study

        with self.trust():
            if self.other is not None:
                return self.other.rehearse(io)
            return shown_outline(outline_study(self.settings, limit=self.limit))

    def returned(self, done: Any) -> StudyOutcome:
        """See ``Verb``; of another verb, what its function gives."""
        outcome: StudyOutcome = done if self.other is None else self.other.returned(done)
        return outcome

    def show(self, done: Any, io: Io) -> Shown:
        from layercut.report.comparison import comparison_tables

        if self.other is not None:
            with self.trust():
                return self.other.show(done, io)
        outcome: StudyOutcome = done
        failed = list(outcome.failed)
        if failed:
            failed.append(
                f"{count_of(len(failed), 'step')} of the study failed; the same command tries again what failed, and "
                "nothing else."
            )
        lines = [f"{name}: {path}" for name, path in outcome.paths.items()]
        return Shown(outcome.to_dict(), comparison_tables(outcome.rows), lines, notes=failed, failed=bool(failed))


def _fit(study: StudySettings) -> None:
    model = study.model
    check_fits(model, map(LayerSpec.parse, study.plans.values()), study.seed)
    depth = depth_of(model.model, model.revision) if study.criteria and not ENGINES[model.engine].is_served else None
    for wanted in study.depths if depth is not None else ():
        assert depth is not None
        number = wanted.layers(depth)
        if number >= depth:
            raise InputError(f"depth {wanted.text} leaves no layer of {depth}; choose 1 to {depth - 1}.")
        for criterion in study.criteria:
            stays = parse_protected(criterion.protect, depth) if criterion.protect else None
            Context(num_layers=depth, num_remove=number, protect=stays)
