"""An evaluation that is written as lm-eval does is read by lm-eval's own table, and back as the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from layercut.cli.console import IO
from layercut.evidence.two_runs import compare_two
from layercut.requests.evaluate import EvalRequest
from layercut.runs.directory import RunFolder
from layercut.runs.logs import open_log
from layercut.tasks.log_samples import FOLDER
from tests.support.tiny import save_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    place = tmp_path_factory.mktemp("logged")
    model = save_tiny("llama", place / "tiny")
    for _ in range(2):  # the second time files are replaced, not added
        request = EvalRequest.of(
            model=model, tasks="arithmetic,copy", readouts="short,rank", limit=6, log_samples=True, out=place / "run"
        )
        request.run(IO)
    return RunFolder.open(place / "run")


def test_the_samples_are_the_runs_own_answers(run: RunFolder) -> None:
    found = open_log(run.path / FOLDER)
    assert found is not None
    assert len(list((run.path / FOLDER).iterdir())) == 2 + 1
    for task in ("arithmetic", "copy"):
        for readout in ("short", "rank"):
            ours, read = ({one["question"]: one for one in of.records(task, readout)} for of in (run, found))
            assert len(ours) == 6 and ours.keys() == read.keys()
            for question, one in ours.items():
                same = ("metrics", "completion") if readout == "short" else ("metrics",)
                assert all(read[question][name] == one[name] for name in same)


def test_two_logs_are_compared_by_item(run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.path / FOLDER, tmp_path / "copy")
    first, second = open_log(run.path / FOLDER), open_log(tmp_path / "copy")
    assert first is not None and second is not None
    rows = compare_two(first, second)
    assert {(row.task, row.readout, row.n) for row in rows} == {
        (task, readout, 6) for task in ("arithmetic", "copy") for readout in ("short", "rank")
    }
    assert all(row.values.difference.value == 0 for row in rows)


def test_lm_evals_own_table_shows_the_scores(run: RunFolder) -> None:
    utils = pytest.importorskip("lm_eval.utils")
    (file,) = (run.path / FOLDER).glob("results_*.json")
    table = utils.make_table(json.loads(file.read_text()))
    for row in run.metrics()["rows"]:
        assert f"{round(row['value'], 4)}" in table
    assert table.count("arithmetic") == 1 and "short" in table and "none" in table
