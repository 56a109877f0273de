"""Multiple choice through lm-eval: contexts, continuations and grades must be exactly lm-eval's own."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from layercut.engine.base import LikelihoodRequest
from layercut.errors import InputError
from layercut.tasks import load_task
from layercut.tasks.lm_eval.loading import prepare_hellaswag
from tests.support.answers import likelihoods, write_lines

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")

ROWS = [
    {"id": f"r{i}", "question": f"What is {i} + 1?", "answerKey": "A",
     "choices": {"text": [str(i + 1), f"{i}0", "none"][: 3 - i % 2], "label": ["A", "B", "C"][: 3 - i % 2]}}
    for i in range(30)
]  # fmt: skip


@pytest.fixture(scope="module")
def arc_easy(tmp_path_factory):
    return load_task("arc_easy", data=write_lines(tmp_path_factory.mktemp("arc") / "a.jsonl", ROWS))


def test_what_is_asked_and_graded(arc_easy):
    task = arc_easy
    sample = next(sample for sample in task.samples("report", None) if len(sample.options) == 3)
    number = int(sample.options[0]) - 1
    assert task.request(sample, "rank") == LikelihoodRequest(
        id=sample.id,
        prompt=f"Question: What is {number} + 1?\nAnswer:",
        continuations=(f" {number + 1}", f" {number}0", " none"),
    )
    assert sample.gold == sample.options[0]
    assert not task.settled(sample, "rank", " none") and task.draft(sample, "rank") == "", "nothing is generated"
    metrics = {"acc": 1.0, "acc_norm": 0.0 if len(sample.gold) == 1 else 1.0}
    assert task.grade(sample, "rank", likelihoods(-1.0, -2.0, -3.0)) == (metrics, sample.gold, "right", "")
    wrong = task.grade(sample, "rank", likelihoods(-3.0, -9.0, -2.0))
    assert wrong.metrics["acc"] == 0.0 and wrong.answer == "none" and wrong.outcome == "wrong"
    assert wrong.metrics["acc_norm"] == 0.0, "-2 over the four characters of none is more than -3 over one or two"
    samples = task.samples("report", None)
    chance = sum(1 / len(sample.options) for sample in samples) / len(samples)
    assert task.chance(samples, "rank") == {"acc": chance, "acc_norm": chance} and 1 / 3 < chance < 1 / 2


def test_splits_of_a_folder_and_of_a_file(tmp_path):
    write_lines(tmp_path / "validation.jsonl", ROWS[:12])
    write_lines(tmp_path / "test.jsonl", ROWS[10:])
    task = load_task("arc_easy", data=str(tmp_path))
    assert len(task.samples("report", None)) == 20
    assert len(task.samples("selection", None)) == 10, "two are test items as well"
    assert task.samples("report", 5) == task.samples("report", None)[:5]
    assert task.settings()["splits"] == "selection: validation, report: test"
    halves = load_task("arc_easy", data=str(tmp_path / "test.jsonl"))
    report, selection = halves.samples("report", None), halves.samples("selection", None)
    assert len(report) + len(selection) == 20 and report and selection
    assert halves.settings()["splits"] == "test, halves by content hash"


def small_manager() -> Any:
    """A few of lm-eval's task files in place of all 14,000, which take seconds to read."""
    import lm_eval.tasks

    home = Path(lm_eval.tasks.__file__).parent
    return lm_eval.tasks.TaskManager(include_defaults=False, include_path=[home / "arc", home / "winogrande"])


def test_a_joined_context_ends_in_a_capital_as_lm_eval_writes_it():
    row = {"activity_label": "Roofing", "ctx": "A man sits. he", "endings": ["slips."], "label": 0}
    assert prepare_hellaswag([row]) == [{"query": "Roofing: A man sits. He", "choices": ["slips."], "label": 0}]


def test_data_of_another_kind_is_refused(tmp_path):
    data = write_lines(tmp_path / "a.jsonl", [{"question": "q", "answer": "#### 1"}])
    with pytest.raises(InputError, match="line 1: lm-eval's arc_easy cannot read this data") as caught:
        load_task("arc_easy", data=data)
    assert "\n" not in str(caught.value)
    bad = write_lines(tmp_path / "b.jsonl", [*ROWS, ROWS[0] | {"answerKey": "Z"}])
    with pytest.raises(InputError, match="line 31: its label "):
        load_task("arc_easy", data=bad).samples("report", None)


BOOLQ = {"question": "is it so", "passage": "It is so.", "label": 1, "idx": 0}
PIQA = {"goal": "Open it.", "sol1": "Pull.", "sol2": "Sing.", "label": 0}
MMLU = {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "virology"}
GAP = {"sentence": "The cup hit the jar and _ broke.", "option1": "cup", "option2": "jar", "answer": "1"}


@pytest.mark.parametrize(
    ("name", "row", "change", "said"),
    [
        # As Google publishes BoolQ: the label under another name.
        ("boolq", BOOLQ, {"label": None, "answer": True}, "with the fields question, passage, idx(, answer)?, so"),
        ("boolq", BOOLQ, {"label": -1}, "label is -1, of the options 'no', 'yes', .*so boolq has no right"),
        ("boolq", BOOLQ, {"label": 2}, "label is 2, "),
        ("piqa", PIQA, {"label": None}, "with the fields goal, sol1, sol2, so"),
        ("piqa", PIQA, {"label": -1}, "label is -1, "),
        ("mmlu_virology", MMLU, {"answer": None}, "with the fields question, choices, subject, so"),
        ("mmlu_virology", MMLU, {"answer": 4}, "label is 4, "),
        ("winogrande", GAP, {"answer": ""}, "cannot be read .KeyError: ''."),
        ("lambada_openai", {"text": "to his house"}, {"text": ""}, "label is ' ', .*so lambada_openai has no right"),
    ],
)
def test_a_row_without_a_usable_label_is_an_error_that_names_row_and_field(name, row, change, said, tmp_path):
    varied = next(name for name in ("passage", "goal", "question", "sentence", "text") if name in row)
    good = [{**row, varied: f"{n} {row[varied]}"} for n in range(9)]
    split = "test" if name.startswith(("mmlu", "lambada")) else "validation"
    file = tmp_path / f"{split}.jsonl"
    write_lines(file, good)
    assert len(load_task(name, data=str(tmp_path)).samples("report", None)) > 0
    bad = [{key: value for key, value in (each | change).items() if value is not None} for each in good]
    for first_bad, rows in ((1, bad), (7, [*good[:6], bad[6], *good[7:]])):
        write_lines(file, rows)
        with pytest.raises(InputError, match=said if first_bad == 7 else f"{said}|cannot read this data") as caught:
            load_task(name, data=str(tmp_path)).samples("report", None)
        assert f"{split}.jsonl, line {first_bad}: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_worked_example_without_a_usable_label_is_refused_too(tmp_path):
    for split, label in (("train", -1), ("validation", 1)):
        rows = [{**BOOLQ, "passage": f"{split} {n}", "label": label} for n in range(9)]
        write_lines(tmp_path / f"{split}.jsonl", rows)
    assert load_task("boolq", data=str(tmp_path)).samples("report", None)
    with pytest.raises(InputError, match="a worked example of boolq: its label is -1, "):
        load_task("boolq:2", data=str(tmp_path)).samples("report", None)


def test_no_network_is_one_line_that_says_what_to_do(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(InputError, match="`data` arc_easy=PATH") as caught:
        load_task("arc_easy")
    assert "\n" not in str(caught.value)


def test_arc_easy_equals_lm_evals_own_processing(benchmark_data, tmp_path):
    """lm-eval's task with its own JSON loader against ours."""
    limit = 500
    folder = benchmark_data / "arc_easy"
    files = {split: str(folder / f"{split}.jsonl") for split in ("validation", "test")}
    changed = {"task": "arc_easy", "dataset_path": "json", "dataset_name": None, "training_split": None}
    changed["dataset_kwargs"] = {"data_files": files, "cache_dir": str(tmp_path)}
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
        assert [(asked.prompt, text) for text in asked.continuations] == [instance.args for instance in instances]
        scores = tuple(rng.uniform(-50, -1) for _ in instances)
        results = [(score, score == max(scores)) for score in scores]
        theirs_graded = theirs.process_results(theirs.eval_docs[index], results)
        assert ours.grade(sample, "rank", likelihoods(*scores)).metrics == theirs_graded
        assert sample.options[theirs.doc_to_target(theirs.eval_docs[index])] == sample.gold
    assert any(len(sample.options) != 4 for sample in samples), "three and five choices as well"


def test_items_of_one_subject_share_a_cluster(arc_easy, tmp_path):
    rows = [row | {"subject": f"subject {i % 3}"} for i, row in enumerate(ROWS)]
    samples = load_task("arc_easy", data=write_lines(tmp_path / "a.jsonl", rows)).samples("report", None)
    assert {sample.data["item"].doc["subject"] for sample in samples} == {f"subject {i}" for i in range(3)}
    named = {(sample.data["item"].doc["subject"], sample.data["cluster"]) for sample in samples}
    assert len(named) == len({cluster for _, cluster in named}) == 3
    assert all(sample.data["cluster"] is None for sample in arc_easy.samples("report", 3))


NAMES = {"option1": "Ann", "option2": "Bo"}
WINOGRANDE = [
    {"sentence": f"Ann beat Bo {i} times because _ was quick.", **NAMES, "answer": f"{1 + i % 2}"} for i in range(12)
]


def test_options_in_the_context_have_a_prompt_each(tmp_path):
    task = load_task("winogrande", data=write_lines(tmp_path / "validation.jsonl", WINOGRANDE))
    sample = next(one for one in task.samples("report", None) if one.data["item"].doc["answer"] == "2")
    number = sample.data["item"].doc["sentence"].split()[3]
    prompts = (f"Ann beat Bo {number} times because Ann", f"Ann beat Bo {number} times because Bo")
    assert task.request(sample, "rank") == LikelihoodRequest(
        id=sample.id, prompt=prompts[0], continuations=(" was quick.", " was quick."), prompts=prompts
    )
    assert sample.options == prompts and sample.gold == prompts[1]
    assert sample.question == f"Ann beat Bo {number} times because _ was quick."
    assert task.grade(sample, "rank", likelihoods(-2.0, -1.0)) == ({"acc": 1.0}, prompts[1], "right", "")
    assert task.grade(sample, "rank", likelihoods(-1.0, -2.0)) == ({"acc": 0.0}, prompts[0], "wrong", "")


def test_items_are_the_same_with_examples_which_never_show_them_whatever_is_read_first(tmp_path):
    data = write_lines(tmp_path / "validation.jsonl", WINOGRANDE)
    plain, shown = (load_task(name, data=str(tmp_path)) for name in ("winogrande", "winogrande:5"))
    assert shown.name == "winogrande:5" and shown.settings()["examples"] == "5 of validation, seed 1234"
    assert "examples" not in plain.settings()
    for split in ("selection", "report"):
        samples = shown.samples(split, None)  # type: ignore[arg-type]
        alike = [(one.id, one.question) for one in plain.samples(split, None)]  # type: ignore[arg-type]
        assert [(one.id, one.question) for one in samples] == alike
        for sample in samples:
            asked = shown.request(sample, "rank")
            own = sample.data["item"].doc["sentence"].partition("_")[0]
            assert all(str(prompt).count("\n\n") == 5 for prompt in asked.prompts)
            assert all(str(prompt).count(own) == 1 for prompt in asked.prompts), "once, as the question"
    first, second = load_task("winogrande:2", data=data), load_task("winogrande:2", data=data)
    second.samples("selection", 1)
    expected = [second.request(sample, "rank") for sample in second.samples("report", None)[:3]]
    assert [first.request(sample, "rank") for sample in first.samples("report", 3)] == expected


def mmlu_folder(folder: Path) -> Path:
    import lm_eval.tasks

    home = Path(lm_eval.tasks.__file__).parent / "mmlu" / "default"
    subjects = sorted(file.stem.removeprefix("mmlu_") for file in home.glob("mmlu_*.yaml"))
    assert len(subjects) == 57

    def rows(split: str, number: int) -> list[dict[str, Any]]:
        return [
            {"question": f"{split} {i} of {subject}?", "subject": subject, "choices": list("pqrs"), "answer": i % 4}
            for subject in subjects
            for i in range(number)
        ]

    folder.mkdir()
    write_lines(folder / "dev.jsonl", rows("dev", 5))
    write_lines(folder / "validation.jsonl", rows("validation", 1))
    write_lines(folder / "test.jsonl", rows("test", 2))
    return folder


def test_a_group_is_one_task_with_its_subjects_as_clusters_and_one_that_the_data_lacks_is_named(tmp_path):
    folder = mmlu_folder(tmp_path / "mmlu")
    task = load_task("mmlu:5", data=str(folder))
    report = task.samples("report", None)
    assert len(report) == 2 * 57 and len(task.samples("selection", None)) == 57
    assert len({one.data["cluster"] for one in report}) == 57
    assert len({one.data["cluster"] for one in report[:57]}) == 57, "the first items are spread over the subjects"
    assert task.samples("report", 10) == report[:10]
    asked = task.request(report[0], "rank")
    subject = report[0].data["item"].doc["subject"]
    title = subject.replace("_", " ")
    shown = "".join(f"dev {i} of {subject}?\nA. p\nB. q\nC. r\nD. s\nAnswer: {'ABCD'[i % 4]}\n\n" for i in range(5))
    assert asked.continuations == (" A", " B", " C", " D")
    assert asked.prompt == (
        f"The following are multiple choice questions (with answers) about {title}.\n\n{shown}"
        f"test 0 of {subject}?\nA. p\nB. q\nC. r\nD. s\nAnswer:"
    )
    for name in ("dev", "validation", "test"):
        kept = [line for line in (folder / f"{name}.jsonl").read_text().splitlines() if "of virology" not in line]
        (folder / f"{name}.jsonl").write_text("\n".join(kept))
    with pytest.raises(InputError, match="'virology', .*mmlu_virology") as caught:
        load_task("mmlu", data=str(folder))
    assert "\n" not in str(caught.value)


def test_a_tag_and_a_bare_name_of_lm_eval(tmp_path, monkeypatch):
    monkeypatch.setattr("layercut.tasks.lm_eval.loading._full_manager", small_manager)
    with pytest.raises(InputError, match=r"unknown lm-eval task 'arc_eazy'\. Did you mean arc_easy") as caught:
        load_task("lm-eval:arc_eazy")
    assert "\n" not in str(caught.value)
    data = write_lines(tmp_path / "a.jsonl", ROWS)
    task = load_task("ai2_arc", data=data)
    assert {one.data["cluster"] for one in task.samples("report", None)} == {"arc_challenge", "arc_easy"}
    assert load_task("lm_eval:arc_easy", data=data).name == "arc_easy"


def test_a_log_likelihood_task_asks_for_one_continuation(tmp_path):
    rows = [{"text": f"In the park I saw {i} dogs and a cat named Tom. I fed Tom"} for i in range(8)]
    task = load_task("lm-eval:lambada_openai", data=write_lines(tmp_path / "test.jsonl", rows))
    sample = task.samples("report", 1)[0]
    asked = task.request(sample, "rank")
    assert asked.continuations == (" Tom",) and sample.gold == "Tom"
    assert task.grade(sample, "rank", likelihoods(-0.5)) == ({"acc": 1.0}, "Tom", "right", "")
    assert task.chance([sample], "rank") == {"acc": 1.0}, "a constant answerer"


HUB_ROWS: dict[str, dict[str, Any]] = {
    "sciq": {"question": "What lays eggs?", "support": "A hen does.", "correct_answer": "a hen",
             "distractor1": "animal 1", "distractor2": "animal 2", "distractor3": "animal 3"},
    "boolq": BOOLQ,
    "commonsense_qa": {"question": "Where is it?", "answerKey": "A",
                       "choices": {"label": list("ABCDE"), "text": ["here", "there", "up", "down", "out"]}},
    "medmcqa": {"question": "Which?", "opa": "1", "opb": "2", "opc": "3", "opd": "4", "cop": 1},
    "lambada_openai": {"text": "went home to his house"},
}  # fmt: skip


@pytest.mark.parametrize("name", list(HUB_ROWS))
@pytest.mark.parametrize("shots", [0, 2])
def test_tasks_of_lm_eval_whose_data_is_on_the_hub_take_local_rows(name, shots, tmp_path):
    row = HUB_ROWS[name]
    varied = next(field for field in ("passage", "question", "text") if field in row)
    for split in ("train", "validation", "test"):
        rows = [{**row, varied: f"{split} {n} {row[varied]}"} for n in range(12)]
        write_lines(tmp_path / f"{split}.jsonl", rows)
    for data in (tmp_path, tmp_path / "train.jsonl"):
        if shots and (data.is_file() or name == "lambada_openai"):
            continue  # a single file is all test; LAMBADA has no split for examples
        task = load_task(f"{name}:{shots}" if shots else name, data=str(data))
        samples = task.samples("report", None)
        assert len(samples) == 12 if data.is_dir() else 0 < len(samples) < 12
        for sample in samples:
            request = task.request(sample, "rank")
            assert (" " + sample.gold in request.continuations) or name == "medmcqa"
            assert request.prompt.count(str(row[varied])[-8:]) in ({1, 0} if not shots else {1 + shots})
