"""Which items a model is reported on: all of a test set, or the rest where its plan or healing used some."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.comparison import compare_runs
from layercut.evidence.two_runs import compare_two
from layercut.healing.data import full_test_sets, items_used, report_items, tasks_to_check
from layercut.healing.heal import heal_model
from layercut.healing.prompt_sources import Answering, PromptSource, PromptSpec, prompt_source
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.report.runs import metrics_table
from layercut.report.words import test_set_words as named_sets
from layercut.runs.directory import RunFolder
from layercut.runs.settings import read_config
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.surgery.checkpoint import recorded_healings
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.cells import evaluate_model, make_task_cells
from layercut.tasks.selected_items import (
    check_report_items,
    decide_split,
    record_items,
    reported_split,
    selection_items,
    used_items,
)
from tests.support.answers import write_lines
from tests.support.items import problems_are_made_once  # noqa: F401 - used by every test here
from tests.support.tiny import save_tiny

NUM_ROWS = 24
REAL = {"humaneval_plus": (164, 76), "mbpp_plus": (378, 224), "math500": (500, 252), "gsm8k": (1319, 1319)}
UNCUT = CutPlan(num_layers=6)
QUIET: dict[str, Any] = {"console": Console(file=StringIO()), "say": lambda text: None}


def chosen_on(task: Any, num_items: int = 3) -> CutPlan:
    """A plan that was selected on a few items of a task."""
    ids = [sample.id for sample in task.samples("selection", num_items)]
    return CutPlan(num_layers=6, removed=(3,), scores={"selection_items": record_items({task.name: ids})})


@pytest.mark.parametrize("name", REAL)
def test_a_benchmark_is_whole_until_some_of_it_is_used(name: str, benchmark_data: Path) -> None:
    full, rest = REAL[name]
    task = load_task(name, data=str(benchmark_data / name))
    wanted = [TaskSettings(task=name, data=str(benchmark_data / name))]

    def asked(plan: CutPlan) -> set[str]:
        (cell,) = make_task_cells(wanted, 0, split_of=decide_split(used_items([plan]), None))
        return {sample.id for sample in cell.samples}

    plan = chosen_on(task, 100)
    whole, part = asked(UNCUT), asked(plan)
    assert len(whole) == full == task.test_set_size
    assert len(part) == rest and part <= whole and part.isdisjoint(used_items([plan]) or ())


@pytest.mark.parametrize(
    ("used", "reported", "rest"), [("humaneval", "humaneval_plus", 76), ("mbpp", "mbpp_plus", 224)]
)
def test_items_count_as_used_in_every_task_that_has_them(
    used: str, reported: str, rest: int, benchmark_data: Path
) -> None:
    searched, task = (load_task(name, data=str(benchmark_data / name)) for name in (used, reported))
    split = reported_split(task, used_items([chosen_on(searched, 100)]))
    assert split == "report" and len(task.samples(split, None)) == rest


def test_selection_items_of_math_come_from_its_training_split_where_it_is_there(tmp_path: Path) -> None:
    row = {"problem": "2 + 2?", "solution": "It is \\boxed{4}."}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "test.jsonl").write_text(json.dumps({"problem": "1 + 1?", "answer": "2"}) + "\n")
    task = load_task("math500", data=str(tmp_path))
    (sample,) = task.samples("selection", None)
    assert (sample.question, sample.gold) == ("2 + 2?", "4")
    assert reported_split(task, frozenset()) == "report" and task.test_set_size == 1


def test_a_task_that_makes_its_items_has_no_test_set() -> None:
    task = load_task("copy")
    assert reported_split(task, frozenset()) == "report" and task.test_set_size is None and not task.selection_part
    assert task.samples("full", 5) == task.samples("report", 5)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Say the letter number {i}.", "answer": chr(97 + i), "grade": "exact"} for i in range(NUM_ROWS)]
    return Path(write_lines(tmp_path / "mine.jsonl", rows))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")


def settings_of(model: Path) -> ModelSettings:
    return ModelSettings(model=str(model), dtype="float32", device="cpu")


def evaluated(model: Path, plan: CutPlan | None, mine: Path, out: Path) -> RunFolder:
    handle = ModelHandle(settings_of(model))
    tasks = [TaskSettings(task=str(mine), max_new_tokens=2)]
    more = {"seed": 0, "decoding": DecodingSettings()}
    evaluate_model(handle, handle.plan(plan), tasks=tasks, out=out, **more, **QUIET)
    return RunFolder.open(out)


def ids_in(run: RunFolder) -> list[str]:
    return [record["id"] for record in run.records("mine.jsonl", "short")]


def on_screen(block: Any) -> str:
    console = Console(file=StringIO(), width=160)
    console.print(block)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_an_evaluation_says_which_items_and_a_comparison_pairs_those_in_common(
    tiny: Path, mine: Path, tmp_path: Path
) -> None:
    task = load_task(str(mine))
    rest = [sample.id for sample in task.samples("report", None)]
    uncut = evaluated(tiny, None, mine, tmp_path / "uncut")
    cut = evaluated(tiny, chosen_on(task), mine, tmp_path / "cut")
    full = [sample.id for sample in task.samples("full", None)]
    assert sorted(ids_in(uncut)) == sorted(full) and len(full) == NUM_ROWS
    assert sorted(ids_in(cut)) == sorted(rest)
    assert read_config(uncut.path)["tasks"][0]["items"] == "full test set"
    assert "items" not in read_config(cut.path)["tasks"][0]
    rows = [run.metrics()["rows"][0] for run in (uncut, cut)]
    assert [(row["split"], row["test_set"], row["n"]) for row in rows] == [
        ("full", NUM_ROWS, NUM_ROWS),
        ("report", NUM_ROWS, len(rest)),
    ]
    assert f"full test set, {NUM_ROWS}" in on_screen(metrics_table(uncut.metrics()))
    part = f"rest of the test set, {len(rest)} of {NUM_ROWS}"
    assert part in on_screen(metrics_table(cut.metrics()))
    (row,) = compare_runs(uncut, [cut])
    assert row.n == len(rest) and f"uncut has {NUM_ROWS}, cut has {len(rest)}" in row.note
    assert row.asked == row.to_dict()["items"] == part and row.chance == rows[1]["chance"]
    assert part in named_sets([row])
    (two,) = compare_two(uncut, cut)
    assert two.n == len(rest) and two.note == row.note, "`layercut compare` does the same"
    (row,) = compare_runs(uncut, [uncut])
    assert row.asked == f"full test set, {NUM_ROWS}" and not row.note


def healed(cut: Path, teacher: Path, source: PromptSource, mine: Path, out: Path) -> Path:
    train = TrainSettings(method="seam", max_length=64)
    settings = HealSettings(train=train, responses="original", decontaminate=(str(mine),))
    done = heal_model(settings_of(cut), settings_of(teacher), source, settings, Answering(), out=out, **QUIET)
    assert done is not None
    return done.checkpoint


@pytest.fixture
def cut(tiny: Path, tmp_path: Path) -> Path:
    source = ModelHandle(settings_of(tiny)).source
    cut_model(source, CutPlan(num_layers=6, removed=(3,)), tmp_path / "pruned", uncut=None)
    return tmp_path / "pruned"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = ({"prompt": f"Count up to {i} please.", "answer": "1 2 3 4"} for i in range(12))
    return Path(write_lines(tmp_path / "prompts.jsonl", rows))


def test_a_healed_model_carries_the_items_that_healed_it(tiny: Path, cut: Path, mine: Path, tmp_path: Path) -> None:
    source = prompt_source([PromptSpec(source=f"task:{mine}", limit=100)])
    task = load_task(str(mine))
    there = [sample.id for sample in task.samples("selection", None)]
    assert source.items == {"mine.jsonl": frozenset(there)}
    (note,) = source.notes
    assert note.startswith(f"mine.jsonl: only {len(there)} of the 100 requested")
    folder = healed(cut, tiny, source, mine, tmp_path / "heal")
    (entry,) = recorded_healings(ModelHandle(settings_of(folder)).source)
    assert entry["selection_items"]["mine.jsonl"]["ids"] == sorted(there)
    assert len(ids_in(evaluated(folder, None, mine, tmp_path / "healed"))) == NUM_ROWS - len(there)

    again = tmp_path / "again"
    cut_model(ModelHandle(settings_of(folder)).source, CutPlan(num_layers=5, removed=(2,)), again, uncut=None)
    handle = ModelHandle(settings_of(again))
    assert [one["selection_items"] for one in handle.healings] == [entry["selection_items"]], "also behind another cut"
    assert used_items(handle.earlier_plans, handle.healings) == frozenset(there)


def test_other_prompts_are_checked_for_the_whole_test_set(
    tiny: Path, cut: Path, mine: Path, prompts: Path, tmp_path: Path
) -> None:
    source = prompt_source([PromptSpec(source=str(prompts))])
    folder = healed(cut, tiny, source, mine, tmp_path / "heal")
    assert len(ids_in(evaluated(folder, None, mine, tmp_path / "healed"))) == NUM_ROWS

    plan = json.loads((folder / "plan.json").read_text())
    del plan["healing"][-1]["selection_items"]  # of an older layercut
    (folder / "plan.json").write_text(json.dumps(plan))
    handle = ModelHandle(settings_of(folder))
    assert used_items(handle.earlier_plans, handle.healings) is None
    assert len(ids_in(evaluated(folder, None, mine, tmp_path / "unknown"))) < NUM_ROWS


def test_training_data_holds_nothing_that_may_be_reported(mine: Path) -> None:
    tasks = tasks_to_check([str(mine)], {})
    task = tasks[str(mine)]
    (taken,) = task.samples("selection", 1)
    other = PromptSource(records=[{"id": "p1", "prompt": "Hello", "completion": "x"}])
    made = {"task": task.name, "prompt": "", "completion": ""}
    own, of_prune = (PromptSource(records=[{**made, "id": name}]) for name in (taken.id, f"{task.name} {taken.id}"))
    assert own.items == of_prune.items == {task.name: {taken.id}}
    assert full_test_sets(tasks, other) == (str(mine),) and full_test_sets(tasks, own) == ()
    found = [report_items(tasks, source, lambda text: None).found_in(taken.question, "") for source in (other, own)]
    assert found == [{str(mine)}, set()]
    assert items_used(tasks, other) == {}
    assert items_used(tasks, own) == {task.name: task.selection_part}, "those that were not checked count as used"


PLAN = CutPlan(num_layers=6, removed=(3,), scores={"selection_items": record_items({"copy": ["b", "a", "a"]})})


def test_items_of_a_plan_are_refused(tmp_path: Path) -> None:
    recorded = PLAN.scores["selection_items"]["copy"]
    assert (recorded["num_items"], recorded["ids"]) == (2, ["a", "b"])
    assert selection_items(PLAN.scores) == {"copy": {"a", "b"}}
    PLAN.save(tmp_path / "plan.json")
    with pytest.raises(InputError, match="selected on 1 of these 3 "):
        check_report_items([CutPlan.load(tmp_path / "plan.json")], "copy", ["x", "b", "y"])
    with pytest.raises(InputError, match="selected on 2 of these 3 items of copy:2"):
        check_report_items([CutPlan(num_layers=6, removed=(3,)), PLAN], "copy:2", ["a", "b", "y"])
    check_report_items([PLAN], "copy", ["x", "y"])
    check_report_items([CutPlan(num_layers=6, removed=(3,))], "copy", ["a"])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda recorded: recorded["ids"].remove("a"), "do not match their hash"),
        (lambda recorded: recorded.pop("ids"), "items of copy are missing"),
    ],
)
def test_a_plan_that_was_changed_is_refused(damage: object, says: str) -> None:
    scores = json.loads(json.dumps(PLAN.scores))
    damage(scores["selection_items"]["copy"])  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        check_report_items([CutPlan(num_layers=6, removed=(3,), scores=scores)], "copy", ["x"])
