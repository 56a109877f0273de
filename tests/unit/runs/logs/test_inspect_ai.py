"""inspect_ai's logs: archives and JSON of version 2 of its schema."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.two_runs import compare_two, comparison_notes, open_run
from layercut.runs.logs import open_foreign_log


def sample(number: int, value: Any, epoch: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "id": number, "epoch": epoch, "input": f"What is {number}?", "target": str(number),
        "output": {"model": "m", "completion": f"It is {value}.", "usage": {"output_tokens": 5}},
        "scores": {"match": {"value": value, "answer": str(value)}}, **more,
    }  # fmt: skip


def head(model: str = "hf/small", version: int = 2, **config: Any) -> dict[str, Any]:
    about = {"task": "inspect_evals/gsm8k", "task_version": 1, "model": model, "model_generate_config": config}
    return {"version": version, "status": "success", "eval": about, "plan": {"config": {}}}


def write_eval(file: Path, samples: list[dict[str, Any]], header: dict[str, Any] | None) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for one in samples:
            archive.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
        if header is not None:
            archive.writestr("header.json", json.dumps(header))
    return file


def test_samples_are_paired_and_letters_are_numbers(tmp_path: Path) -> None:
    values = ["C"] * 12 + ["P"] * 4 + ["I"] * 3 + ["N"]
    first = write_eval(tmp_path / "a.eval", [sample(n, value) for n, value in enumerate(values)], head())
    second = write_eval(tmp_path / "b.eval", [sample(n, "I") for n in range(20)], head("hf/smaller"))
    (row,) = compare_two(open_run(first), open_run(second))
    assert (row.task, row.readout, row.metric, row.n, row.chance) == ("gsm8k", "written", "match", 20, 0.0)
    assert row.values.uncut.value == pytest.approx((12 + 4 * 0.5) / 20) and row.values.cut.value == 0
    assert row.p_value < 0.01
    assert (row.uncut.origin, row.cut.origin) == ("inspect_ai's log of hf/small", "inspect_ai's log of hf/smaller")
    assert comparison_notes(open_run(first), open_run(second)) == []


def test_epochs_of_a_sample_share_a_cluster(tmp_path: Path) -> None:
    samples = [sample(n, "C" if (n + epoch) % 3 else "I", epoch) for n in range(10) for epoch in (1, 2, 3)]
    run = open_run(write_eval(tmp_path / "a.eval", samples, head()))
    (row,) = compare_two(run, open_run(write_eval(tmp_path / "b.eval", samples, head())))
    assert row.n == 30 and row.values.num_clusters == 10


def test_scores_of_several_numbers_and_plain_json(tmp_path: Path) -> None:
    samples = [sample(n, {"strict": n % 2, "loose": True, "why": "text"}) for n in range(8)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({**head(temperature=0.5), "samples": samples}))
    rows = open_run(file).metrics()["rows"]
    assert [(row["metric"], row["value"]) for row in rows] == [("match strict", 0.5), ("match loose", 1.0)]
    other = tmp_path / "b.json"
    other.write_text(json.dumps({**head(temperature=0.0), "samples": samples}))
    assert any("temperature 0.5 in" in line for line in comparison_notes(open_run(file), open_run(other)))


def test_choices_are_guessed_at_one_in_many(tmp_path: Path) -> None:
    samples = [sample(n, "C", choices=["a", "b", "c", "d"]) for n in range(4)]
    (row,) = open_run(write_eval(tmp_path / "a.eval", samples, head())).metrics()["rows"]
    assert row["chance"] == 0.25 and row["readout"] == "rank"


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.eval"
    damaged.write_bytes(b"no archive")
    for file, message in (
        (write_eval(tmp_path / "old.eval", [sample(1, "C")], head(version=1)), "json: version is 1: it should be 2"),
        (write_eval(tmp_path / "running.eval", [sample(1, "C")], None), "the evaluation has not ended"),
        (write_eval(tmp_path / "empty.eval", [], head()), "holds no metric that is a number for every item of gsm8k"),
        (write_eval(tmp_path / "text.eval", [sample(1, "a word")], head()), "no metric that is a number for every"),
        (damaged, "damaged.eval cannot be read (File is not a zip file)"),
    ):
        with pytest.raises(InputError) as caught:
            open_foreign_log(file)
        assert message in str(caught.value) and "\n" not in str(caught.value), file


def test_an_archive_that_python_cannot_unpack_says_what_to_install(tmp_path, monkeypatch) -> None:
    file = write_eval(tmp_path / "a.eval", [sample(1, "C")], head())

    def refuse(*_: Any) -> bytes:
        raise NotImplementedError("That compression method is not supported")

    monkeypatch.setattr(zipfile.ZipFile, "open", refuse)
    with pytest.raises(InputError, match="pip install zipfile-zstd"):
        open_foreign_log(file)
