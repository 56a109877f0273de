"""Tasks of lm-eval whose answers are written: what they are called, what they refuse, and the score of guessing."""

from __future__ import annotations

import pytest

from layercut.engine.base import GenerationRequest, Message
from layercut.errors import InputError
from layercut.tasks import base_name_of_task, check_task, load_task
from tests.support.answers import completion
from tests.support.harness import Rows, write_rows

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")


def gsm(number: int, split: str = "test") -> Rows:
    return [{"question": f"{split} {i}?", "answer": f"Steps.\n#### {i % 4 + i % 3}"} for i in range(number)]


@pytest.fixture
def gsm_folder(tmp_path):
    return write_rows(tmp_path / "gsm", {"train": gsm(12, "train"), "test": gsm(12)})


def test_a_name_of_ours_is_kept_apart_from_lm_evals(gsm_folder):
    ours, theirs = load_task("gsm8k", data=gsm_folder), load_task("lm-eval:gsm8k", data=gsm_folder)
    assert (ours.name, theirs.name) == ("gsm8k", "lm-eval:gsm8k")
    assert load_task("lm_eval:gsm8k:2", data=gsm_folder).name == "lm-eval:gsm8k:2"
    assert load_task("gsm8k_cot:0", data=gsm_folder).name == "gsm8k_cot:0"


@pytest.mark.parametrize(("name", "shown"), [("lm-eval:gsm8k", 5), ("lm-eval:gsm8k:0", 0), ("gsm8k_cot:3", 3)])
def test_as_many_examples_as_the_task_file_asks_for_or_as_were_named(name, shown, gsm_folder):
    task = load_task(name, data=gsm_folder)
    samples = task.samples("report", None)
    request = task.request(samples[0], "chain")
    assert isinstance(request, GenerationRequest) and isinstance(request.prompt, str)
    assert request.prompt.count("\n\n") == shown and request.prompt.count("test 0?") == 1
    assert request.prompt.endswith(samples[0].question)
    assert ("examples" in task.settings()) == (shown > 0)
    bare = load_task(f"{name.removesuffix(':0').removesuffix(':3')}:0", data=gsm_folder)
    assert [one.id for one in bare.samples("report", None)] == [one.id for one in samples], "ids without examples"


def test_splits_readouts_and_chance_of_a_written_task(gsm_folder):
    task = load_task("gsm8k_cot", data=gsm_folder)
    assert task.settings()["splits"] == "selection: train, report: test"
    assert len(task.samples("report", None)) == 12
    assert all(one.question.startswith("Q: train") for one in task.samples("selection", None))
    chance = load_task("lm-eval:gsm8k", data=gsm_folder).split_chance("report", "chain")
    assert chance == {"strict-match": 0.0, "flexible-extract": 0.0}
    task = load_task("lm-eval:gsm8k", data=gsm_folder)
    for name in ("rank", "short"):
        with pytest.raises(InputError, match="Known: chain"):
            task.check_readout(name)
    check_task("lm-eval:gsm8k", ["chain"], data=gsm_folder)


def test_each_filter_is_a_metric_and_the_first_one_the_headline(gsm_folder):
    task = load_task("lm-eval:gsm8k", data=gsm_folder)
    sample = task.samples("report", 6)[5]
    strict, flexible = "strict-match", "flexible-extract"
    assert sample.gold == "Steps.\n#### 3"
    for text, finish, expected in (
        (" So.\n#### 3", "stop", ({strict: 1.0, flexible: 1.0}, "3", "right")),
        (" So it is 3.", "stop", ({strict: 0.0, flexible: 1.0}, "", "no_answer")),
        (" So.\n#### 4 or", "length", ({strict: 0.0, flexible: 0.0}, "4", "cut")),
        (" So.\n#### 4 or", "stop", ({strict: 0.0, flexible: 0.0}, "4", "wrong")),
    ):
        score = task.grade(sample, "chain", completion(text, finish))
        assert (score.metrics, score.answer, score.outcome) == expected
    assert list(score.metrics) == [strict, flexible]
    assert not task.settled(sample, "chain", "#### 3") and task.draft(sample, "chain") == ""


def test_a_longest_answer_can_be_chosen(gsm_folder):
    task = load_task("lm-eval:gsm8k", data=gsm_folder, max_new_tokens=9)
    request = task.request(task.samples("report", 1)[0], "chain")
    assert isinstance(request, GenerationRequest) and request.max_new_tokens == 9
    assert task.settings()["max_new_tokens"] == 9
    assert load_task("lm-eval:gsm8k", data=gsm_folder).settings()["max_new_tokens"] == 256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lm-eval:humaneval", "humaneval runs programs without isolation; use humaneval"),
        ("lm-eval:mbpp", "mbpp runs programs without isolation"),
        ("humaneval_instruct", "humaneval_instruct runs programs without isolation"),
        ("gsm8k_cot_self_consistency", "asks for 64 answers to each item"),
        ("squadv2", "squadv2 is a Python class that takes no local rows"),
        ("lm-eval:gsm8k:20", "its data has 12 rows for 20 worked examples"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_line(name, message, gsm_folder):
    with pytest.raises(InputError, match=message) as caught:
        load_task(name, data=gsm_folder)
    assert "\n" not in str(caught.value)


def test_examples_from_a_split_that_is_not_there(tmp_path):
    data = write_rows(tmp_path, {"test": gsm(12)})
    with pytest.raises(InputError, match=r"split 'train'.*\(gsm8k:0\)"):
        load_task("lm-eval:gsm8k", data=data)
    assert load_task("lm-eval:gsm8k:0", data=data).samples("report", 2)


def test_a_task_that_needs_a_package_names_it(gsm_folder, monkeypatch):
    import sys

    for name in ("immutabledict", "langdetect"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.ifeval.utils", raising=False)
    with pytest.raises(InputError, match="ifeval .*pip install "):
        load_task("ifeval", data=gsm_folder)


def test_a_row_that_the_task_cannot_read_is_named(tmp_path):
    data = write_rows(tmp_path, {"validation": [{"question": f"{i}?", "answer": {"aliases": "x"}} for i in range(4)]})
    rows = (tmp_path / "validation.jsonl").read_text().splitlines()
    (tmp_path / "validation.jsonl").write_text("\n".join([*rows[:2], '{"question": "4?"}', *rows[2:]]))
    task = load_task("triviaqa", data=data)
    with pytest.raises(InputError, match="line 3: lm-eval's triviaqa"):
        task.samples("report", None)


def test_a_group_of_written_tasks_is_one_task(tmp_path, monkeypatch):
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks._yaml_loader import load_yaml

    from layercut.tasks.lm_eval.loading import files_of_task

    home = files_of_task("bbh_cot_fewshot_snarks")[0].parent
    manager = TaskManager(include_defaults=False, include_path=home)  # of all 14,000 files it takes seconds
    monkeypatch.setattr("layercut.tasks.lm_eval.loading._full_manager", lambda: manager)
    configs = [load_yaml(file, resolve_func=False) for file in sorted(home.glob("[a-z]*.yaml"))]
    subjects = {one["dataset_name"]: one["task"] for one in configs}
    assert len(subjects) == 27
    rows = [
        {"input": f"{i} of {subject}", "target": "ABCD"[i], "subject": subject}
        for subject in subjects
        for i in range(4)
    ]
    task = load_task("bbh_cot_fewshot", data=write_rows(tmp_path / "all", {"test": rows}))
    samples = task.samples("report", None)
    assert len(samples) + len(task.samples("selection", None)) == 4 * 27
    assert 20 < len({one.data["cluster"] for one in samples}) <= 27
    answers = [completion(f" so the answer is {one.gold if i % 2 else 'E'}.") for i, one in enumerate(samples)]
    scores = task.grade_all(samples, "chain", answers)  # type: ignore[attr-defined]
    assert [score.metrics for score in scores] == [{"exact_match": float(i % 2)} for i in range(len(samples))]
    with pytest.raises(InputError, match=r"unknown lm-eval task 'bbh_cot'\. Did you mean .*bbh_cot_fewshot"):
        load_task("bbh_cot", data=str(tmp_path / "all"))
    with pytest.raises(InputError, match="rows of the subject"):
        load_task("bbh_cot_fewshot", data=write_rows(tmp_path / "few", {"test": rows[:40]}))


def test_what_has_no_number_per_item_is_left_to_lm_evals_own_command(tmp_path):
    pages = write_rows(tmp_path / "pages", {"test": [{"page": f"page {i} of a book"} for i in range(4)]})
    pairs = write_rows(tmp_path / "pairs", {"test": [{"translation": {"en": "a dog", "fr": "un chien"}}] * 4})
    for name, data in (("wikitext", pages), ("wmt14-en-fr", pairs)):
        with pytest.raises(InputError, match=f"{name} .*python -m layercut.tools.lm_eval") as caught:
            load_task(name, data=data)
        assert "\n" not in str(caught.value)


def test_gsm8k_with_examples_is_the_chain_of_thought_prompt(gsm_folder):
    def prompt_of(name: str) -> str:
        task = load_task(name, data=gsm_folder)
        assert task.name == name
        request = task.request(task.samples("report", None)[0], "chain")
        assert isinstance(request, GenerationRequest) and isinstance(request.prompt, str)
        return request.prompt

    assert prompt_of("gsm8k:8") == prompt_of("gsm8k_cot")
    assert prompt_of("gsm8k:8").count("The answer is ") == 8
    check_task("gsm8k:8", ["chain"])
    with pytest.raises(InputError, match="its data has 8 rows for 9 worked examples"):
        load_task("gsm8k:9", data=gsm_folder).settings()


def test_a_task_of_lm_eval_as_a_conversation(gsm_folder):
    task = load_task("gsm8k:2+chat", data=gsm_folder)
    assert task.name == "gsm8k:2+chat" and base_name_of_task("lm-eval:gsm8k+chat") == "gsm8k"
    samples = task.samples("report", None)
    request = task.request(samples[0], "chain")
    assert isinstance(request, GenerationRequest) and not isinstance(request.prompt, str)
    assert [turn.role for turn in request.prompt] == ["user", "assistant"] * 2 + ["user"]
    assert request.prompt[-1] == Message("user", f"{samples[0].question}")
    assert str(request.prompt[1].content).endswith("The answer is 6.")
    plain = load_task("gsm8k:2", data=gsm_folder).samples("report", None)
    assert [sample.id for sample in plain] == [sample.id for sample in samples]
    for name in ("gsm8k+chat", "arithmetic+chat"):
        with pytest.raises(InputError, match="takes no chat"):
            load_task(name)
