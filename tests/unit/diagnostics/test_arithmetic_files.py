"""The arithmetic files of GPT-3 are asked as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.diagnostics.arithmetic import arithmetic
from layercut.diagnostics.arithmetic_files import arithmetic_files
from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from tests.support.fake_engine import FakeEngine
from tests.support.patient import session


def write(folder: Path, name: str, sign: str, number: int = 40) -> Path:
    word = {"+": "plus", "-": "minus"}[sign]
    rows = [
        {"context": f"\n\nQ: What is {i} {word} 23?\n\nA:", "completion": f" {i + 23 if sign == '+' else i - 23}"}
        for i in range(10, 10 + number)
    ]
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def test_every_kind_comes_in_turn_behind_examples_in_the_files_own_format(tmp_path: Path) -> None:
    write(tmp_path, "two_digit_addition.jsonl", "+")
    write(tmp_path, "two_digit_subtraction.jsonl", "-")
    task = arithmetic_files(tmp_path)
    assert task.examples.startswith("Q: What is 10 plus 23?\n\nA: 33\n\nQ: What is 10 minus 23?\n\nA: -13\n\n")
    asked = [*task.samples("report", None), *task.samples("selection", None)]
    assert len(asked) == 80 - 3
    assert {sample.data["kind"] for sample in task.samples("report", 12)} == {
        "two digit addition", "two digit subtraction",
    }  # fmt: skip
    sample = next(one for one in asked if one.gold.startswith("-"))
    request = task.request(sample, "short")
    assert isinstance(request, GenerationRequest)
    assert request.prompt == f"{task.examples}Q: {sample.question}\n\nA:"
    assert len(set(sample.options)) == 4
    assert sample.gold in sample.options
    alone = arithmetic_files(tmp_path / "two_digit_addition.jsonl")
    assert alone.made_with != task.made_with


def test_the_diagnostic_asks_them_and_takes_first_digits_of_plain_results_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "two_digit_subtraction.jsonl", "-")
    task = arithmetic_files(path)
    golds = {sample.id: sample.gold for sample in task.samples("report", None)}

    def text(request: GenerationRequest, plan: CutPlan) -> str:
        return f" {golds[request.id]}" if not plan.removed else " 7"

    def scores(request: LikelihoodRequest, plan: CutPlan) -> list[float]:
        return [
            -float(option.strip() not in (golds[request.id], golds[request.id][0])) for option in request.continuations
        ]

    patient = session(FakeEngine(texts=text, scores=scores, num_layers=6), tmp_path / "run", arithmetic_data=path)
    found = arithmetic(patient)
    rows = {row.metric: row.to_dict() for row in found["rows"] if not row.group}
    assert (rows["written"]["uncut"][0], rows["written"]["n"]) == (1, min(24, len(golds)))
    assert rows["written"]["cut"][0] < 0.2
    asked = [gold for gold in list(golds.values())[:24] if not gold.startswith("-")]
    # A word is a token of this engine, so that digits come together, and numbers are summed by their first one.
    assert (rows["first digit (paper)"]["n"], rows["first digit (paper)"]["uncut"][0]) == (len(asked), 1)
    assert any("several digits as one token" in note for note in found["notes"])


@pytest.mark.parametrize(
    "row", [{"context": "What is 1 plus 2?", "completion": " 3"}, {"context": "\n\nQ: Why?\n\nA:", "completion": " so"}]
)
def test_other_rows_are_refused(tmp_path: Path, row: dict[str, str]) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InputError, match="no problem of GPT-3's arithmetic files"):
        arithmetic_files(tmp_path / "x.jsonl")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"no \.jsonl file in here"):
        arithmetic_files(tmp_path / "nothing")


def test_the_published_files(benchmark_data: Path) -> None:
    task = arithmetic_files(benchmark_data / "gpt3_arithmetic")
    kinds = {sample.data["kind"] for sample in task.samples("report", 60)}
    assert len(kinds) == 13
    assert sum(len(task.samples(split, None)) for split in ("report", "selection")) > 20_000  # type: ignore[arg-type]
