"""Plans with one field changed: a plan that every reader takes, or one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.surgery.plan import CutPlan, Loss, lost_since
from layercut.tasks.selected_items import held_out_items, record_items, selection_items
from tests.support.odd import VALUES, check_line, fields_of, mutated

PLAN = {
    "format_version": 1, "num_layers": 6, "removed": [4, 1], "kept": [0, 2, 3, 5], "criterion": "task_accuracy",
    "model": "m", "model_hash": "12ab", "settings": {"seed": 1},
    "scores": {
        "uncut": 1.0, "rounds": [{"value": 0.9, "candidates": [1, 4], "values": [0.5, 0.9]}, {"value": 0.8}],
        "importance": {"0": 1.0}, "selection_items": record_items({"copy": ["a"]}),
        "held_out": {"items": record_items({"copy": ["b"]})},
    },
    "earlier": [{"model": "A", "model_hash": "34cd", "num_layers": 7, "removed": [6], "mlp": 0.5, "healed": ["lora"]}],
    "channels": {"field": "intermediate_size", "width": 8, "num_kept": 4, "kept": {"0": "f0", "2": "0f"}},
}  # fmt: skip


@pytest.mark.parametrize("path", fields_of(PLAN), ids=lambda path: ".".join(map(str, path)))
def test_a_changed_field_of_a_plan_is_read_or_named(tmp_path: Path, path: tuple[Any, ...]) -> None:
    file = tmp_path / "plan.json"
    for value in VALUES.values():
        file.write_text(json.dumps(mutated(PLAN, path, value)))
        try:
            plan = CutPlan.load(file)
        except InputError as error:
            check_line(error, "plan.json")
            continue
        plan.save(file)
        assert CutPlan.load(file).to_dict() == plan.to_dict() and plan.describe() and plan.key
        assert isinstance(lost_since(plan.to_dict(), "34cd"), Loss | None)
        for read in (selection_items, held_out_items):
            try:
                assert read(plan.scores) is not None
            except InputError as error:
                check_line(error, "")
