"""Prompts of files in every usual form, and sources of prompts: files, tasks and data sets of the hub."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from layercut.engine.base import Message
from layercut.errors import InputError
from layercut.healing.prompt_sources import (
    Answering,
    PromptSpec,
    answering_under,
    prompt_source,
    prompt_specs,
    task_prompts,
)
from layercut.healing.prompts import NamedPrompt, make_prompt, prompts_in, read_prompts
from layercut.healing.settings import SYSTEM, FilterSettings
from layercut.settings import DecodingSettings
from layercut.study.file import study_from_dict
from layercut.study.settings import HealingArm
from layercut.tasks import load_task
from layercut.tasks.data_files import DataRow
from tests.support.answers import completion, write_lines


def prompts_of(folder: Path, rows: list[Any], **how: Any) -> list[NamedPrompt]:
    return read_prompts(Path(write_lines(folder / "p.jsonl", rows)), **how)


TURN = {"role": "assistant", "content": "B"}
TALK = [{"from": who, "value": text} for who, text in (("human", "A"), ("gpt", "B"), ("human", "C"))]


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
        ({"conversations": TALK}, [("user", "A"), ("assistant", "B"), ("user", "C")], ""),
    ],
)
def test_all_usual_columns_are_read(tmp_path, row, turns, answer):
    (only,) = prompts_of(tmp_path, [row])
    assert (only.prompt, only.answer) == (tuple(Message(*turn) for turn in turns), answer)


def test_a_system_message_goes_before_conversations_that_have_none(tmp_path):
    own = {"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "A"}]}
    first, second = prompts_of(tmp_path, [own, {"prompt": "B"}], system="T")
    assert [turn.content for turn in first.prompt] == ["S", "A"]
    assert [turn.content for turn in second.prompt] == ["T", "B"]


def test_ids_are_the_rows_own_or_come_from_the_content(tmp_path):
    rows = [{"id": 7, "prompt": "A"}, {"prompt": "B"}, {"prompt": "B"}]
    first, second = prompts_of(tmp_path, rows)
    assert first.id == "7"
    assert second.id == make_prompt("B").id
    assert second.id != make_prompt("B", system="S").id


def test_the_whole_conversation_is_asked_and_only_its_last_answer_is_the_rows_own(tmp_path):
    said = [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "D")]
    turns = [{"role": role, "content": content} for role, content in said]
    (only,) = prompts_of(tmp_path, [{"messages": turns}], system="T")
    assert only.prompt == tuple(Message(*turn) for turn in said[:-1])
    assert only.answer == "D"


def test_tables_text_and_gzip_are_read(tmp_path):
    text = '\ufeffid,question\n1,"two\nlines, ""quoted"""\n2,"A, B"\n'
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(text.encode()))
    first, second = read_prompts(tmp_path / "p.csv.gz")
    assert (first.id, first.prompt) == ("1", (Message("user", 'two\nlines, "quoted"'),))
    assert (second.id, second.prompt) == ("2", (Message("user", "A, B"),))
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert [p.prompt for p in read_prompts(tmp_path / "p.txt", plain=True)] == ["one", "two"]
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "A"}\n'))
    assert len(read_prompts(tmp_path / "p.jsonl.gz")) == 1


def test_a_limit_reads_no_further_than_it_must_and_rows_that_cannot_be_asked_are_told():
    def rows() -> Any:
        yield DataRow("1", {"prompt": "A"})
        yield DataRow("2", {"prompt": "A"})
        yield DataRow("3", {"prompt": "B"})
        yield DataRow("4", {"prompt": "C"})
        raise AssertionError("read too far")

    assert [one.prompt[0].content for one in prompts_in(rows(), "here", limit=2)] == ["A", "B"]
    bad = [DataRow("row 1", {"text": "x"}), DataRow("row 2", {"prompt": "A"}), DataRow("row 3", {"messages": ["x"]})]
    left_out: list[str] = []
    assert len(prompts_in(bad, "here", left_out=left_out)) == 1
    assert [reason[:5] for reason in left_out] == ["row 1", "row 3"]
    with pytest.raises(InputError, match=r"\(row 1: none"):
        prompts_in(bad[:1], "here", left_out=[])


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
def test_bad_rows_are_named(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        prompts_of(tmp_path, rows)


def test_bad_text_files_are_named(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    for name, message in (("empty.csv", "holds no prompts"), ("a.txt", "not UTF-8 text"), ("no.txt", "No such file")):
        with pytest.raises(InputError, match=message):
            read_prompts(tmp_path / name)


def test_the_papers_settings_are_a_preset_and_what_is_given_goes_before_it():
    how = answering_under("paper", DecodingSettings())
    assert how.system == SYSTEM == "You are a helpful assistant."
    assert (how.decoding.temperature, how.decoding.top_p, how.decoding.top_k) == (0.9, 0.95, 0)
    assert how.max_new_tokens == 8192
    drawn = DecodingSettings(temperature=0.5)
    given = {"max_new_tokens": 100, "system": "Be brief."}
    assert answering_under("paper", drawn, **given) == Answering(decoding=drawn, **given)
    assert answering_under(None, DecodingSettings(), system=None) == Answering()
    with pytest.raises(InputError, match="unknown preset 'papers'.*paper"):
        answering_under("papers", DecodingSettings())


def test_a_study_names_one_source_or_several_with_what_holds_for_all():
    def arm(**keys: Any) -> HealingArm:
        study = {"model": "m", "plans": ["reverse:1"], "tasks": ["copy"], "out": "o"}
        return study_from_dict({**study, "healing": [{"name": "a", **keys}]}).healing[0]

    several = arm(prompts=["task:copy", {"source": "p.txt", "limit": 4}], limit=9)
    assert several.prompts == (PromptSpec(source="task:copy", limit=9), PromptSpec(source="p.txt", limit=4))
    assert arm(prompts="p.txt").prompts == (PromptSpec(source="p.txt"),)
    filters = {"finished_only": False, "right_only": True}
    made = arm(prompts="hub:x/y", shuffle_seed=1, limit=9, **filters)
    assert made.prompts == (PromptSpec(source="hub:x/y", limit=9, shuffle_seed=1),)
    assert made.filters == FilterSettings(**filters)


@pytest.fixture
def hub(tmp_path):
    """The library ``datasets`` reads a folder under the same name as a data set of the hub."""
    pytest.importorskip("datasets", reason="hub data sets need layercut[heal]")
    rows: list[Any] = [{"messages": [{"role": "user", "content": f"say {number}"}]} for number in range(30)]
    rows[3] = {"messages": [{"role": "tool", "content": "x"}]}
    write_lines(tmp_path / "train.jsonl", rows)
    return f"hub:{tmp_path}"


def texts(source: str, **how: Any) -> list[str]:
    found = prompt_source(prompt_specs(source, **how))
    return [prompt.prompt[-1].content for prompt in found.prompts]  # type: ignore[union-attr]


def test_a_hub_data_set_is_shuffled_by_the_seed_and_rows_that_cannot_be_asked_are_counted(hub):
    everything = [f"say {number}" for number in range(30) if number != 3]
    drawn = texts(hub, shuffle_seed=1)
    assert drawn != everything and sorted(drawn) == sorted(everything)
    assert texts(hub, shuffle_seed=1, limit=5) == drawn[:5]
    assert texts(hub, shuffle_seed=2, limit=5) != drawn[:5]
    source = prompt_source(prompt_specs(hub))
    assert len(source.prompts) == 29
    (note,) = source.notes
    assert f": 1, the first is {hub}, row " in note
    assert "tool" in note and "\n" not in note


@pytest.fixture
def file(tmp_path):
    rows = [{"instruction": f"Say {number}", "output": f"It is {number}"} for number in range(5)]
    return Path(write_lines(tmp_path / "rows,with a comma.jsonl", rows))


def test_sources_stand_one_after_the_other_with_their_own_limits(file):
    source = prompt_source(
        [
            PromptSpec(source="task:chain_sum:0", limit=3),
            PromptSpec(source="task:copy", limit=2),
            PromptSpec(source=str(file), limit=2),
        ]
    )
    assert [len(part.prompts) for part in source.parts] == [3, 2, 2]
    assert [prompt.answer for prompt in source.parts[2].prompts] == ["It is 0", "It is 1"]
    assert [task.readout for task in source.tasks] == ["chain", "short"]
    assert source.max_new_tokens == 256, "files may hold longer answers than the tasks"
    assert [part["n"] for part in source.describe()["parts"]] == [3, 2, 2]


def test_the_command_line_puts_commas_between_sources(file):
    specs = prompt_specs("task:gsm8k,task:arithmetic,a.txt", data={"gsm8k": "g"}, limit=4)
    assert [spec.source for spec in specs] == ["task:gsm8k", "task:arithmetic", "a.txt"]
    assert [spec.data for spec in specs] == ["g", None, None]
    assert prompt_specs(str(file)) == (PromptSpec(source=str(file)),), "a file that is there is one source"


def test_what_cannot_be_mixed_is_refused(file, tmp_path):
    twice = [PromptSpec(source="task:copy", limit=2), PromptSpec(source="task:copy", limit=3)]
    with pytest.raises(InputError, match="2 prompts come"):
        prompt_source(twice)
    with pytest.raises(InputError, match="cannot be mixed"):
        prompt_source([PromptSpec(source=str(tmp_path)), PromptSpec(source=str(file))])
    with pytest.raises(InputError, match="data belongs to task:NAME"):
        PromptSpec(source=str(file), data="x")
    with pytest.raises(InputError, match="limit 0 is too small"):
        PromptSpec(source=str(file), limit=0)


@pytest.mark.parametrize("name", ["arithmetic", "copy", "gsm_symbolic"])
def test_prompts_are_selection_items_asked_as_the_task_asks(name):
    task = load_task(name)
    found = task_prompts(task, limit=20)
    reported = {sample.id for sample in task.samples("report", None)}
    assert len(found.prompts) == 20
    assert not {one.id for one in found.prompts} & reported
    first = found.samples[found.prompts[0].id]
    assert found.prompts[0].prompt == task.request(first, found.readout).prompt
    assert found.stop


@pytest.mark.parametrize("name", ["arithmetic", "chain_sum", "gsm_symbolic:0"])
def test_the_tasks_own_answers_are_right_by_its_own_grader(name):
    group = task_prompts(load_task(name), limit=20)
    for prompt in group.prompts:
        answers = [completion(text, id=prompt.id) for text in (prompt.answer, " 99999")]
        assert group.are_right(answers) == [True, False], prompt
        assert name == "arithmetic" or "=" in prompt.answer
        assert not prompt.answer.endswith("\n"), "the stop string is no part of an answer"
