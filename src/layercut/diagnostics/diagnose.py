"""Diagnose what exactly is damaged in pruned models; later commands in the same folder may add diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from layercut.diagnostics import DIAGNOSTICS, DiagnoseSettings, chosen_diagnostics, is_plan, load_diagnostic
from layercut.diagnostics.session import DiagnosticSession, SessionModel
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.progress import Say
from layercut.progress.bars import RunProgress
from layercut.runs.atomic import write_json
from layercut.runs.directory import DIAGNOSIS, RunFolder
from layercut.runs.dry_run import Outline
from layercut.runs.settings import FORMAT_VERSION, read_format
from layercut.runs.study import UNCUT
from layercut.sandbox.runner import describe_or_why_not
from layercut.selection.specs import plan_of
from layercut.settings import ModelSettings
from layercut.surgery.plan import CutPlan, origin_of_plan
from layercut.tasks.cells import folder_name
from layercut.text import count_of


class Diagnosed(NamedTuple):
    """The results of a diagnosis and their file."""

    file: Path
    """diagnose.json in the run folder."""
    data: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.file.parent

    @property
    def report(self) -> Path:
        """The Markdown page that ``layercut.write_reports`` makes of the file."""
        return self.file.with_suffix(".md")


class PlannedDiagnosis:
    """A diagnosis of pruned models, which are plans of the original model's layers, or other models."""

    def __init__(
        self,
        model: ModelSettings,
        cuts: Sequence[str],
        how: DiagnoseSettings,
        *,
        out: Path | None,
        seed: int,
        say: Say,
    ) -> None:
        """Nothing is asked yet. Raises InputError: a diagnostic, plan or checkpoint that cannot be used."""
        uncut = ModelHandle(model)
        self.model, self.limit, self.seed = model.model, how.limit, seed
        self.models = [_plan_model(uncut, UNCUT, uncut.plan()), *(_pruned_model(uncut, cut, seed) for cut in cuts)]
        for before, after in combinations(self.models, 2):
            if (before.source, before.plan.key) == (after.source, after.plan.key):
                raise InputError(f"{before.name} and {after.name} are the same model; give each cut once.")
            if before.name == after.name:
                raise InputError(f"two models are called {after.name!r}; rename one of their folders.")
        for each in self.models:
            say(f"{each.name}: {each.description}")
        self.names = chosen_diagnostics(how.only)
        self.folder = out or Path("runs", folder_name(f"{model.model}-diagnose"))
        self.settings = {  # that decide the numbers in the folder
            **uncut.describe(),
            "cuts": {each.name: [each.source, *each.plan.gone.values()] for each in self.models[1:]},
            "limit": how.limit,
            "seed": seed,
        }

    def outline(self) -> Outline:
        """What would be asked."""
        lines = [f"{name}: {DIAGNOSTICS[name].summary}" for name in self.names]
        items = count_of(self.limit, "item")
        lines.append(f"at most {items} of each kind, of {count_of(len(self.models), 'model')}")
        return Outline(steps=(), disk_bytes=0, memory_bytes=0, folder=self.folder, more=tuple(lines))

    def run(self, console: Console, say: Say) -> Diagnosed:
        """Run the diagnostics one after the other in the folder, and write diagnose.json after each."""
        isolation = None
        if "brackets" in self.names:  # the diagnostic that runs programs
            isolation = describe_or_why_not()
            say(f"isolation of generated programs: {isolation}")
        with RunFolder.begin(self.folder, self.settings, sandbox=isolation) as run:
            file = run.path / DIAGNOSIS
            # Results of an earlier command stay: the settings hold the models, so it was on the same ones.
            results = read_format(file, "diagnosis")["diagnostics"] if file.is_file() else {}
            data: dict[str, Any] = {
                "format_version": FORMAT_VERSION,
                "model": self.model,
                "arms": [
                    {
                        "name": model.name,
                        "describe": model.description,
                        "layers": list(model.plan.kept) if model.source == self.models[0].source else [],
                    }
                    for model in self.models
                ],
                "limit": self.limit,
                "seed": self.seed,
                "diagnostics": results,
            }
            progress = RunProgress(console, steps=self.names)
            notes: list[str] = []
            with progress.running():
                for name in self.names:
                    progress.step(name)
                    progress.begin(f"Diagnosing {name}", "")
                    session = DiagnosticSession(
                        self.models, run.journal, limit=self.limit, seed=self.seed, progress=progress
                    )
                    result = load_diagnostic(name)(session)
                    progress.end(f"Diagnosed {name}")
                    notes += session.notes
                    rows = [row.to_dict() for row in result["rows"]]
                    results[name] = {**result, "rows": rows, "notes": [*result["notes"], *session.notes]}
                    data["diagnostics"] = {each: results[each] for each in chosen_diagnostics(list(results))}
                    write_json(file, data)
            for line in dict.fromkeys(notes):
                say(line)
            if not run.is_finished:
                run.write_metrics([])
            return Diagnosed(file, data)


def _plan_model(uncut: ModelHandle, name: str, plan: CutPlan) -> SessionModel:
    return SessionModel(name=name, description=plan.describe(), source="uncut", plan=plan, engine=lambda: uncut.engine)


def _pruned_model(uncut: ModelHandle, cut: str, seed: int) -> SessionModel:
    """A plan on the original model, or another model."""
    path = Path(cut)
    if is_plan(cut):
        file = path.resolve().parent.name if path.name == "plan.json" else path.stem
        words = file if cut.endswith(".json") else cut.replace(":", "-").replace(" ", "")
        return _plan_model(uncut, folder_name(words), plan_of(uncut, cut, seed))
    other = ModelHandle(uncut.settings.replace(model=cut, revision=None))
    plan = other.plan()
    return SessionModel(
        name=folder_name(path.resolve().parent.name if path.name == "checkpoint" else path.resolve().name),
        description=f"{origin_of_plan(plan.to_dict()) or 'another model'}, {plan.num_layers} decoder layers",
        source=f"checkpoint {other.metadata.model_hash}",
        plan=plan,
        engine=lambda: other.engine,
    )
