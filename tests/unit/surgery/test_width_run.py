"""An MLP of a few channels is run: what it shows of their order, and which MLPs it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.models.structure import plain_experts
from layercut.surgery.width import mlp_width_in
from layercut.surgery.width_run import in_order, with_width
from tests.support.tiny import tiny_model


def test_another_width_is_another_config() -> None:
    config = json.dumps(tiny_model("mixtral").config.to_dict())
    assert with_width(config, "intermediate_size", 20, "it").to_dict()["intermediate_size"] == 20
    with pytest.raises(InputError, match="transformers accepts no it of intermediate_size"):
        with_width(config, "intermediate_size", "wide", "it")  # type: ignore[arg-type]


def test_the_order_is_found_and_channels_that_depend_on_each_other_are_refused() -> None:
    model: Any = tiny_model("mixtral")
    config, mlp = json.dumps(model.config.to_dict()), mlp_width_in(model)
    asked = (config, type(model), mlp.field, "it")
    as_pairs = tuple(slot if slot.reads else slot._replace(order="pairs") for slot in mlp.slots[0])
    assert in_order(*asked, {0: as_pairs}) == {0: mlp.slots[0]}
    unread = tuple(slot._replace(reads=False) for slot in mlp.slots[0])
    with pytest.raises(InputError, match="depend on each other"):
        in_order(*asked, {0: unread})


def test_experts_run_one_by_one() -> None:
    model: Any = tiny_model("mixtral")
    was = model.config._experts_implementation
    assert plain_experts(model) == was and model.config._experts_implementation == "eager"
