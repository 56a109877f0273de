"""Shares as people type them (90%, 0.25), and a verb with a letter too few."""

from __future__ import annotations

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


def test_a_share_on_the_command_line(layercut: Run, tiny: Path) -> None:
    words = ("prune", tiny, "--tasks", "arithmetic", "--dry-run", "--items", 8, "--json")
    per_cent = layercut(*words, "--keep", "80%")
    assert per_cent.code == 0, per_cent.err
    refused = layercut(*words, "--keep", 90)
    assert refused.code == 1 and "--keep 90 is no share" in refused.err


def test_every_flag_with_a_fraction_is_a_share_or_named_here() -> None:
    """Percent is refused only where a number is no share."""
    floats = {
        (verb, option.name)
        for verb, command in verb_commands().items()
        for option in command.params
        if "float" in str(option.type_descriptor.annotation) and option.metavar != "SHARE"
    }
    training = {"learning_rate", "weight_decay", "max_grad_norm", "epochs"}
    numbers = {"cache_gib", "temperature", "max_shard_gb", "correlation", "faster"}
    assert {name for _, name in floats} == {*numbers, *training}


def test_plan_size_in_per_cent(layercut: Run) -> None:
    share = layercut("plan-size", "--baseline", 0.6, "--retention", 0.9, "--power", 0.9)
    assert share.code == 0
    assert layercut("plan-size", "--baseline", "60%", "--retention", "90%", "--power", "90 %").out == share.out


@pytest.mark.parametrize("text", ["25%", "0.25", "0.250", " 25 %"])
def test_a_depth_is_a_number_or_a_share(text: str) -> None:
    assert Depth(text=text).is_share and Depth(text=text).layers(32) == 8
    assert PruneSettings(use="math", max_depth=text).depth(32) == 8
    assert LayerSpec.parse(f"reverse:{text.replace(' ', '')}").bind(num_layers=32).removed == tuple(range(31, 23, -1))


@pytest.mark.parametrize("text", ["1.5", "0", "0.0", "1.0", "100%", "-3", "three"])
def test_no_depth(text: str) -> None:
    with pytest.raises(InputError, match="3, or a share: 25%"):
        Depth(text=text)
