"""The journal: what was appended is there, also when the process was killed in the middle of a line."""

import json
import multiprocessing
import os
import time

import pytest

from layercut.errors import InputError
from layercut.runs.records import Journal, read_records
from tests.support.small_disk import small_disk


def test_appended_records_are_read_back_in_order_and_their_bytes_are_pinned(tmp_path):
    path = tmp_path / "deep" / "samples" / "copy.short.jsonl"
    with Journal(path) as journal:
        assert journal.records == []
        journal.append(
            [{"id": "a", "metrics": {"accuracy": 1.0}, "answer": "é\u2028"}, {"id": "b", "options": ("1", "2")}]
        )
        journal.append([])
        journal.append([{"id": "c", "question": "\ud83d"}])  # half a surrogate pair
        in_memory = list(journal.records)
    assert [record["id"] for record in in_memory] == ["a", "b", "c"]
    assert in_memory[1]["options"] == ["1", "2"]  # as it will be read back, not as it was given
    with Journal(path) as journal:
        assert journal.records == in_memory
    assert read_records(path) == in_memory
    first = path.read_bytes().splitlines(keepends=True)[0]
    assert first == '{"id": "a", "metrics": {"accuracy": 1.0}, "answer": "é\u2028"}\n'.encode()


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


def test_a_disk_that_fails_on_syncing_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    with Journal(path) as journal:
        journal.append([{"id": "a"}])

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            journal.append([{"id": "b"}])
        monkeypatch.undo()
        assert journal.records == [{"id": "a"}]
        journal.append([{"id": "c"}])
    assert read_records(path) == [{"id": "a"}, {"id": "c"}]


def test_ctrl_c_while_the_disk_is_synced_keeps_what_was_written(tmp_path, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    with Journal(tmp_path / "a.jsonl") as journal:
        journal.append([{"id": "0"}])
        monkeypatch.setattr(os, "fsync", stopped)
        with pytest.raises(KeyboardInterrupt):
            journal.append([{"id": "1"}, {"id": "2"}])
        monkeypatch.undo()
        journal.append([{"id": "3"}])
        assert [record["id"] for record in journal.records] == ["0", "1", "2", "3"]
    assert [record["id"] for record in read_records(tmp_path / "a.jsonl")] == ["0", "1", "2", "3"]


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
        ids = [record["id"] for record in journal.records]
        assert len(ids) >= 5
        assert ids == [str(number) for number in range(len(ids))]
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
