"""Own answers, token by token: those of a journal are not written again, and ranked tasks are refused."""

import io

import pytest
from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.progress.bars import RunProgress
from layercut.runs.directory import RunFolder
from layercut.selection.answers import ObjectiveTask
from layercut.selection.search_journal import SearchJournal
from layercut.selection.written_answers import AnswerWriter
from layercut.settings import ModelSettings
from layercut.tasks import load_task
from tests.support.pruning import spare_model


def write(model, folder, readout="short", limit=4):
    part = ObjectiveTask(task=load_task("copy"), readout=readout)
    with RunFolder.begin(folder, {"a": 1}) as run, SearchJournal(run) as journal:
        progress = RunProgress(Console(file=io.StringIO()))
        return AnswerWriter(ModelHandle(ModelSettings(model=str(model))), journal, progress).write(
            part, "selection", limit
        )


def test_answers_are_kept_and_only_new_ones_are_written(tmp_path, monkeypatch):
    model = spare_model(tmp_path / "spare")
    first = write(model, tmp_path / "run")
    assert len(first) == 4 and all(answer.tokens and answer.prompt for answer in first)
    assert all(len(answer.tokens) <= answer.limit for answer in first)
    more = write(model, tmp_path / "run", limit=6)
    assert [answer._replace(agrees=()) for answer in more if answer.id in {one.id for one in first}] == first
    monkeypatch.setattr(SharedEngine, "ask", None)
    assert write(model, tmp_path / "run", limit=6) == more


def test_a_task_whose_answers_are_ranked_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"copy \(rank\) is not written: its answers are ranked; name a task that is"):
        write(spare_model(tmp_path / "spare"), tmp_path / "run", "rank")
