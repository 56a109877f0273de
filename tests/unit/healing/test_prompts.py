from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Message
from layercut.errors import InputError
from layercut.healing.prompts import make_prompt, prompts_in, read_prompts
from layercut.tasks.data_files import DataRow


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


TURN = {"role": "assistant", "content": "B"}


@pytest.mark.parametrize(
    ("row", "turns", "answer"),
    [
        ({"prompt": "Hi"}, [("user", "Hi")], ""),
        ({"prompt": "Hi", "completion": "B"}, [("user", "Hi")], "B"),
        ({"question": "Why?", "answer": "B"}, [("user", "Why?")], "B"),
        ({"instruction": "Sum", "input": "1 2", "output": "3"}, [("user", "Sum\n\n1 2")], "3"),
        ({"instruction": "Sum", "input": ""}, [("user", "Sum")], ""),
        ({"messages": [{"role": "user", "content": "A"}, TURN]}, [("user", "A")], "B"),
        ({"prompt": [{"role": "user", "content": "A"}], "completion": [TURN]}, [("user", "A")], "B"),
        ({"system": "S", "conversations": [{"from": "user", "value": "A"}]}, [("system", "S"), ("user", "A")], ""),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "A"}]}]}, [("user", "A")], ""),
        ({"prompt": '[{"a": 1}] is JSON.'}, [("user", '[{"a": 1}] is JSON.')], ""),
        (
            {
                "conversations": [
                    {"from": who, "value": text} for who, text in (("human", "A"), ("gpt", "B"), ("human", "C"))
                ]
            },
            [("user", "A"), ("assistant", "B"), ("user", "C")],
            "",
        ),
    ],
)
def test_all_usual_columns_are_read(
    tmp_path: Path, row: dict[str, Any], turns: list[tuple[str, str]], answer: str
) -> None:
    (only,) = read_prompts(write(tmp_path / "p.jsonl", [row]))
    assert (only.prompt, only.answer) == (tuple(Message(*turn) for turn in turns), answer)


def test_a_system_message_goes_before_conversations_that_have_none(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}]}
    first, second = read_prompts(write(tmp_path / "p.jsonl", [own, {"prompt": "B"}]), system="T")
    assert [turn.content for turn in first.prompt] == ["S", "A"]
    assert [turn.content for turn in second.prompt] == ["T", "B"]


def test_ids_are_the_rows_own_or_come_from_the_content(tmp_path: Path) -> None:
    rows = [{"id": 7, "prompt": "A"}, {"prompt": "B"}, {"prompt": "B"}]
    first, second = read_prompts(write(tmp_path / "p.jsonl", rows))
    assert first.id == "7"
    assert second.id == make_prompt("B").id
    assert second.id != make_prompt("B", system="S").id


def test_the_whole_conversation_is_asked_and_only_its_last_answer_is_the_rows_own(tmp_path: Path) -> None:
    said = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D")]
    turns = [{"role": role, "content": content} for role, content in said]
    (only,) = read_prompts(write(tmp_path / "p.jsonl", [{"messages": turns}]), system="T")
    assert only.prompt == tuple(Message(*turn) for turn in said[:-1])
    assert only.answer == "D"


def test_a_table_is_read(tmp_path: Path) -> None:
    text = '\ufeffid,question\n1,"two\nlines, ""quoted"""\n2,"A, B"\n'
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(text.encode()))
    first, second = read_prompts(tmp_path / "p.csv.gz")
    assert (first.id, first.prompt) == ("1", (Message("user", 'two\nlines, "quoted"'),))
    assert (second.id, second.prompt) == ("2", (Message("user", "A, B"),))


def test_a_limit_reads_no_further_than_it_must() -> None:
    def rows() -> Any:
        yield DataRow("1", {"prompt": "A"})
        yield DataRow("2", {"prompt": "A"})
        yield DataRow("3", {"prompt": "B"})
        yield DataRow("4", {"prompt": "C"})
        raise AssertionError("read too far")

    assert [one.prompt[0].content for one in prompts_in(rows(), "here", limit=2)] == ["A", "B"]


def test_rows_that_cannot_be_asked_are_left_out_and_told_where_that_is_wanted() -> None:
    rows = [DataRow("row 1", {"text": "x"}), DataRow("row 2", {"prompt": "A"}), DataRow("row 3", {"messages": ["x"]})]
    left_out: list[str] = []
    assert len(prompts_in(rows, "here", left_out=left_out)) == 1
    assert [reason[:5] for reason in left_out] == ["row 1", "row 3"]
    with pytest.raises(InputError, match=r"\(row 1: none"):
        prompts_in(rows[:1], "here", left_out=[])


def test_text_and_gzip_are_read(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert [p.prompt for p in read_prompts(tmp_path / "p.txt", plain=True)] == ["one", "two"]
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "A"}\n'))
    assert len(read_prompts(tmp_path / "p.jsonl.gz")) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x"}], "line 1: none of the columns messages"),
        ([{"id": 1, "prompt": "a"}, {"id": 1, "prompt": "b"}], "line 2: the id '1' belongs to another prompt"),
        ([{"messages": [{"role": "robot", "content": "x"}]}], "a turn needs 'role'"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "the last turn must be"),
        ([{"prompt": "  "}], "the last turn must be"),
        ([{"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "x"}]}], "last turn must be"),
        (["text"], "a JSON object was expected"),
        ([], "holds no prompts"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path / "p.jsonl", rows))


def test_bad_text_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in (("empty.csv", "holds no prompts"), ("a.txt", "not UTF-8 text"), ("no.txt", "No such file")):
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / name)
