"""The tokens that stay, as a part of a plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.selection.vocabulary import choose_vocabulary
from layercut.surgery.plan import CutPlan
from tests.support.vocabularies import write_model


@pytest.fixture(scope="module")
def bytes_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model("bytes", tmp_path_factory.mktemp("vocabularies") / "bytes")


def test_a_plan_is_read_as_it_was_written(bytes_model: Path, tmp_path: Path) -> None:
    plan = CutPlan(num_layers=4, removed=(2,), vocabulary=choose_vocabulary(bytes_model, "ascii"))
    plan.save(tmp_path / "plan.json")
    assert CutPlan.load(tmp_path / "plan.json") == plan
    assert plan.key != CutPlan(num_layers=4, removed=(2,)).key and not plan.is_uncut
    for damage in ({"kept": "zz"}, {"size": 5}, {"kept": None}):
        data = plan.to_dict()
        data["vocabulary"] |= damage
        with pytest.raises(InputError, match="vocabulary is not what layercut writes"):
            CutPlan.from_dict(data)
