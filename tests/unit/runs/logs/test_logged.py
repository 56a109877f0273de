"""Runs that EvalPlus, inspect_ai and other tools wrote, against each other and run folders of layercut."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.evidence.two_runs import compare_two, comparison_notes, open_run
from layercut.runs.logs import open_foreign_log
from layercut.runs.logs.logged import LoggedRun, LoggedTask, mean_chance, name_metric, outcome_of, settings_differences
from tests.support.run_builder import Result, build_run


def logged(path: Path, values: list[float], **more: object) -> LoggedRun:
    shared = {"gold": "1", "outcome": "", "question": "", "answer": ""}
    records = [shared | {"id": str(n), "metrics": {"acc": value}} for n, value in enumerate(values)]
    return LoggedRun(path, "a tool", "m", [LoggedTask(name="sums", readout="written", records=records, **more)])  # type: ignore[arg-type]


def test_other_items_are_paired_where_they_can_be_but_no_other_version(tmp_path):
    first, second = logged(tmp_path / "a", [1.0, 0.0, 1.0]), logged(tmp_path / "b", [1.0, 1.0])
    (row,) = compare_two(first, second)
    assert row.n == 2 and "2 items of sums in common (a has 3, b has 2)" in row.note
    assert settings_differences(first, second) == []
    with pytest.raises(InputError, match="scores of different versions cannot be compared"):
        compare_two(logged(tmp_path / "a", [1.0], version="1"), logged(tmp_path / "b", [1.0], version="2"))


def test_a_run_and_a_log_have_no_task_in_common(tmp_path):
    run = build_run(tmp_path / "run", [Result(task="copy", readout="short", score=0.5)])
    log = logged(tmp_path / "log", [1.0])
    with pytest.raises(InputError, match="is not a run folder"):
        open_run(tmp_path)
    with pytest.raises(InputError, match="have no task in common"):
        compare_two(run, log)
    assert "prompts were not compared" in comparison_notes(run, log)[-1]


def test_a_metric_is_named_so_that_higher_is_better_and_has_its_chance():
    assert name_metric("acc", 1.0) == ("acc", 1.0) and name_metric("errs", 1.0, False) == ("neg_errs", -1.0)
    assert name_metric("word_perplexity", 12.0) == ("neg_word_perplexity", -12.0)
    assert name_metric("perplexity", -2.5, False) == ("log_likelihood", -2.5)
    assert outcome_of({"neg_errs": -1.0}) == "wrong" and outcome_of({"neg_errs": 0.0, "acc": 1.0}) == "right"
    assert outcome_of({"log_likelihood": 0.0}) == outcome_of({"perplexity": 1.0}) == outcome_of({}) == ""
    assert mean_chance([2, 4]) == 0.375 and mean_chance([]) is None and mean_chance([0]) is None


def write(file: Path, grades: dict[str, list[tuple[str, str | None]]]) -> Path:
    found: dict[str, Any] = {name: [] for name in grades}
    for name, programs in grades.items():
        for base, plus in programs:
            program = {"task_id": name, "solution": f"def f(): return {base!r}"}
            found[name].append(program | {"base_status": base, "plus_status": plus})
    file.write_text(json.dumps({"date": "2026-01-01", "hash": "1", "eval": found}))
    return file


def test_both_grades_are_metrics_and_plus_needs_base(tmp_path):
    first = {f"HumanEval/{n}": [("pass", "pass" if n < 12 else "fail")] for n in range(16)}
    second = {f"HumanEval/{n}": [("fail", "pass")] for n in range(16)}
    runs = [open_run(write(tmp_path / f"{name}.json", grades)) for name, grades in (("a", first), ("b", second))]
    rows = {row.metric: row for row in compare_two(*runs)}
    assert list(rows) == ["plus", "base"] and rows["plus"].is_headline and rows["plus"].task == "humaneval"
    assert (rows["plus"].values.uncut.value, rows["plus"].values.cut.value) == (0.75, 0.0)
    assert (rows["base"].values.uncut.value, rows["base"].values.lost) == (1.0, 16)


def test_programs_of_a_problem_share_a_cluster_and_one_without_a_grade_is_refused(tmp_path):
    grades = {f"Mbpp/{n}": [("pass", None), ("fail" if n % 2 else "pass", None)] for n in range(8)}
    runs = [open_run(write(tmp_path / f"{name}.json", grades)) for name in ("a", "b")]
    (row,) = compare_two(*runs)
    assert (row.task, row.metric, row.n, row.values.num_clusters) == ("mbpp", "base", 16, 8)
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"eval": {"HumanEval/0": [{"solution": ""}]}}))
    with pytest.raises(InputError, match=r"a\.json: eval\.HumanEval/0\.0\.base_status is missing"):
        open_foreign_log(file)


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


def test_samples_are_paired_and_letters_are_numbers(tmp_path):
    values = ["C"] * 12 + ["P"] * 4 + ["I"] * 3 + ["N"]
    first = write_eval(tmp_path / "a.eval", [sample(n, value) for n, value in enumerate(values)], head())
    second = write_eval(tmp_path / "b.eval", [sample(n, "I") for n in range(20)], head("hf/smaller"))
    (row,) = compare_two(open_run(first), open_run(second))
    assert (row.task, row.readout, row.metric, row.n, row.chance) == ("gsm8k", "written", "match", 20, 0.0)
    assert row.values.uncut.value == pytest.approx((12 + 4 * 0.5) / 20) and row.values.cut.value == 0
    assert row.p_value < 0.01
    assert (row.uncut.origin, row.cut.origin) == ("inspect_ai's log of hf/small", "inspect_ai's log of hf/smaller")
    assert comparison_notes(open_run(first), open_run(second)) == []


def test_epochs_of_a_sample_share_a_cluster_and_choices_are_guessed_at_one_in_many(tmp_path):
    samples = [sample(n, "C" if (n + epoch) % 3 else "I", epoch) for n in range(10) for epoch in (1, 2, 3)]
    run = open_run(write_eval(tmp_path / "a.eval", samples, head()))
    (row,) = compare_two(run, open_run(write_eval(tmp_path / "b.eval", samples, head())))
    assert row.n == 30 and row.values.num_clusters == 10
    samples = [sample(n, "C", choices=["a", "b", "c", "d"]) for n in range(4)]
    (row,) = open_run(write_eval(tmp_path / "a.eval", samples, head())).metrics()["rows"]
    assert row["chance"] == 0.25 and row["readout"] == "rank"


def test_scores_of_several_numbers_and_plain_json(tmp_path):
    samples = [sample(n, {"strict": n % 2, "loose": True, "why": "text"}) for n in range(8)]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({**head(temperature=0.5), "samples": samples}))
    rows = open_run(file).metrics()["rows"]
    assert [(row["metric"], row["value"]) for row in rows] == [("match strict", 0.5), ("match loose", 1.0)]
    other = tmp_path / "b.json"
    other.write_text(json.dumps({**head(temperature=0.0), "samples": samples}))
    assert any("temperature 0.5 in" in line for line in comparison_notes(open_run(file), open_run(other)))


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path):
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


def test_an_archive_that_python_cannot_unpack_says_what_to_install(tmp_path, monkeypatch):
    file = write_eval(tmp_path / "a.eval", [sample(1, "C")], head())

    def refuse(*_: Any) -> bytes:
        raise NotImplementedError("That compression method is not supported")

    monkeypatch.setattr(zipfile.ZipFile, "open", refuse)
    with pytest.raises(InputError, match="pip install zipfile-zstd"):
        open_foreign_log(file)


def test_a_folder_of_inspect_logs_is_read_at_once_and_the_newest_of_a_task_counts(tmp_path):
    other = head() | {"eval": head()["eval"] | {"task": "capitals"}}
    for name, value in (("a", "C"), ("b", "I")):
        (tmp_path / name).mkdir()
        write_eval(tmp_path / name / "2026-11-28T10-00-00_gsm8k_x.eval", [sample(n, "N") for n in range(9)], head())
        write_eval(tmp_path / name / "2026-11-28T11-00-00_gsm8k_y.eval", [sample(n, value) for n in range(9)], head())
        write_eval(tmp_path / name / "2026-11-28T12-00-00_capitals.eval", [sample(n, value) for n in range(9)], other)
    runs = open_run(tmp_path / "a"), open_run(tmp_path / "b")
    rows = compare_two(*runs)
    assert {row.task: row.values.lost for row in rows} == {"gsm8k": 9, "capitals": 9}
    assert [note for note in comparison_notes(*runs) if "a holds several logs of a task" in note]
    write_eval(tmp_path / "a" / "2026-11-29_gsm8k.eval", [sample(1, "C")], head("hf/other"))
    with pytest.raises(InputError, match="a holds the logs of 2 models, hf/small, hf/other; give a folder of one"):
        open_run(tmp_path / "a")
