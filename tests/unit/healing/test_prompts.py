from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Message
from layercut.errors import InputError
from layercut.healing.prompts import one_prompt, read_prompts


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "turns"),
    [
        ({"prompt": "Hi"}, [("user", "Hi")]),
        ({"question": "Why?"}, [("user", "Why?")]),
        ({"instruction": "Sum", "input": "1 2", "output": "3"}, [("user", "Sum\n\n1 2")]),
        ({"instruction": "Sum", "input": ""}, [("user", "Sum")]),
        ({"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}, [("user", "A")]),
        (
            {
                "conversations": [
                    {"from": "human", "value": "A"},
                    {"from": "gpt", "value": "B"},
                    {"from": "human", "value": "C"},
                ]
            },
            [("user", "A"), ("assistant", "B"), ("user", "C")],
        ),
    ],
)
def test_all_usual_columns_are_read(tmp_path: Path, row: dict[str, Any], turns: list[tuple[str, str]]) -> None:
    (only,) = read_prompts(write(tmp_path / "p.jsonl", [row]))
    assert only.prompt == tuple(Message(*turn) for turn in turns)


def test_a_system_message_goes_before_conversations_that_have_none(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}]}
    first, second = read_prompts(write(tmp_path / "p.jsonl", [own, {"prompt": "B"}]), system="T")
    assert [turn.content for turn in first.prompt] == ["S", "A"]
    assert [turn.content for turn in second.prompt] == ["T", "B"]


def test_ids_are_the_rows_own_or_come_from_the_content(tmp_path: Path) -> None:
    rows = [{"id": 7, "prompt": "A"}, {"prompt": "B"}, {"prompt": "B"}]
    first, second = read_prompts(write(tmp_path / "p.jsonl", rows))
    assert first.id == "7"
    assert second.id == one_prompt("B").id
    assert second.id != one_prompt("B", system="S").id


def test_text_and_gzip_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert [p.prompt for p in read_prompts(tmp_path / "p.txt", plain=True)] == ["one", "two"]
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "A"}\n'))
    assert len(read_prompts(tmp_path / "p.jsonl.gz")) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x"}], "row 1: none of the columns messages"),
        ([{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}], "row 2: the id '1' belongs to another prompt"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], "a turn needs 'role'"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "nothing to answer"),
        ([{"prompt": "  "}], "nothing to answer"),
        (["text"], "a JSON object was expected"),
        ([], "holds no prompts"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path / "p.jsonl", rows))


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n{"prompt": ')
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"abc" * 100)[:20])
    for name, message in [
        ("a.jsonl", "row 2: not JSON"),
        ("a.csv", "not .csv"),
        ("a.txt", "not UTF-8"),
        ("a.jsonl.gz", "damaged"),
        ("no.txt", "No such file"),
    ]:
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / name)
