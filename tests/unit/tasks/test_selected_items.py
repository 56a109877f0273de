from __future__ import annotations

import json
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from layercut.tasks.selected_items import check_report_items, record_items, selection_items

PLAN = CutPlan(num_layers=6, removed=(3,), scores={"selection_items": record_items({"copy": ["b", "a", "a"]})})


def test_a_plan_carries_ids_and_hash() -> None:
    recorded = PLAN.scores["selection_items"]["copy"]
    assert (recorded["num_items"], recorded["ids"]) == (2, ["a", "b"])
    assert selection_items(PLAN.scores) == {"copy": {"a", "b"}}


def test_a_saved_plan_still_refuses(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "plan.json")
    plan = CutPlan.load(tmp_path / "plan.json")
    with pytest.raises(InputError, match="1 of these 3 .*`allow_selection"):
        check_report_items(plan, "copy", ["x", "b", "y"])


def test_other_items_are_fine_and_the_same_item_of_another_task_is_not() -> None:
    assert check_report_items(PLAN, "copy", ["x", "y"]) == 0
    assert check_report_items(PLAN, "copy:2", ["a", "b"], allow=True) == 2
    assert check_report_items(CutPlan(num_layers=6, removed=(3,)), "copy", ["a"]) == 0


def test_allowed_on_request_and_counted() -> None:
    assert check_report_items(PLAN, "copy", ["a", "b", "y"], allow=True) == 2


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda recorded: recorded["ids"].remove("a"), "do not match their hash"),
        (lambda recorded: recorded.pop("ids"), "does not record on which items of copy"),
    ],
)
def test_a_plan_that_was_changed_is_refused(damage: object, says: str) -> None:
    scores = json.loads(json.dumps(PLAN.scores))
    damage(scores["selection_items"]["copy"])  # type: ignore[operator]
    with pytest.raises(InputError, match=says):
        check_report_items(CutPlan(num_layers=6, removed=(3,), scores=scores), "copy", ["x"])
