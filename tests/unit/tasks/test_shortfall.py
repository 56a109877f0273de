"""Where a task has fewer items than were asked for, every verb says how many came, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.diagnostics import DiagnoseSettings
from layercut.diagnostics.diagnose import PlannedDiagnosis
from layercut.engine.handle import ModelHandle
from layercut.progress import show_nothing
from layercut.report.reports import write_reports
from layercut.selection.select import SelectionRequest, select_layers
from layercut.selection.specs import LayerSpec
from layercut.selection.sweep import plan_sweep
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.study.file import study_from_dict
from layercut.study.job import outline_study
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample
from layercut.tasks.cells import evaluation_outline
from layercut.tasks.selected_items import describe_shortfall
from tests.support.answers import write_lines
from tests.support.studies import NUM_ITEMS, Letters
from tests.support.tiny import save_tiny

LETTERS = f"{__name__}:easy"
ASKED = NUM_ITEMS + 3


@dataclass(frozen=True)
class Easy(Letters):
    """Without guessing, so that a model of random weights is above it and a search begins."""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {"accuracy": 0.0}


def easy() -> Easy:
    return Easy()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    folder = save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")
    return ModelSettings(model=str(folder), dtype="float32", device="cpu")


def test_the_line_says_how_many_and_where_they_come_from(tmp_path: Path) -> None:
    task = load_task("arithmetic")
    assert describe_shortfall(task, "report", 250) == describe_shortfall(task, "report", None) == ""
    assert describe_shortfall(task, "report", 300).startswith("arithmetic: only 250 of the 300")
    rows = ({"question": f"Question {i}?", "answer": f"So.\n#### {i}"} for i in range(20))
    halved = load_task("gsm8k", data=write_lines(tmp_path / "a.jsonl", rows))
    there = len(halved.samples("selection", None))
    assert describe_shortfall(halved, "selection", 100).startswith(f"gsm8k: only {there} of the 100 requested")


@pytest.mark.parametrize("limit", [NUM_ITEMS, ASKED])
@pytest.mark.parametrize("verb", ["eval", "sweep", "select", "run"])
def test_every_verb_says_it(verb: str, limit: int, tiny: ModelSettings, tmp_path: Path) -> None:
    said: list[str] = []
    tasks = (TaskSettings(task=LETTERS, limit=limit),)
    more: dict[str, Any] = {"seed": 0, "decoding": DecodingSettings(), "say": said.append}
    if verb == "eval":
        handle = ModelHandle(tiny)
        evaluation_outline(handle, handle.plan(), tasks, tmp_path / "out", 0, said.append)
    elif verb == "sweep":
        plan_sweep(tiny, objective=tasks, out=tmp_path / "out", **more).outline()
    elif verb == "select":
        request = SelectionRequest(remove=LayerSpec.parse("1 layer"), criterion="task_accuracy", tasks=tasks)
        select_layers(tiny, request, out=tmp_path / "out", progress=show_nothing, say=said.append)
    else:
        objective = [{"task": LETTERS, "limit": limit}]
        settings = {
            "model": tiny.model,
            "dtype": "float32",
            "device": "cpu",
            "out": str(tmp_path / "study"),
            "tasks": [{"task": LETTERS, "limit": limit}],
            "criteria": [{"criterion": "task_accuracy", "objective": objective}],
            "depths": [1],
        }
        outline = outline_study(study_from_dict(settings))
        said += outline.lines()
    split = "report" if verb == "eval" else "selection"
    line = f"letters: only {NUM_ITEMS} of the {limit} requested {split} items; the task has no more"
    assert (line in said) == (limit == ASKED), said
    if verb == "run":
        assert (line.replace("selection", "report") in said) == (limit == ASKED)
    if verb == "select":
        assert any(f"scored again on 0 of {limit} held-out items" in one for one in said)


def test_a_diagnosis_says_it_and_its_page_shows_it(
    tiny: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layercut.diagnostics.brackets.NUM_FUNCTIONS", 2)
    said: list[str] = []
    how = DiagnoseSettings(only=("brackets",), limit=3)
    diagnosis = PlannedDiagnosis(tiny, ["reverse:1"], how, out=tmp_path / "out", seed=0, say=said.append)
    done = diagnosis.run(Console(file=StringIO()), said.append)
    line = "functions: only 2 of the 3 requested items; there are no more"
    assert said[-1] == line and line in done.data["diagnostics"]["brackets"]["notes"]
    assert line in write_reports(done.folder)["report"].read_text()
