from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from layercut.errors import InputError
from layercut.surgery.plan import CutPlan, lost_since, parse_layers
from layercut.text import format_layers

if TYPE_CHECKING:
    from pathlib import Path


def test_key_depends_on_the_set_not_on_the_order() -> None:
    assert CutPlan(num_layers=6, removed=(4, 1)).key == CutPlan(num_layers=6, removed=(1, 4)).key
    assert CutPlan(num_layers=6, removed=(4, 1)).key != CutPlan(num_layers=7, removed=(1, 4)).key
    assert CutPlan(num_layers=6).key == "uncut" and CutPlan(num_layers=6).kept == (0, 1, 2, 3, 4, 5)
    plan = CutPlan(num_layers=30, removed=parse_layers("21-24,3"))
    assert plan.describe() == "removes 5 of 30 decoder layers (16.7 %): 3, 21, 22, 23, 24" and not plan.is_uncut


def test_a_plan_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    about = {"criterion": "reverse", "model": "m", "settings": {"seed": 1}, "scores": {"4": 0.5}}
    plan = CutPlan(num_layers=6, removed=(4, 1), **about)  # type: ignore[arg-type]
    plan.save(tmp_path / "plan.json")
    assert CutPlan.load(tmp_path / "plan.json") == plan
    assert json.loads((tmp_path / "plan.json").read_text())["kept"] == [0, 2, 3, 5]


@pytest.mark.parametrize("layers", [(0,), (1, 2), (3, 8, 21, 22, 23, 24), (0, 1, 2, 4, 6, 7, 8)])
def test_format_is_the_inverse_of_parse(layers: tuple[int, ...]) -> None:
    assert parse_layers(format_layers(layers)) == layers


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("removed", value) for value in (["2"], [True], [1.0], "12", [[1]], [9])),
        *(("num_layers", value) for value in (True, 10**9, "6", None)),
        *(("criterion", 3), ("criterion", "\ud83d"), ("model", ["a"]), ("model_hash", 5), ("settings", [])),
        *(("scores", None), ("earlier", [1]), ("earlier", [{"num_layers": 6, "removed": ["2"]}])),
        ("format_version", 99),
    ],
)
def test_a_field_of_another_kind_is_refused(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**CutPlan(num_layers=6, removed=(1,)).to_dict(), field: value}))
    with pytest.raises(InputError, match=r"plan\.json(: not a plan| is damaged|.*version)|no layer|not in") as caught:
        CutPlan.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, b"\xff\xfe", b"{"])
def test_a_plan_that_no_reader_takes_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(InputError, match=r"plan\.json is damaged: it is not JSON") as caught:
        CutPlan.load(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["0-999999999999", "99999", "1" * 5000, "0-" + "9" * 5000])
def test_a_layer_list_beyond_any_model_is_refused_at_once(text: str) -> None:
    with pytest.raises(InputError, match="layer") as caught:
        parse_layers(text)
    assert len(str(caught.value)) < 300


def test_layers_of_several_cuts_are_counted_in_the_first_model() -> None:
    first = {"model_hash": "a", "num_layers": 6, "removed": [4, 2], "healed": ["seam"]}
    second = {"model_hash": "b", "num_layers": 4, "removed": [0], "healed": ["lora"]}
    plan = {"model_hash": "c", "num_layers": 3, "removed": [2], "earlier": [first, second]}
    assert lost_since(plan, "a") == (6, (4, 2, 0, 5), ("seam", "lora"), 0.0)
    assert lost_since(plan, "b") == (4, (0, 3), ("lora",), 0.0)
    assert lost_since(plan, "c") is None, "its own model lost nothing before"
    assert lost_since(plan, None) is None and lost_since(plan | {"num_layers": 5}, "a") is None
