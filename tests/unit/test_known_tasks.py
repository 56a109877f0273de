"""A row of the table of tasks says all that other lists of tasks say."""

from __future__ import annotations

from layercut.evidence.uses import USES, named_use, tasks_for_use
from layercut.healing.data import BUILT_IN, remove_contaminated, report_items, tasks_to_check
from layercut.healing.prompt_sources import PromptSource
from layercut.known_tasks import TASKS, KnownTask
from tests.support.healing import record


def test_rows_name_uses_that_there_are():
    entries = [entry.partition("/")[0] for row in TASKS.values() for entry in (*row.uses, *row.part_of)]
    assert set(entries) == set(USES)


def test_no_report_item_of_a_built_in_task_is_trained_on():
    """Of every one, also those that no list names: a row without a word about training is protected."""
    tasks = tasks_to_check(BUILT_IN, {})
    items = report_items(tasks, PromptSource(), lambda line: None)
    for name, task in tasks.items():
        texts = [sample.question for sample in task.samples("report", 20)]
        kept, removed = remove_contaminated([record(name, text, "x") for text in texts], items)
        assert kept == [] and removed[name] == len(texts)


def test_a_new_row_is_protected_measured_and_part_of_a_suite(monkeypatch):
    monkeypatch.setitem(TASKS, "sums", KnownTask("builtin.lines:arithmetic_task", "sums", uses=("math/rank",)))
    assert ("sums", "rank") in tasks_for_use("math") and named_use("math").speaks_of("sums")
    assert not TASKS["sums"].needs_files, "so healing reads its report items, or refuses a data set that is not there"
