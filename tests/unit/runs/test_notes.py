"""Notes: of a name the last one holds, also after a kill, and the time of stages adds up over runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.runs.records import NOTES, Notes


def test_of_a_name_the_last_note_holds_also_behind_a_torn_line(tmp_path: Path) -> None:
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


def test_the_time_of_a_stage_counts_up_to_its_last_note_and_adds_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_a_line_that_was_edited_is_named(tmp_path: Path, line: Any) -> None:
    (tmp_path / NOTES).write_text('{"name": "a", "value": 1}\n' + json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"notes.jsonl: line 2 .*[Rr]emove that (one )?line"):
        Notes(tmp_path)
