"""Which items a model is reported on: all of a test set, or the rest where its plan or healing used some."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from layercut.diagnostics import DiagnoseSettings
from layercut.diagnostics.diagnose import PlannedDiagnosis
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.comparison import compare_runs
from layercut.evidence.two_runs import compare_two
from layercut.healing.data import full_test_sets, items_used, report_items, tasks_to_check
from layercut.healing.heal import heal_model
from layercut.healing.prompt_sources import Answering, PromptSource, PromptSpec, prompt_source
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.progress import show_nothing
from layercut.report.reports import write_reports
from layercut.report.runs import metrics_table
from layercut.report.words import test_set_words as named_sets
from layercut.runs.directory import RunFolder
from layercut.runs.settings import read_config
from layercut.selection.select import SelectionRequest, select_layers
from layercut.selection.specs import LayerSpec
from layercut.selection.sweep import plan_sweep
from layercut.settings import DecodingSettings, ModelSettings, TaskSettings
from layercut.study.file import study_from_dict
from layercut.study.job import outline_study
from layercut.surgery.checkpoint import recorded_healings
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Readout, Sample, content_id
from layercut.tasks.cells import evaluate_model, evaluation_outline, make_task_cells
from layercut.tasks.own_file import balanced_order
from layercut.tasks.selected_items import (
    SplitNames,
    check_report_items,
    choose_splits,
    decide_split,
    describe_shortfall,
    first_samples,
    half_of,
    items_hash,
    record_items,
    reported_split,
    selection_items,
    used_items,
)
from tests.support.answers import write_lines
from tests.support.items import problems_are_made_once  # noqa: F401 - used by every test here
from tests.support.studies import NUM_ITEMS, Letters
from tests.support.tiny import save_tiny

NUM_ROWS = 24
UNCUT = CutPlan(num_layers=6)
QUIET: dict[str, Any] = {"console": Console(file=StringIO()), "say": lambda text: None}


def chosen_on(task: Any, num_items: int = 3) -> CutPlan:
    """A plan that was selected on a few items of a task."""
    ids = [sample.id for sample in task.samples("selection", num_items)]
    return CutPlan(num_layers=6, removed=(3,), scores={"selection_items": record_items({task.name: ids})})


@pytest.mark.parametrize(
    ("name", "used", "full", "rest"),
    [
        ("humaneval_plus", "humaneval_plus", 164, 76),
        ("humaneval_plus", "humaneval", 164, 76),  # items count as used in every task that has them
        ("mbpp_plus", "mbpp_plus", 378, 224),
        ("mbpp_plus", "mbpp", 378, 224),
        ("math500", "math500", 500, 252),
        ("gsm8k", "gsm8k", 1319, 1319),
    ],
)
def test_a_benchmark_is_whole_until_some_of_it_is_used(name, used, full, rest, benchmark_data):
    task, searched = (load_task(name, data=str(benchmark_data / name)) for name in (name, used))
    wanted = [TaskSettings(task=name, data=str(benchmark_data / name))]

    def asked(plan: CutPlan) -> set[str]:
        (cell,) = make_task_cells(wanted, 0, split_of=decide_split(used_items([plan]), None))
        return {sample.id for sample in cell.samples}

    plan = chosen_on(searched, 100)
    whole, part = asked(UNCUT), asked(plan)
    assert len(whole) == full == task.test_set_size
    assert len(part) == rest and part <= whole and part.isdisjoint(used_items([plan]) or ())


def test_selection_items_of_math_come_from_its_training_split_where_it_is_there(tmp_path):
    row = {"problem": "2 + 2?", "solution": "It is \\boxed{4}."}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "test.jsonl").write_text(json.dumps({"problem": "1 + 1?", "answer": "2"}) + "\n")
    task = load_task("math500", data=str(tmp_path))
    (sample,) = task.samples("selection", None)
    assert (sample.question, sample.gold) == ("2 + 2?", "4")
    assert reported_split(task, frozenset()) == "report" and task.test_set_size == 1


def test_a_task_that_makes_its_items_has_no_test_set():
    task = load_task("copy")
    assert reported_split(task, frozenset()) == "report" and task.test_set_size is None and not task.selection_part
    assert task.samples("full", 5) == task.samples("report", 5)


@pytest.fixture
def mine(tmp_path):
    rows = [{"prompt": f"Say the letter number {i}.", "answer": chr(97 + i), "grade": "exact"} for i in range(NUM_ROWS)]
    return Path(write_lines(tmp_path / "mine.jsonl", rows))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
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


def test_an_evaluation_says_which_items_and_a_comparison_pairs_those_in_common(tiny, mine, tmp_path):
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
def cut(tiny, tmp_path):
    source = ModelHandle(settings_of(tiny)).source
    cut_model(source, CutPlan(num_layers=6, removed=(3,)), tmp_path / "pruned", uncut=None)
    return tmp_path / "pruned"


@pytest.fixture
def prompts(tmp_path):
    rows = ({"prompt": f"Count up to {i} please.", "answer": "1 2 3 4"} for i in range(12))
    return Path(write_lines(tmp_path / "prompts.jsonl", rows))


def test_a_healed_model_carries_the_items_that_healed_it(tiny, cut, mine, tmp_path):
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


def test_other_prompts_are_checked_for_the_whole_test_set(tiny, cut, mine, prompts, tmp_path):
    source = prompt_source([PromptSpec(source=str(prompts))])
    folder = healed(cut, tiny, source, mine, tmp_path / "heal")
    assert len(ids_in(evaluated(folder, None, mine, tmp_path / "healed"))) == NUM_ROWS

    plan = json.loads((folder / "plan.json").read_text())
    del plan["healing"][-1]["selection_items"]  # of an older layercut
    (folder / "plan.json").write_text(json.dumps(plan))
    handle = ModelHandle(settings_of(folder))
    assert used_items(handle.earlier_plans, handle.healings) is None
    assert len(ids_in(evaluated(folder, None, mine, tmp_path / "unknown"))) < NUM_ROWS


def test_training_data_holds_nothing_that_may_be_reported(mine):
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


def test_items_of_a_plan_are_refused(tmp_path):
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
def test_a_plan_that_was_changed_is_refused(damage, says):
    scores = json.loads(json.dumps(PLAN.scores))
    damage(scores["selection_items"]["copy"])  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        check_report_items([CutPlan(num_layers=6, removed=(3,), scores=scores)], "copy", ["x"])


def sample(text: str) -> Sample:
    return Sample(id=content_id("t", text), question=text, gold="1")


@pytest.mark.parametrize(
    ("available", "names"),
    [
        ({"train", "validation", "test"}, ("validation", "test")),
        ({"train", "test"}, ("train", "test")),
        ({"train", "validation"}, ("train", "validation")),
        ({"validation"}, ("validation", "validation")),
        ({"train"}, ("train", "train")),
        ({"all"}, ("all", "all")),
    ],
)
def test_which_split_is_which(available, names):
    assert choose_splits(available, selection=("validation", "train")) == names


def test_halves_share_nothing_and_keep_the_order():
    texts = [f"q{i}" for i in range(200)]
    names = SplitNames("all", "all")
    halves = {
        split: first_samples(split, names, lambda _: map(sample, texts), None) for split in ("report", "selection")
    }
    report, selection = ([s.question for s in halves[split]] for split in ("report", "selection"))
    assert not set(report) & set(selection)
    assert sorted(report + selection) == sorted(texts)
    assert report == sorted(report, key=texts.index)
    assert 70 < len(report) < 130
    assert first_samples("report", names, lambda _: map(sample, texts), 10) == halves["report"][:10]
    shuffled = first_samples("report", names, lambda _: map(sample, texts[::-1]), None)
    assert {s.id for s in shuffled} == {s.id for s in halves["report"]}


def test_twins_stay_on_one_side_and_what_is_reported_is_not_selected():
    texts = ["a", "b", "a", "c", "a"]
    names = SplitNames("all", "all")
    halves = [first_samples(split, names, lambda _: map(sample, texts), None) for split in ("report", "selection")]
    ids = [s.id for half in halves for s in half]
    assert len(set(ids)) == 5
    with_a = [half for half in halves if any(s.question == "a" for s in half)]
    assert len(with_a) == 1
    assert [s.id for s in with_a[0] if s.question == "a"] == [content_id("t", "a") + end for end in ("", "-2", "-3")]
    data = {"train": ["a", "b", "b", "c"], "test": ["b", "d"]}
    selection = first_samples("selection", SplitNames("train", "test"), lambda split: map(sample, data[split]), None)
    assert [s.question for s in selection] == ["a", "c"]


def test_no_more_rows_are_read_than_needed():
    read: list[int] = []

    def rows(_: str) -> Iterator[Sample]:
        for i in range(1000):
            read.append(i)
            yield sample(str(i))

    first_samples("report", SplitNames("train", "test"), rows, 5)
    assert read == [0, 1, 2, 3, 4]


def test_every_beginning_of_a_draw_holds_each_answer_in_its_share_whatever_the_order():
    samples = [replace(sample(f"q{i}"), gold="yes" if i < 80 else "no") for i in range(120)]
    drawn = balanced_order(samples)
    for number in (15, 30, 60, 90):
        assert abs([item.gold for item in drawn[:number]].count("no") - number / 3) <= 2
    assert balanced_order(samples[::-1]) == drawn and sorted(item.id for item in drawn) == sorted(
        item.id for item in samples
    )
    assert balanced_order(samples, seed=1) != drawn
    places = [int(item.question[1:]) for item in balanced_order([replace(item, gold=item.id) for item in samples])[:40]]
    assert 40 < sum(places) / 40 < 80, "answers that all differ are drawn from the whole file"


def test_halves_are_pinned_and_balanced_and_a_hash_knows_the_set_of_items():
    assert [half_of(f"item-{i}") for i in range(6)] == ["selection"] * 2 + ["report"] + ["selection"] * 3
    share = sum(half_of(f"gsm8k-{i}") == "selection" for i in range(10_000)) / 10_000
    assert 0.48 < share < 0.52
    assert items_hash(["a", "b"]) == items_hash(iter(["b", "a", "a"]))
    assert items_hash(["a", "b"]) != items_hash(["ab"])
    assert items_hash(["a", "b"]) != items_hash(["a"])
    assert len(items_hash([])) == 64


LETTERS = f"{__name__}:easy"
ASKED = NUM_ITEMS + 3


@dataclass(frozen=True)
class Easy(Letters):
    """Without guessing, so that a model of random weights is above it and a search begins."""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {"accuracy": 0.0}


def easy() -> Easy:
    return Easy()


def test_the_line_says_how_many_and_where_they_come_from(tmp_path):
    task = load_task("arithmetic")
    assert describe_shortfall(task, "report", 250) == describe_shortfall(task, "report", None) == ""
    assert describe_shortfall(task, "report", 300).startswith("arithmetic: only 250 of the 300")
    rows = ({"question": f"Question {i}?", "answer": f"So.\n#### {i}"} for i in range(20))
    halved = load_task("gsm8k", data=write_lines(tmp_path / "a.jsonl", rows))
    there = len(halved.samples("selection", None))
    assert describe_shortfall(halved, "selection", 100).startswith(f"gsm8k: only {there} of the 100 requested")


@pytest.mark.parametrize("limit", [NUM_ITEMS, ASKED])
@pytest.mark.parametrize("verb", ["eval", "sweep", "select", "run"])
def test_every_verb_says_it(verb, limit, tiny, tmp_path):
    said: list[str] = []
    tasks = (TaskSettings(task=LETTERS, limit=limit),)
    more: dict[str, Any] = {"seed": 0, "decoding": DecodingSettings(), "say": said.append}
    if verb == "eval":
        handle = ModelHandle(settings_of(tiny))
        evaluation_outline(handle, handle.plan(), tasks, tmp_path / "out", 0, said.append)
    elif verb == "sweep":
        plan_sweep(settings_of(tiny), objective=tasks, out=tmp_path / "out", **more).outline()
    elif verb == "select":
        request = SelectionRequest(remove=LayerSpec.parse("1 layer"), criterion="task_accuracy", tasks=tasks)
        select_layers(settings_of(tiny), request, out=tmp_path / "out", progress=show_nothing, say=said.append)
    else:
        asked = [{"task": LETTERS, "limit": limit}]
        settings = {"model": str(tiny), "dtype": "float32", "device": "cpu", "out": str(tmp_path / "study")}
        settings |= {"criteria": [{"criterion": "task_accuracy", "objective": asked}], "depths": [1], "tasks": asked}
        said += outline_study(study_from_dict(settings)).lines()
    split = "report" if verb == "eval" else "selection"
    line = f"letters: only {NUM_ITEMS} of the {limit} requested {split} items; the task has no more"
    assert (line in said) == (limit == ASKED), said
    if verb == "run":
        assert (line.replace("selection", "report") in said) == (limit == ASKED)
    if verb == "select":
        assert any(f"scored again on 0 of {limit} held-out items" in one for one in said)


def test_a_diagnosis_says_it_and_its_page_shows_it(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("layercut.diagnostics.brackets.NUM_FUNCTIONS", 2)
    said: list[str] = []
    how = DiagnoseSettings(only=("brackets",), limit=3)
    diagnosis = PlannedDiagnosis(settings_of(tiny), ["reverse:1"], how, out=tmp_path / "out", seed=0, say=said.append)
    done = diagnosis.run(Console(file=StringIO()), said.append)
    line = "functions: only 2 of the 3 requested items; there are no more"
    assert said[-1] == line and line in done.data["diagnostics"]["brackets"]["notes"]
    assert line in write_reports(done.folder)["report"].read_text()
