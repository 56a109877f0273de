from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.selection.vocabulary import choose_vocabulary
from layercut.surgery.channels import Channels, num_kept
from layercut.surgery.plan import CutPlan, lost_since, mlp_share
from tests.support.vocabularies import write_model

KEPT = {0: (0, 3, 6), 1: (1, 2, 5)}
CHANNELS = Channels(field="intermediate_size", width=7, kept=KEPT)
PLAN = CutPlan(num_layers=2, channels=CHANNELS, model="m", model_hash="12ab")


def test_a_plan_names_them_and_is_read_again(tmp_path: Path) -> None:
    data = CHANNELS.to_dict()
    assert data["kept"] == {"0": "92", "1": "64"} and data["num_kept"] == 3  # 1001001. and 0110010.
    PLAN.save(tmp_path / "plan.json")
    again = CutPlan.load(tmp_path / "plan.json")
    assert again == PLAN and again.key == PLAN.key and not again.is_uncut
    assert again.label == "mlp:0.571" and again.gone == {"removed": [], "channels": CHANNELS.key}
    assert PLAN.describe() == "removes 4 of 7 MLP channels of each layer (57.1 %)"
    other = CutPlan(num_layers=2, channels=Channels(field="intermediate_size", width=7, kept={**KEPT, 1: (1, 2, 6)}))
    assert (
        len({PLAN.key, other.key, PLAN.depth_only.key, CutPlan(num_layers=2, removed=(1,), channels=CHANNELS).key}) == 4
    )
    with pytest.raises(InputError, match="layer 1, whose MLP channels are named, is not in the model"):
        CutPlan(num_layers=1, channels=CHANNELS)


def test_a_plan_without_channels_is_written_as_before() -> None:
    plan = CutPlan(num_layers=3, removed=(1,))
    assert "channels" not in plan.to_dict() and plan.gone == {"removed": [1]} and plan.depth_only is plan
    assert CutPlan.from_dict(plan.to_dict()) == plan


def test_channels_of_experts_are_numbered_through(tmp_path: Path) -> None:
    thin = Channels(field="moe_intermediate_size", width=7, kept={0: (0, 3, 6, 8, 9, 12), 1: (1, 2, 5)})
    assert thin.mlps == {0: 2, 1: 1} and thin.num_kept == 3
    assert thin.describe() == "4 of 7 MLP channels of each expert (57.1 %)"
    CutPlan(num_layers=2, channels=thin).save(tmp_path / "plan.json")
    assert CutPlan.load(tmp_path / "plan.json").channels == thin


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
def test_channels_that_no_model_has_are_refused(kept: dict[int, tuple[int, ...]], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Channels(field="intermediate_size", width=7, kept=kept)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        {"field": "intermediate_size", "width": 7, "kept": {"0": "9"}},
        {"field": "intermediate_size", "width": 7, "kept": {"0": "zz"}},
        {"field": "intermediate_size", "width": 10**9, "kept": {"0": "92"}},
        {"field": 3, "width": 7, "kept": {"0": "92"}},
    ],
)
def test_damaged_channels_are_named_with_their_file(data: Any) -> None:
    with pytest.raises(InputError, match=r"^my/plan\.json: channels"):
        Channels.from_dict(data, "my/plan.json")
    if data:
        with pytest.raises(InputError, match="channels"):
            CutPlan.from_dict({**PLAN.to_dict(), "channels": data}, "my/plan.json")


@pytest.mark.parametrize(
    ("width", "share", "kept"),
    [(8960, 0.28, 6400), (8960, 0.001, None), (8960 + 64, 0.28, 6528), (1536, 0.2, 1216), (48, 0.5, 24), (7, 0.5, 4)],
)
def test_widths_are_multiples_of_the_block(width: int, share: float, kept: int | None) -> None:
    if kept is None:
        with pytest.raises(InputError, match="in steps of 256; choose 0.029 to 0.97"):
            num_kept(width, share)
        return
    assert num_kept(width, share) == kept


def test_shares_of_several_cuts_multiply() -> None:
    before = {"model_hash": "12ab", "num_layers": 2, "removed": [], "mlp": 0.5}
    found = lost_since({"num_layers": 2, "removed": [], "channels": CHANNELS.to_dict(), "earlier": [before]}, "12ab")
    assert found is not None and found.mlp == pytest.approx(1 - 0.5 * 3 / 7)
    assert mlp_share({"num_layers": 2, "removed": [1]}) == 0


def test_a_vocabulary_is_read_as_it_was_written(tmp_path: Path) -> None:
    bytes_model = write_model("bytes", tmp_path / "bytes")
    plan = CutPlan(num_layers=4, removed=(2,), vocabulary=choose_vocabulary(bytes_model, "ascii"))
    assert CutPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert plan.key != CutPlan(num_layers=4, removed=(2,)).key and not plan.is_uncut
    for damage in ({"kept": "zz"}, {"size": 5}, {"kept": None}):
        data = plan.to_dict()
        data["vocabulary"] |= damage
        with pytest.raises(InputError, match="vocabulary is not what layercut writes"):
            CutPlan.from_dict(data)
