from __future__ import annotations

import pytest

from layercut.base_settings import Settings
from layercut.errors import InputError
from layercut.selection import CRITERIA, base, criterion_row, find_criterion
from layercut.selection.base import Context, by_importance
from layercut.selection.specs import LayerSpec, Units, parse_protected
from layercut.surgery.plan import CutPlan


def reverse(num_layers: int, num_remove: int, protect: frozenset[int] = frozenset()) -> tuple[int, ...]:
    return base.last_layers(Context(num_layers=num_layers, num_remove=num_remove, protect=protect)).removed


def random(num_layers: int, num_remove: int, seed: int) -> tuple[int, ...]:
    return base.random_layers(Context(num_layers=num_layers, num_remove=num_remove, seed=seed)).removed


def test_reverse_takes_the_last_layers_last_one_first():
    assert reverse(30, 3) == (29, 28, 27)
    assert reverse(30, 3, protect=frozenset({29, 27})) == (28, 26, 25)
    # Of equally important layers the later one goes.
    context = Context(num_layers=4, num_remove=2, protect=frozenset({3}))
    assert by_importance(context, {0: 0.5, 1: 0.1, 2: 0.1, 3: 0.0}).removed == (2, 1)


@pytest.mark.parametrize(
    ("num_remove", "protect", "message"),
    [
        (1, {6}, "protected layer 6"),
        (3, {0, 1, 2, 3}, "2 of 6 can be removed"),
        *((number, (), "choose 1 to 5") for number in (0, 6, 7)),
    ],
)
def test_what_cannot_be_removed_or_protected_is_refused(num_remove, protect, message):
    with pytest.raises(InputError, match=message):
        Context(num_layers=6, num_remove=num_remove, protect=frozenset(protect))


def test_a_criterion_of_ones_own_is_named_by_module_and_function():
    assert find_criterion("layercut.selection.base:last_layers") is base.last_layers
    with pytest.raises(InputError, match="no.such:thing"):
        find_criterion("no.such:thing")


def test_what_is_known_of_a_criterion_without_importing_it():
    assert {name: find_criterion(name).__name__ for name in CRITERIA} == {
        **{name: name for name in ("block_influence", "angular_distance", "task_accuracy", "trace_damage")},
        "random": "random_layers",
        "reverse": "last_layers",
        "perplexity": "choose_by_loss",
    }
    assert [name for name, row in CRITERIA.items() if not row.needs_model] == ["random", "reverse"]
    own = criterion_row("my.module:function")
    assert own.needs_model
    assert not (own.needs_text or own.needs_objective or own.protects_first_layer)
    with pytest.raises(InputError, match="unknown criterion 'revers'.*reverse"):
        criterion_row("revers")


def test_random_is_the_same_everywhere_and_nested_in_depth():
    assert random(30, 3, seed=0) == random(30, 6, seed=0)[:3]
    assert len(set(random(30, 29, seed=4))) == 29
    assert random(30, 5, seed=0) != random(30, 5, seed=1)
    assert random(30, 3, seed=0) == (15, 20, 25)  # pinned: a new hash or order would silently change published plans
    # It covers all layers evenly.
    counts = [0] * 10
    for seed in range(2000):
        counts[random(10, 1, seed)[0]] += 1
    assert min(counts) > 150
    assert max(counts) < 250


def test_layers_are_named_or_counted_by_a_criterion():
    plan = LayerSpec.parse("8,3,21-24").bind(num_layers=30)
    assert (plan.removed, plan.criterion) == ((8, 3, 21, 22, 23, 24), "explicit")
    plan = LayerSpec.parse("random:3").bind(num_layers=30, seed=7, model="m", model_hash="abc")
    assert (plan.removed, plan.settings) == (random(30, 3, 7), {"seed": 7, "num_remove": 3})
    assert (plan.model, plan.model_hash) == ("m", "abc")
    for name in ("reverse", "random"):
        with pytest.raises(InputError, match=f"{name} has no settings, .*'token'"):
            find_criterion(name)(Context(num_layers=6, num_remove=1, settings={"token": 1}))


def test_a_plan_file_is_taken_if_the_depth_agrees(tmp_path):
    path = tmp_path / "plan.json"
    CutPlan(num_layers=30, removed=(5, 2), criterion="reverse").save(path)
    assert LayerSpec.parse(str(path)).bind(num_layers=30).removed == (5, 2)
    with pytest.raises(InputError, match="30 .*but m has 28"):
        LayerSpec.parse(str(path)).bind(num_layers=28, model="m")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("revers:3", r"Did you mean reverse\?"),
        ("reverse", "write reverse:3"),
        ("the last three", "is not a plan; write"),
        ("40", "layer 40 is not in m, which has 30 decoder layers"),
        ("5-3", "write 3-5"),
        ("3,3", "named more than once"),
        ("0-29", "all 30 decoder layers would be removed"),
        ("3,,4", "is not a layer list"),
        ("missing.json", "no plan can be read here"),
        ("block_influence:2", "block_influence needs to run"),
        ("task_accuracy:2", "task_accuracy needs to run"),
        ([-1], "layer -1 is not in"),
        *((share, "write mlp:0.28 or mlp:28%") for share in ("mlp:0", "mlp:1", "mlp:many")),
        ("mlp:0.1 mlp:0.2", "once"),
        ("reverse:3 mlp:0.1", "once, beside layers"),
        *((spec, "is not a plan; write a layer list") for spec in ("6.attn", "3 6.mlp:0.5", "attn")),
    ],
)
def test_bad_specs_are_refused_in_one_clear_line(spec, message):
    with pytest.raises(InputError, match=message) as caught:
        LayerSpec.parse(spec).bind(num_layers=30, model="m")
    assert "\n" not in str(caught.value)


class Asked(Settings, arbitrary_types_allowed=True):
    remove: Units


@pytest.mark.parametrize(("given", "number"), [("3 layers", 3), ("1layer", 1), ("10%", 3), ("0.1", 3), (0.1, 3)])
def test_a_count_is_written_as_a_count(given, number):
    found = Asked(remove=given).remove
    assert found.is_open and found.count is not None and found.count.layers(30) == number
    with pytest.raises(InputError, match="not say which layers"):
        found.bind(num_layers=30)
    for layers in ("3", 3, "21-24", "reverse:3", [3, 4]):  # no count, and the refusal shows both readings
        with pytest.raises(InputError, match="'3 layers'"):
            Asked(remove=layers)
    assert Asked(remove="mlp:0.28").remove.mlp == 0.28


def test_layers_may_come_in_every_form():
    plan = CutPlan(num_layers=30, removed=(4, 2))
    for form in ("4,2", [4, 2], (4, 2), plan):
        assert LayerSpec.parse(form).bind(num_layers=30).removed == (4, 2)
    assert LayerSpec.parse("3").layers == LayerSpec.parse(3).layers == (3,)


@pytest.mark.parametrize(
    ("given", "layers", "count", "mlp"),
    [
        ("mlp:0.28", (), None, 0.28),
        ("mlp:28%", (), None, 0.28),
        ("6,9 mlp:0.1", (6, 9), None, 0.1),
        ("mlp:0.1 6-8", (6, 7, 8), None, 0.1),
        ("3 layers mlp:10%", None, "3", 0.1),
        ("25% mlp:0.1", None, "25%", 0.1),
    ],
)
def test_mlp_channels_stand_beside_layers(given, layers, count, mlp):
    spec = LayerSpec.parse(given)
    assert (spec.layers, spec.count and spec.count.text, spec.mlp) == (layers, count, pytest.approx(mlp))
    assert spec.is_open and str(spec) == given and LayerSpec.parse(str(spec)) == spec
    with pytest.raises(InputError, match=f"layercut select MODEL --remove '{given}'"):
        spec.bind(num_layers=30)


@pytest.mark.parametrize(
    ("text", "protected"),
    [("first:4,last:2", {0, 1, 2, 3, 28, 29}), ("first:4,last:2,0,7-9", {0, 1, 2, 3, 7, 8, 9, 28, 29}), ("0", {0}),
     (" 5 , last:1 ", {5, 29}), ("last:0", set()), ("none", set())],
)  # fmt: skip
def test_protected_layers_as_people_write_them(text, protected):
    assert parse_protected(text, 30) == protected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("first:31", "first:31 protects more layers than the model has"),
        ("7,30", "protected layer 30 is not in the model, whose decoder layers are 0-29"),
        ("28-30", "protected layer 30 is not in the model"),
        ("middle:2", "'middle:2' does not name the layers to protect"),
        ("first:two", "'first:two' does not name"),
        ("9-7", "runs backwards"),
        ("", "does not name the layers to protect"),
        ("first:2,", "does not name the layers to protect"),
    ],
)
def test_what_is_no_protection_is_refused_in_one_line(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_protected(text, 30)
    assert "\n" not in str(error.value)
