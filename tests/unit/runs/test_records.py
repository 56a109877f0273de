"""The journal, notes and data frames: what was appended is there, also when the process was killed in a line."""

import json
import multiprocessing
import os
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.pruning.job import Pruned
from layercut.runs.directory import RunFolder
from layercut.runs.prune import PruneResult
from layercut.runs.records import NOTES, Journal, Notes, data_frame, read_records
from layercut.settings import ModelSettings
from layercut.study.job import StudyOutcome
from layercut.tasks.cells import Evaluated
from tests.support.pages import write_prune
from tests.support.small_disk import small_disk


def test_appended_records_are_read_back_in_order_and_their_bytes_are_pinned(tmp_path):
    path = tmp_path / "deep" / "samples" / "copy.short.jsonl"
    with Journal(path) as journal:
        assert journal.records == []
        first = {"id": "a", "metrics": {"accuracy": 1.0}, "answer": "é\u2028"}
        journal.append([first, {"id": "b", "options": ("1", "2")}])
        journal.append([])
        journal.append([{"id": "c", "question": "\ud83d"}])  # half a surrogate pair
        in_memory = list(journal.records)
    assert [record["id"] for record in in_memory] == ["a", "b", "c"]
    assert in_memory[1]["options"] == ["1", "2"]  # as it will be read back, not as it was given
    with Journal(path) as journal:
        assert journal.records == in_memory
    assert read_records(path) == in_memory
    assert (
        path.read_bytes().splitlines(keepends=True)[0]
        == '{"id": "a", "metrics": {"accuracy": 1.0}, "answer": "é\u2028"}\n'.encode()
    )


@pytest.mark.parametrize("torn", [b"{", b'{"id": "bb', b'{"id": "bbbbb', b'{"id"' + bytes(100)])  # zeros: no power
def test_a_torn_last_line_is_cut_off_and_writing_goes_on(tmp_path, torn):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + torn)
    assert read_records(path) == [{"id": "a"}]
    assert path.stat().st_size == 12 + len(torn)  # reading leaves the file as it is
    with Journal(path) as journal:
        assert journal.records == [{"id": "a"}]
        assert path.stat().st_size == 12
        journal.append([{"id": "b"}])
    assert read_records(path) == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", ""])
def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"id": "a"}}\n{line}\n{{"id": "c"}}\n')
    with pytest.raises(InputError, match="line 2 .*Remove"):
        Journal(path)
    assert path.read_text().count("\n") == 3
    path.write_text('{"id": "a"}\n{"id": "c"}\n')  # as the message says
    with Journal(path) as journal:
        journal.append([{"id": "b"}])
    assert [record["id"] for record in read_records(path)] == ["a", "c", "b"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_and_nothing_of_the_batch_is_written(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        with pytest.raises(ValueError, match="Out of range float"):
            journal.append([{"id": "a"}, {"id": "b", "metrics": {"nll": bad}}])
        assert journal.records == []
        journal.append([{"id": "a"}])
    assert read_records(path) == [{"id": "a"}]


@pytest.mark.parametrize(("kib", "per_batch"), [(40, 1), (64, 7), (120, 300)])
def test_a_full_disk_leaves_whole_lines_and_with_room_it_goes_on(tmp_path, kib, per_batch):
    with small_disk(tmp_path / "disk", kib * 1024) as disk:
        path = disk.path / "a.jsonl"
        lengths = [[50 + (i + batch) * 37 % 900 for i in range(per_batch)] for batch in range(900)]
        batches = [[{"id": str(i), "text": "é" * n} for i, n in enumerate(batch)] for batch in lengths]
        written = 0
        with Journal(path) as journal:
            with pytest.raises(OSError, match="'.*a.jsonl'"):
                for batch in batches:
                    journal.append(batch)
                    written += 1
            whole = [record for batch in batches[:written] for record in batch]
            assert journal.records == whole
            assert [json.loads(line) for line in path.read_text().splitlines()] == whole
            disk.resize(10**8)
            journal.append(batches[written])
        with Journal(path) as journal:  # as the next process sees it
            assert journal.records == whole + batches[written]


@pytest.mark.parametrize(
    ("error", "says", "kept"),
    [(OSError(28, "No space left on device"), "No space left", "03"), (KeyboardInterrupt(), "", "0123")],
)
def test_a_disk_that_fails_on_syncing_leaves_whole_lines_and_ctrl_c_what_was_written(
    tmp_path, monkeypatch, error, says, kept
):
    def stopped(_):
        raise error

    with Journal(tmp_path / "a.jsonl") as journal:
        journal.append([{"id": "0"}])
        monkeypatch.setattr(os, "fsync", stopped)
        with pytest.raises(type(error), match=says):
            journal.append([{"id": "1"}, {"id": "2"}])
        monkeypatch.undo()
        assert "".join(record["id"] for record in journal.records) == kept[:-1]
        journal.append([{"id": "3"}])
    assert "".join(record["id"] for record in read_records(tmp_path / "a.jsonl")) == kept


def _write_without_end(path):
    with Journal(path) as journal:
        for number in range(10**6):
            journal.append([{"id": str(number), "text": "x" * 500}])


def test_a_killed_writer_leaves_a_prefix(tmp_path):
    path = tmp_path / "a.jsonl"
    writer = multiprocessing.get_context("fork").Process(target=_write_without_end, args=(path,))
    writer.start()
    deadline = time.monotonic() + 20
    while not (path.exists() and path.stat().st_size > 5000) and time.monotonic() < deadline:
        time.sleep(0.02)
    writer.kill()
    writer.join()
    with Journal(path) as journal:
        ids = [int(record["id"]) for record in journal.records]
    assert len(ids) >= 5
    assert ids == [*range(len(ids))]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("score", ["x", None, [1], {}, 1e308, float("inf"), -1e200])
def test_an_edited_score_is_one_line(tmp_path, score):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"id": "a", "metrics": {"accuracy": value}}) + "\n" for value in (1.0, score)))
    for read in (read_records, Journal):
        with pytest.raises(InputError, match="line 2 holds") as caught:
            read(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["id", "question", "gold", "answer", "outcome", "finish_reason", "completion"])
def test_an_edited_text_is_one_line(tmp_path, name):
    file = tmp_path / "a.jsonl"
    for value in (None, 3, [], {}):
        file.write_text(json.dumps({"id": "a", "metrics": {"accuracy": 1.0}, name: value}) + "\n")
        with pytest.raises(InputError, match="no text"):
            read_records(file)
    file.write_text(json.dumps({"id": 3, name: None}) + "\n")  # no graded answer
    assert len(read_records(file)) == 1


def test_of_a_name_the_last_note_holds_also_behind_a_torn_line(tmp_path):
    with RunFolder.begin(tmp_path / "run", {"seed": 0}) as run:
        run.notes.put("path", [1])
        run.notes.put("trained", None)
        run.notes.put("path", [1, 2])
        run.notes.put("path", [1, 2])
        assert dict(run.notes) == {"path": [1, 2], "trained": None}
    file = tmp_path / "run" / NOTES
    file.write_bytes(file.read_bytes() + b'{"name": "path", "value": [1, 2, 3')
    assert dict(Notes(tmp_path / "run")) == {"path": [1, 2], "trained": None}
    with RunFolder.begin(tmp_path / "run", {"seed": 0}) as run:
        run.notes.put("ended", "as deep as asked")
    assert dict(Notes(tmp_path / "run")) == {"path": [1, 2], "trained": None, "ended": "as deep as asked"}
    assert len(file.read_text().splitlines()) == 4


def test_the_time_of_a_stage_counts_up_to_its_last_note_and_adds_up(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("layercut.runs.records.time.monotonic", lambda: clock[0])
    notes = Notes(tmp_path)
    with notes.stage("path"):
        clock[0] = 5
        notes.put("path", [1])
        clock[0] = 7
        assert notes.seconds == {"path": 7}
        assert Notes(tmp_path).seconds == {"path": 5}, "a kill here"
    clock[0] = 100
    notes.put("between", 1)
    again = Notes(tmp_path)
    with pytest.raises(ZeroDivisionError), again.stage("path"):
        clock[0] = 103
        raise ZeroDivisionError
    assert Notes(tmp_path).seconds == again.seconds == {"path": 10}


@pytest.mark.parametrize("line", [{"value": 1}, {"name": "a"}, {"name": 3, "value": 1}, [1], "torn", {"seconds": 1}])
def test_a_line_that_was_edited_is_named(tmp_path, line):
    (tmp_path / NOTES).write_text('{"name": "a", "value": 1}\n' + json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"notes.jsonl: line 2 .*[Rr]emove that (one )?line"):
        Notes(tmp_path)


needs_pandas = pytest.mark.skipif(find_spec("pandas") is None, reason="pandas is not installed")


@needs_pandas
def test_a_field_within_a_field_is_a_column_of_its_own():
    found = data_frame([{"task": "copy", "kept": {"value": 0.9, "low": 0.8}}, {"task": "sums", "kept": {"value": 0.5}}])
    assert list(found.columns) == ["task", "kept.value", "kept.low"]
    assert found["kept.value"].tolist() == [0.9, 0.5] and found["kept.low"].isna().tolist() == [False, True]


def test_without_pandas_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pip install pandas"):
        data_frame([])


@needs_pandas
def test_the_frame_of_an_evaluation_has_a_line_for_each_metric():
    rows = [{"task": "copy", "value": 0.5, "outcomes": {"right": 1}}, {"task": "sums", "value": 0.25, "outcomes": {}}]
    found = Evaluated(Path("run"), {"rows": rows}).to_frame()
    assert found["value"].tolist() == [0.5, 0.25] and found["outcomes.right"].tolist()[0] == 1
    assert len(StudyOutcome("m", Path("run"), None, {}, []).to_frame()) == 0


@needs_pandas
def test_the_frame_of_a_prune_has_a_line_for_each_plan_and_task(tmp_path):
    result = PruneResult.load(write_prune(tmp_path))
    found = Pruned(tmp_path, result, ModelSettings(model="m")).to_frame()
    assert found["plan"].tolist() == [one.name for one in result.tested for _ in one.kept]
    shares = [kept.kept and kept.kept.value for one in result.tested for kept in one.kept]
    assert found["kept.value"].tolist() == shares and {"verdict", "removed", "bound"} <= set(found.columns)
