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
    ("row", "turns"),
    [
        ({"prompt": "Hi"}, [("user", "Hi")]),
        ({"question": "Why?"}, [("user", "Why?")]),
        ({"instruction": "Sum", "input": "1 2", "output": "3"}, [("user", "Sum\n\n1 2")]),
        ({"instruction": "Sum", "input": ""}, [("user", "Sum")]),
        ({"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]}, [("user", "A")]),
        ({"prompt": [{"role": "user", "content": "A"}], "completion": [TURN]}, [("user", "A")]),
        ({"instruction": "Sum", "instances": [{"input": "1 2", "output": "3"}]}, [("user", "Sum\n\n1 2")]),
        ({"system": "S", "conversations": [{"from": "user", "value": "A"}]}, [("system", "S"), ("user", "A")]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "A"}]}]}, [("user", "A")]),
        ({"prompt": '[{"a": 1}] is JSON.'}, [("user", '[{"a": 1}] is JSON.')]),
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
    assert second.id == make_prompt("B").id
    assert second.id != make_prompt("B", system="S").id


def test_the_whole_conversation_is_asked_and_only_its_last_answer_is_the_rows_own(tmp_path: Path) -> None:
    said = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D")]
    turns = [{"role": role, "content": content} for role, content in said]
    (only,) = read_prompts(write(tmp_path / "p.jsonl", [{"messages": turns}]), system="T")
    assert only.prompt == tuple(Message(*turn) for turn in said[:-1])
    assert only.answer == "D"


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"prompt": "A", "output": "B"}, "B"),
        ({"question": "A", "answer": "B"}, "B"),
        ({"prompt": "A", "completion": "B"}, "B"),
        ({"prompt": [{"role": "user", "content": "A"}], "completion": [TURN]}, "B"),
        ({"instruction": "A", "instances": [{"input": "", "output": "B"}, {"output": "C"}]}, "B"),
        ({"conversations": [{"from": "human", "value": "A"}]}, ""),
    ],
)
def test_the_answer_that_stands_beside_a_prompt(tmp_path: Path, row: dict[str, Any], answer: str) -> None:
    (only,) = read_prompts(write(tmp_path / "p.jsonl", [row]))
    assert only.answer == answer


def test_a_table_is_read_with_conversations_as_json(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "A, B"}]).replace('"', '""')
    text = f'\ufeffid,question,messages\n1,"two\nlines, ""quoted""",\n2,,"{turns}"\n'
    (tmp_path / "p.csv").write_text(text, encoding="utf-8")
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("p.csv", "p.csv.gz"):
        first, second = read_prompts(tmp_path / name)
        assert (first.id, first.prompt) == ("1", (Message("user", 'two\nlines, "quoted"'),))
        assert (second.id, second.prompt) == ("2", (Message("user", "A, B"),))


def test_a_parquet_file_is_read_with_its_nested_turns(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs layercut[heal]")
    from pyarrow.parquet import write_table

    rows = [{"messages": [{"role": "user", "content": "A"}, TURN], "id": None}]
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p.parquet")
    (only,) = read_prompts(tmp_path / "p.parquet")
    assert only == make_prompt("A")._replace(answer="B")


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


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "x"}\n{"prompt": ')
    (tmp_path / "a.csv").write_text("prompt\na,b\n")
    (tmp_path / "b.csv").write_text('prompt\n"a\n')
    (tmp_path / "c.csv").write_bytes(b"prompt\n\xff\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "a.xlsx").write_text("x")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b"abc" * 100)[:20])
    for name, message in [
        ("a.jsonl", "line 2: not a JSON object"),
        ("a.csv", "line 2: more cells than columns"),
        ("b.csv", "line 2: not CSV in UTF-8 .unexpected end of data"),
        ("c.csv", "line 2: not CSV in UTF-8"),
        ("empty.csv", "holds no prompts"),
        ("a.xlsx", "this file type is not supported"),
        ("a.txt", "is in UTF-16"),
        ("a.jsonl.gz", "damaged"),
        ("no.txt", "No such file"),
    ]:
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / name)
