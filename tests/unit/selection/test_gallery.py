"""The plans of the gallery are there, fit the models that they were measured on, and are applied by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.selection.gallery import _FOLDER, GALLERY, from_gallery
from layercut.selection.specs import LayerSpec

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("name", list(GALLERY))
def test_every_plan_is_there_with_the_model_that_it_is_for(name: str) -> None:
    plan = from_gallery(f"gallery:{name}")
    assert plan.model == f"bundled:{name.partition('/')[0]}" and plan.model_hash
    assert plan.removed or plan.channels
    assert (DOCS / "experiments" / GALLERY[name].page).is_file()
    for layer in plan.removed:
        assert str(layer) in GALLERY[name].removed
    if plan.channels:
        share = 100 * (1 - plan.channels.num_kept / plan.channels.width)
        assert f"{share:.1f} %" in GALLERY[name].removed or f"{share:.0f} %" in GALLERY[name].removed


def test_no_plan_lies_there_unnamed() -> None:
    assert {file.stem.replace("--", "/") for file in _FOLDER.glob("*.json")} == set(GALLERY)


def test_a_name_stands_where_a_layer_list_can_stand() -> None:
    spec = LayerSpec.parse("gallery:smollm2-135m/minus-3")
    plan = spec.bind(num_layers=30, model="bundled:smollm2-135m", model_hash=from_gallery(spec.text).model_hash)
    assert sorted(plan.removed) == [4, 9, 27]


def test_another_model_and_an_unknown_name_are_refused() -> None:
    spec = LayerSpec.parse("gallery:smollm2-135m/minus-3")
    with pytest.raises(InputError, match="gallery:smollm2-135m/minus-3 was made for a model of 30"):
        spec.bind(num_layers=28, model="other")
    with pytest.raises(InputError, match="gallery:smollm2-135m/minus-3 .*other"):
        spec.bind(num_layers=30, model="other", model_hash="0" * 16)
    with pytest.raises(InputError, match="unknown plan of the gallery .*qwen2.5-coder-1.5b/thin-28"):
        LayerSpec.parse("gallery:qwen2.5-coder-1.5b/thin-82")
