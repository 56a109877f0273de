"""Plans: what they remove, what they are called, and that a file of one is read whole or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.selection.vocabulary import choose_vocabulary
from layercut.surgery.channels import Channels, num_kept
from layercut.surgery.plan import CutPlan, Loss, lost_since, mlp_share, parse_layers
from layercut.tasks.selected_items import held_out_items, record_items, selection_items
from layercut.text import format_layers
from tests.support.odd import VALUES, check_line, fields_of, mutated
from tests.support.vocabularies import write_model

KEPT = {0: (0, 3, 6), 1: (1, 2, 5)}
CHANNELS = Channels(field="intermediate_size", width=7, kept=KEPT)
THIN = CutPlan(num_layers=2, channels=CHANNELS, model="m", model_hash="12ab")


def read_again(plan: CutPlan, folder: Path) -> CutPlan:
    plan.save(folder / "plan.json")
    return CutPlan.load(folder / "plan.json")


def test_key_depends_on_the_set_not_on_the_order():
    assert CutPlan(num_layers=6, removed=(4, 1)).key == CutPlan(num_layers=6, removed=(1, 4)).key
    assert CutPlan(num_layers=6, removed=(4, 1)).key != CutPlan(num_layers=7, removed=(1, 4)).key
    assert CutPlan(num_layers=6).key == "uncut" and CutPlan(num_layers=6).kept == (0, 1, 2, 3, 4, 5)
    plan = CutPlan(num_layers=30, removed=parse_layers("21-24,3"))
    assert plan.describe() == "removes 5 of 30 decoder layers (16.7 %): 3, 21, 22, 23, 24" and not plan.is_uncut


def test_a_plan_comes_back_from_disk_as_it_was(tmp_path):
    about: dict[str, Any] = {"criterion": "reverse", "model": "m", "settings": {"seed": 1}, "scores": {"4": 0.5}}
    plan = CutPlan(num_layers=6, removed=(4, 1), **about)
    assert read_again(plan, tmp_path) == plan
    data = json.loads((tmp_path / "plan.json").read_text())
    assert data["kept"] == [0, 2, 3, 5] and "channels" not in data
    assert plan.gone == {"removed": [4, 1]} and plan.depth_only is plan


def test_a_plan_names_its_channels_and_is_read_again(tmp_path):
    data = CHANNELS.to_dict()
    assert data["kept"] == {"0": "92", "1": "64"} and data["num_kept"] == 3  # 1001001. and 0110010.
    again = read_again(THIN, tmp_path)
    assert again == THIN and again.key == THIN.key and not again.is_uncut
    assert again.label == "mlp:0.571" and again.gone == {"removed": [], "channels": CHANNELS.key}
    assert THIN.describe() == "removes 4 of 7 MLP channels of each layer (57.1 %)"
    other = CutPlan(num_layers=2, channels=Channels(field="intermediate_size", width=7, kept={**KEPT, 1: (1, 2, 6)}))
    both = CutPlan(num_layers=2, removed=(1,), channels=CHANNELS)
    assert len({THIN.key, other.key, THIN.depth_only.key, both.key}) == 4
    with pytest.raises(InputError, match="layer 1, whose MLP channels are named, is not in the model"):
        CutPlan(num_layers=1, channels=CHANNELS)


def test_channels_of_experts_are_numbered_through(tmp_path):
    thin = Channels(field="moe_intermediate_size", width=7, kept={0: (0, 3, 6, 8, 9, 12), 1: (1, 2, 5)})
    assert thin.mlps == {0: 2, 1: 1} and thin.num_kept == 3
    assert thin.describe() == "4 of 7 MLP channels of each expert (57.1 %)"
    assert read_again(CutPlan(num_layers=2, channels=thin), tmp_path).channels == thin


def test_a_vocabulary_is_read_as_it_was_written(tmp_path):
    vocabulary = choose_vocabulary(write_model("bytes", tmp_path / "bytes"), "ascii")
    plan = CutPlan(num_layers=4, removed=(2,), vocabulary=vocabulary)
    assert CutPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.key != CutPlan(num_layers=4, removed=(2,)).key and not plan.is_uncut
    for damage in ({"kept": "zz"}, {"size": 5}, {"kept": None}):
        data = plan.to_dict()
        data["vocabulary"] |= damage
        with pytest.raises(InputError, match="vocabulary is not what layercut writes"):
            CutPlan.from_dict(data)


@pytest.mark.parametrize("layers", [(0,), (1, 2), (3, 8, 21, 22, 23, 24), (0, 1, 2, 4, 6, 7, 8)])
def test_format_is_the_inverse_of_parse(layers):
    assert parse_layers(format_layers(layers)) == layers


@pytest.mark.parametrize("text", ["0-999999999999", "99999", "1" * 5000, "0-" + "9" * 5000])
def test_a_layer_list_beyond_any_model_is_refused_at_once(text):
    with pytest.raises(InputError, match="layer") as caught:
        parse_layers(text)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("width", "share", "kept"),
    [(8960, 0.28, 6400), (8960, 0.001, None), (8960 + 64, 0.28, 6528), (1536, 0.2, 1216), (48, 0.5, 24), (7, 0.5, 4)],
)
def test_widths_are_multiples_of_the_block(width, share, kept):
    if kept is None:
        with pytest.raises(InputError, match="in steps of 256; choose 0.029 to 0.97"):
            num_kept(width, share)
    else:
        assert num_kept(width, share) == kept


def test_layers_and_channels_of_several_cuts_are_counted_in_the_first_model():
    first = {"model_hash": "a", "num_layers": 6, "removed": [4, 2], "healed": ["seam"]}
    second = {"model_hash": "b", "num_layers": 4, "removed": [0], "healed": ["lora"]}
    plan = {"model_hash": "c", "num_layers": 3, "removed": [2], "earlier": [first, second]}
    assert lost_since(plan, "a") == (6, (4, 2, 0, 5), ("seam", "lora"), 0.0)
    assert lost_since(plan, "b") == (4, (0, 3), ("lora",), 0.0)
    assert lost_since(plan, "c") is None, "its own model lost nothing before"
    assert lost_since(plan, None) is None and lost_since(plan | {"num_layers": 5}, "a") is None
    before = {"model_hash": "12ab", "num_layers": 2, "removed": [], "mlp": 0.5}
    lost = lost_since({"num_layers": 2, "removed": [], "channels": CHANNELS.to_dict(), "earlier": [before]}, "12ab")
    assert lost is not None and lost.mlp == pytest.approx(1 - 0.5 * 3 / 7), "shares multiply"
    assert mlp_share({"num_layers": 2, "removed": [1]}) == 0


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({0: (0, 1), 1: (0, 1, 2)}, "as many in every MLP"),
        ({0: tuple(range(7))}, "as many in every MLP"),
        ({0: (0, 1, 7)}, "as many in every MLP"),  # two of the first expert, one of the second
        ({0: (7, 8)}, "as many in every MLP"),  # none of the first
        ({0: (0, 0)}, "layer 0 has no such MLP channels"),
        ({0: (-1, 0)}, "layer 0 has no such MLP channels"),
        ({0: ()}, "layer 0 has no such MLP channels"),
        ({}, "as many in every MLP"),
    ],
)
def test_channels_that_no_model_has_are_refused(kept, told):
    with pytest.raises(InputError, match=told):
        Channels(field="intermediate_size", width=7, kept=kept)


FIELD = {"field": "intermediate_size", "width": 7}


@pytest.mark.parametrize(
    "data",
    [
        *({}, [], FIELD | {"kept": {"0": "9"}}, FIELD | {"kept": {"0": "zz"}}),
        *(FIELD | {"width": 10**9, "kept": {"0": "92"}}, FIELD | {"field": 3, "kept": {"0": "92"}}),
    ],
)
def test_damaged_channels_are_named_with_their_file(data):
    with pytest.raises(InputError, match=r"^my/plan\.json: channels"):
        Channels.from_dict(data, "my/plan.json")
    if data:
        with pytest.raises(InputError, match="channels"):
            CutPlan.from_dict({**THIN.to_dict(), "channels": data}, "my/plan.json")


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
def test_a_field_of_another_kind_is_refused(tmp_path, field, value):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({**CutPlan(num_layers=6, removed=(1,)).to_dict(), field: value}))
    with pytest.raises(InputError, match=r"plan\.json(: not a plan| is damaged|.*version)|no layer|not in") as caught:
        CutPlan.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, b"\xff\xfe", b"{"])
def test_a_plan_that_no_reader_takes_is_refused(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(InputError, match=r"plan\.json is damaged: it is not JSON") as caught:
        CutPlan.load(tmp_path / "plan.json")
    assert "\n" not in str(caught.value)


WHOLE = {
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


@pytest.mark.parametrize("path", fields_of(WHOLE), ids=lambda path: ".".join(map(str, path)))
def test_a_changed_field_of_a_plan_is_read_or_named(tmp_path, path):
    file = tmp_path / "plan.json"
    for value in VALUES.values():
        file.write_text(json.dumps(mutated(WHOLE, path, value)))
        try:
            plan = CutPlan.load(file)
        except InputError as error:
            check_line(error, "plan.json")
            continue
        assert read_again(plan, tmp_path).to_dict() == plan.to_dict() and plan.describe() and plan.key
        assert isinstance(lost_since(plan.to_dict(), "34cd"), Loss | None)
        for read in (selection_items, held_out_items):
            try:
                assert read(plan.scores) is not None
            except InputError as error:
                check_line(error, "")
