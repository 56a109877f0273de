"""lm-eval tasks whose files are in a folder of one's own: ``lm-eval:FOLDER/NAME``, from every door."""

import json

import pytest

from layercut import evaluate_task
from layercut.errors import InputError
from layercut.runs.foreign_code import untrusted_code
from layercut.tasks import check_task, load_task
from tests.support.tiny import save_tiny

harness = pytest.importorskip("lm_eval.tasks")


@pytest.fixture
def folder(tmp_path):
    tasks = tmp_path / "my_tasks"
    tasks.mkdir()
    rows = [{"question": f"{one} + 1 =", "choices": [str(one + 1), str(one + 2)], "answer": 0} for one in range(12)]
    (tasks / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tasks / "of_mine.yaml").write_text(
        f"task: next_number\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tasks / 'rows.jsonl'}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: choices\n"
        "doc_to_target: answer\nmetric_list:\n  - metric: acc\n",
        encoding="utf-8",
    )
    return tasks


def test_python_scores_it(folder, tmp_path):
    name = f"lm-eval:{folder}/next_number"
    check_task(name)
    task = load_task(name)
    assert task.name == "next_number"
    before = task.settings
    (folder / "of_mine.yaml").open("a").write("target_delimiter: ' '\n")
    assert load_task(name).settings != before, "a run with another task file is another run"
    row = evaluate_task(name, str(save_tiny("llama", tmp_path / "model")), split="full").metrics[0]
    assert row["n"] == 12


@pytest.fixture
def no_defaults(monkeypatch):
    """Without the 14,000 files of lm-eval itself, which take seconds."""
    manager = harness.TaskManager
    monkeypatch.setattr(harness, "TaskManager", lambda **given: manager(**given | {"include_defaults": False}))


def test_what_is_not_there_is_named(folder, no_defaults):
    with pytest.raises(InputError, match="'next_numbr'.*next_number"):
        load_task(f"lm-eval:{folder}/next_numbr")
    with pytest.raises(InputError, match="lm-eval:FOLDER/NAME"):
        check_task("lm-eval:nowhere/next_number")


@pytest.fixture
def group(folder):
    """The folder with a second task, in a tag, a group of both, and a function in its file."""
    (folder / "utils.py").write_text("def same(doc):\n    return doc['question']\n", encoding="utf-8")
    more = (folder / "of_mine.yaml").read_text(encoding="utf-8").replace("next_number", "next_one")
    more = more.replace("'{{question}}'", "!function utils.same")
    (folder / "more.yaml").write_text(f"{more}tag:\n  - of_numbers\n", encoding="utf-8")
    (folder / "both.yaml").write_text("group: both_numbers\ntask:\n  - next_number\n  - next_one\n", encoding="utf-8")
    return folder


def test_the_command_line_scores_a_group_in_a_folder_and_goes_on(group, tmp_path, layercut):
    words = ["eval", save_tiny("llama", tmp_path / "model"), "--tasks", f"lm-eval:{group}/both_numbers"]
    words += ["--readouts", "rank", "--out", tmp_path / "run", "--json"]
    ran = layercut(*words)
    assert ran.code == 0, ran.err
    row = json.loads(ran.out)["rows"][0]
    assert (row["task"], row["n"]) == ("both_numbers", 24)
    assert layercut(*words).code == 0, "the same command goes on"


def test_a_tag_is_a_task(group, no_defaults):
    assert len(load_task(f"lm-eval:{group}/of_numbers").samples("full", None)) == 12


def test_every_verb_with_tasks_takes_it(group, tmp_path, layercut):
    model, own = save_tiny("llama", tmp_path / "model"), f"lm-eval:{group}/"
    search = ("--criterion", "task_accuracy", "--remove", "1 layer")
    for words in (
        ("prune", model, "--tasks", f"{own}next_number", "--items", 8),
        ("select", model, *search, "--objective", f"{own}next_number,{own}next_one", "--limit", 2),
        ("sweep", model, "--objective", f"{own}next_one", "--limit", 2),
    ):
        ran = layercut(*words, "--dry-run", "--out", tmp_path / "run")
        assert ran.code == 0, (words, ran.err)
    assert layercut("cut", model, "--remove", "2", "--out", tmp_path / "cut").code == 0
    healed = layercut(
        "heal", tmp_path / "cut", "--teacher", model, "--prompts", "task:copy", "--limit", 4,
        "--decontaminate", f"{own}next_one", "--max-new-tokens", 4, "--dry-run", "--out", tmp_path / "healed",
    )  # fmt: skip
    assert healed.code == 0, healed.err


def test_a_study_file_may_not_name_code_of_its_own(group):
    with untrusted_code("study.yaml"), pytest.raises(InputError, match="code of its own"):
        check_task(f"lm-eval:{group}/next_one")
