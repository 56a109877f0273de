"""Multiple choice through lm-eval: contexts, continuations and grades must be exactly lm-eval's own."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from layercut.engine.base import LikelihoodRequest, Likelihoods
from layercut.errors import InputError
from layercut.tasks import load_task

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

ROWS = [
    {
        "id": f"r{i}",
        "question": f"What is {i} + 1?",
        "choices": {"text": [str(i + 1), f"{i}0", "none"][: 3 - i % 2], "label": ["A", "B", "C"][: 3 - i % 2]},
        "answerKey": "A",
    }
    for i in range(30)
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def likelihoods(scores: tuple[float, ...]) -> Likelihoods:
    many = len(scores)
    return Likelihoods(
        id="a",
        log_likelihoods=scores,
        num_tokens=(1,) * many,
        is_greedy=tuple(score == max(scores) for score in scores),
        num_prompt_tokens=1,
    )


def test_what_is_asked_and_graded(tmp_path: Path) -> None:
    task = load_task("arc_easy", data=str(write(tmp_path / "a.jsonl", ROWS)))
    sample = next(sample for sample in task.samples("report", None) if len(sample.options) == 3)
    number = int(sample.options[0]) - 1
    assert task.request(sample, "rank") == LikelihoodRequest(
        id=sample.id,
        prompt=f"Question: What is {number} + 1?\nAnswer:",
        continuations=(f" {number + 1}", f" {number}0", " none"),
    )
    assert sample.gold == sample.options[0]
    assert not task.settled(sample, "rank", " none") and task.draft(sample, "rank") == "", "nothing is generated"
    assert task.grade(sample, "rank", likelihoods((-1.0, -2.0, -3.0))) == (
        {"acc": 1.0, "acc_norm": 0.0 if len(sample.gold) == 1 else 1.0},
        sample.gold,
        "right",
    )
    wrong = task.grade(sample, "rank", likelihoods((-3.0, -9.0, -2.0)))
    assert wrong.metrics["acc"] == 0.0 and wrong.answer == "none" and wrong.outcome == "wrong"
    assert wrong.metrics["acc_norm"] == 0.0, "-2 over the four characters of none is more than -3 over one or two"


def test_chance_follows_the_number_of_choices(tmp_path: Path) -> None:
    task = load_task("arc_easy", data=str(write(tmp_path / "a.jsonl", ROWS)))
    samples = task.samples("report", None)
    expected = sum(1 / len(sample.options) for sample in samples) / len(samples)
    assert task.chance(samples, "rank") == {"acc": expected, "acc_norm": expected}
    assert 1 / 3 < expected < 1 / 2


def test_splits_of_a_folder_and_of_a_file(tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", ROWS[:12])
    write(tmp_path / "test.jsonl", ROWS[10:])
    task = load_task("arc_easy", data=str(tmp_path))
    assert len(task.samples("report", None)) == 20
    assert len(task.samples("selection", None)) == 10, "two are test items as well"
    assert task.samples("report", 5) == task.samples("report", None)[:5]
    assert task.settings()["splits"] == "selection: validation, report: test"
    halves = load_task("arc_easy", data=str(tmp_path / "test.jsonl"))
    report, selection = halves.samples("report", None), halves.samples("selection", None)
    assert len(report) + len(selection) == 20 and report and selection
    assert halves.settings()["splits"] == "test, halves by content hash"


def test_twins_in_the_data_keep_their_places(tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", ROWS[:2])
    write(tmp_path / "test.jsonl", [ROWS[5], ROWS[5] | {"id": "another"}])
    first, second = load_task("arc_easy", data=str(tmp_path)).samples("report", None)
    assert second.id == f"{first.id}-2" and first.question == second.question


@pytest.fixture
def few_task_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few of lm-eval's task files in place of all 14,000, which take seconds to read."""
    monkeypatch.setattr("layercut.tasks.multiple_choice._full_manager", small_manager)


def small_manager() -> Any:
    import lm_eval.tasks

    home = Path(lm_eval.tasks.__file__).parent
    return lm_eval.tasks.TaskManager(include_defaults=False, include_path=[home / "arc", home / "winogrande"])


@pytest.mark.slow
def test_a_name_is_looked_for_in_all_of_lm_eval() -> None:
    with pytest.raises(InputError, match=r"unknown lm-eval task 'arc_eazy'\. Did you mean arc_easy"):
        load_task("lm-eval:arc_eazy")


@pytest.mark.usefixtures("few_task_files")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lm-eval:arc_eazy", r"unknown lm-eval task 'arc_eazy'\. Did you mean arc_easy"),
        ("lm-eval:ai2_arc", "ai2_arc is a group of tasks"),
        ("lm-eval:winogrande", "several contexts"),
    ],
)
def test_what_lm_eval_has_not_or_layercut_cannot(name: str, message: str, tmp_path: Path) -> None:
    row = {"sentence": "Ann told Bo that _ won.", "option1": "Ann", "option2": "Bo", "answer": "1"}
    data = str(write(tmp_path / "a.jsonl", [row]))
    with pytest.raises(InputError, match=message) as caught:
        load_task(name, data=data).samples("report", 1)
    assert "\n" not in str(caught.value)


def test_a_task_that_generates_is_refused(tmp_path: Path) -> None:
    data = str(write(tmp_path / "a.jsonl", [{"question": "q", "answer": "#### 1"}]))
    with pytest.raises(
        InputError, match="gsm8k is a generate_until task with exact_match; layercut takes multiple_choice"
    ):
        load_task("lm-eval:gsm8k", data=data)


def test_data_of_another_kind_is_refused(tmp_path: Path) -> None:
    data = str(write(tmp_path / "a.jsonl", [{"question": "q", "answer": "#### 1"}]))
    with pytest.raises(
        InputError, match=r"lm-eval's arc_easy cannot read this data .*fields of the data set"
    ) as caught:
        load_task("arc_easy", data=data)
    assert "\n" not in str(caught.value)
    bad = str(write(tmp_path / "b.jsonl", [*ROWS, ROWS[0] | {"answerKey": "Z"}]))
    with pytest.raises(InputError, match="test row 31: lm-eval's arc_easy cannot read this data"):
        load_task("arc_easy", data=bad).samples("report", None)


def test_no_network_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError, match=r"its data set cannot be loaded .* --data arc_easy=PATH") as caught:
        load_task("arc_easy")
    assert "\n" not in str(caught.value)


def test_arc_easy_equals_lm_evals_own_processing(benchmark_data: Path, tmp_path: Path) -> None:
    """lm-eval's task with its own JSON loader against ours."""
    limit = 500
    folder = benchmark_data / "arc_easy"
    files = {split: str(folder / f"{split}.jsonl") for split in ("validation", "test")}
    changed = {
        "task": "arc_easy",
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files, "cache_dir": str(tmp_path)},
        "training_split": None,
    }
    theirs = small_manager().load({"group": "own", "task": [changed]})["tasks"]["arc_easy"]
    ours = load_task("arc_easy", data=str(folder))
    samples = ours.samples("report", limit)
    assert len(samples) == limit and len(theirs.eval_docs) == 2376
    theirs.build_all_requests(limit=limit)
    by_doc: dict[int, list[Any]] = {}
    for instance in theirs.instances:
        by_doc.setdefault(instance.doc_id, []).append(instance)
    rng = Random(0)
    for index, sample in enumerate(samples):
        instances = by_doc[index]
        asked = ours.request(sample, "rank")
        assert isinstance(asked, LikelihoodRequest)
        assert [(asked.prompt, text) for text in asked.continuations] == [instance.args for instance in instances]
        scores = tuple(rng.uniform(-50, -1) for _ in instances)
        results = [(score, score == max(scores)) for score in scores]
        theirs_graded = theirs.process_results(theirs.eval_docs[index], results)
        assert ours.grade(sample, "rank", likelihoods(scores)).metrics == theirs_graded
        assert sample.options[theirs.doc_to_target(theirs.eval_docs[index])] == sample.gold
    assert any(len(sample.options) != 4 for sample in samples), "three and five choices as well"


def test_items_of_one_subject_share_a_cluster(tmp_path: Path) -> None:
    rows = [row | {"subject": f"subject {i % 3}"} for i, row in enumerate(ROWS)]
    samples = load_task("arc_easy", data=str(write(tmp_path / "a.jsonl", rows))).samples("report", None)
    assert {sample.data["doc"]["subject"] for sample in samples} == {f"subject {i}" for i in range(3)}
    named = {(sample.data["doc"]["subject"], sample.data["cluster"]) for sample in samples}
    assert len(named) == len({cluster for _, cluster in named}) == 3
    plain = load_task("arc_easy", data=str(write(tmp_path / "b.jsonl", ROWS))).samples("report", 3)
    assert all(sample.data["cluster"] is None for sample in plain)
