"""``layercut generate`` on a tiny model: what lies in the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.models.sources import describe_source, resolve_source
from tests.unit.cli.conftest import Run

SHORT = ("--max-new-tokens", 6, "--seed", 3)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.csv"
    file.write_text("question,answer\n" + "".join(f"say {number},fine\n" for number in range(5)))
    return file


def test_a_record_says_how_it_was_made_and_the_same_command_changes_nothing(
    layercut: Run, tiny: Path, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command = ("generate", tiny, "--prompts", prompts, "--out", out, "--temperature", 1.0, *SHORT)
    ran = layercut(*command)
    assert ran.code == 0, ran.err
    records = lines(out / "samples" / "responses.jsonl")
    assert len({record["id"] for record in records}) == 5
    for record in records:
        assert record["model_hash"] == describe_source(resolve_source(str(tiny))).model_hash
        assert record["seed"] == 3 and record["removed"] == [] and record["source"] == str(prompts)
        assert record["finish_reason"] in ("stop", "length") and 1 <= record["num_new_tokens"] <= 6
        assert record["num_prompt_tokens"] > 5
    before = (out / "samples" / "responses.jsonl").read_bytes()
    assert layercut(*command).code == 0
    assert (out / "samples" / "responses.jsonl").read_bytes() == before
    alone = layercut("generate", tiny, "--prompt", "abc", "--max-new-tokens", 4, "--plain", "--json")
    assert 1 <= json.loads(alone.out)[0]["num_new_tokens"] <= 4
    assert layercut("generate", tiny).code == 1, "no prompt"


def test_a_tasks_answers_are_graded(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    ran = layercut(
        *("generate", tiny, "--prompts", "task:copy", "--limit", 2, "--temperature", 1.0),
        *("--out", tmp_path / "run", *SHORT),
    )
    assert ran.code == 0, ran.err
    records = lines(tmp_path / "run" / "samples" / "responses.jsonl")
    assert [record["right"] for record in records] == [False] * 2
    assert {record["task"] for record in records} == {"copy"}


def test_a_dry_run_counts_what_is_left(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\nthree\n")
    prompts = ("--prompts", tmp_path / "prompts.txt", "--max-new-tokens", 4, "--out", tmp_path / "run")
    command = ("generate", tiny, *prompts)
    ran = layercut(*command, "--dry-run")
    assert ran.code == 0, ran.err
    assert "answers: 3 answers" in ran.out and "at most 4 tokens an answer" in ran.out
    assert "memory: " in ran.out and not (tmp_path / "run").exists()
    assert layercut(*command).code == 0
    assert json.loads(layercut(*command, "--dry-run", "--json").out)["steps"][0]["items"] == 0


@pytest.mark.parametrize(("source", "says"), [("hub:a:b:c:d", "names no data set"), ("x.xlsx", "is not supported")])
def test_prompts_that_cannot_be_read_are_refused(
    layercut: Run, tiny: Path, tmp_path: Path, source: str, says: str
) -> None:
    ran = layercut("generate", tiny, "--out", tmp_path / "run", *SHORT, "--prompts", source)
    assert ran.code == 1 and says in " ".join(ran.err.split())
