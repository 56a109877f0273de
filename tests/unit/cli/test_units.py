"""Shares as people type them (90%, 0.25): of the depth in select and cut, of the score in --keep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from layercut.base_settings import field_limits
from layercut.cli.main import verb_commands
from layercut.errors import InputError
from layercut.healing.settings import FilterSettings, TrainSettings
from layercut.pruning.settings import PruneSettings
from layercut.selection.base import SearchSettings
from layercut.selection.specs import LayerSpec
from layercut.settings import DecodingSettings, Depth
from layercut.surgery.plan import as_cut_plan
from tests.unit.cli.conftest import Run

CLASSES: tuple[Any, ...] = (PruneSettings, FilterSettings, TrainSettings, SearchSettings, DecodingSettings)


def is_share(field: FieldInfo) -> bool:
    return "float" in str(field.annotation) and 1 in (field_limits(field).get(end) for end in ("le", "lt"))


SHARES = [(kind, name) for kind in CLASSES for name, field in kind.model_fields.items() if is_share(field)]


@pytest.mark.parametrize(("kind", "name"), SHARES)
def test_every_share_may_be_written_in_percent(kind: Any, name: str) -> None:
    more = {"use": "math"} if kind is PruneSettings else {}
    for text, share in {"12.5%": 0.125, "0.9": 0.9, "90 %": 0.9}.items():
        assert getattr(kind(**{name: text}, **more), name) == share
    for wrong in (90, "most"):
        with pytest.raises(InputError, match=f"^{name} {wrong!r} is no share; .*90% or 0.9"):
            kind(**{name: wrong}, **more)
    if field_limits(kind.model_fields[name]).get("le") == 1:
        assert type(getattr(kind(**{name: 1}, **more), name)) is int  # settings' hashes of earlier runs


def test_every_flag_with_a_fraction_is_a_share_or_named_here() -> None:
    """Percent is refused only where a number is no share."""
    floats = {
        (verb, option.name)
        for verb, command in verb_commands().items()
        for option in command.params
        if "float" in str(option.type_descriptor.annotation) and option.metavar != "SHARE"
    }
    training = {"learning_rate", "weight_decay", "max_grad_norm", "epochs"}
    numbers = {"cache_gib", "temperature", "faster"}
    assert {name for _, name in floats} == {*numbers, *training}


@pytest.mark.parametrize("text", ["25%", "0.25", "0.250", " 25 %"])
def test_a_depth_is_a_number_or_a_share(text: str) -> None:
    assert Depth(text=text).is_share and Depth(text=text).layers(32) == 8
    assert LayerSpec.parse(f"reverse:{text.replace(' ', '')}").bind(num_layers=32).removed == tuple(range(31, 23, -1))


@pytest.mark.parametrize("text", ["1.5", "0", "0.0", "1.0", "100%", "-3", "three"])
def test_no_depth(text: str) -> None:
    with pytest.raises(InputError, match="3, or a share: 25%"):
        Depth(text=text)


def test_shares_of_the_depth_and_lists_of_layers() -> None:
    assert LayerSpec.parse("reverse:25%").bind(num_layers=30).removed == tuple(range(29, 21, -1))
    assert len(LayerSpec.parse("random:10%").bind(num_layers=30, seed=1).removed) == 3
    with pytest.raises(InputError, match="not say which layers"):
        LayerSpec.parse("25%").bind(num_layers=30)
    assert as_cut_plan("3,1-2", 6).removed == (3, 1, 2) == as_cut_plan([3, 1, 2], 6).removed
    with pytest.raises(InputError, match="is no plan"):
        as_cut_plan(["3"], 6)  # type: ignore[list-item]


def test_a_share_of_a_model_is_cut(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    done = layercut("cut", tiny, "--remove", "34%", "--out", tmp_path / "cut", "--device", "cpu")
    assert done.code == 0, done.err
    plan = json.loads((tmp_path / "cut" / "plan.json").read_text())
    assert plan["criterion"] == "block_influence" and len(plan["removed"]) == 2
    assert "34% is 2 of 6" in done.err
