"""What transformers reads from a pruned GGUF file: families, and layers of other kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layercut.errors import VerificationError
from layercut.models.gguf_weights import ALIKE
from layercut.models.sources import resolve_source
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings
from layercut.surgery import gguf_metadata
from layercut.surgery.gguf import cut_gguf_file
from layercut.surgery.plan import CutPlan
from layercut.surgery.verify_gguf import compare_header
from tests.support.tiny_gguf import TINY
from tests.unit.models.test_gguf_weights import write_family

pytestmark = pytest.mark.usefixtures("shared_cache")


def cut(file: Path, plan: str, out: Path, **more: Any) -> Any:
    settings = ModelSettings(model=str(file), device="cpu")
    return cut_gguf_file(settings, LayerSpec.parse(plan).bind, file, out, **{"verify": True, **more})


@pytest.mark.parametrize("name", sorted(ALIKE))
def test_plans_that_are_accepted_pass(name: str, tmp_path: Path) -> None:
    file = write_family(name, tmp_path / "whole.gguf")
    for number, plan in enumerate(TINY[name].fine):
        done = cut(file, plan, tmp_path / f"{number}.gguf")
        assert f"the config of the original with {len(done.plan.kept)} layers" in done.verified


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_layers_that_become_others_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that follows from the position, should the rule for the metadata miss it."""
    file = write_family(name, tmp_path / "whole.gguf")
    monkeypatch.setattr(gguf_metadata, "_check_periods", lambda *_: None)
    with pytest.raises(VerificationError, match=r"transformers reads layer_types = \["):
        cut(file, TINY[name].wrong, tmp_path / "cut.gguf")
    assert not (tmp_path / "cut.gguf").exists()


def test_the_file_of_another_plan_is_refused(tmp_path: Path) -> None:
    file = write_family("qwen2", tmp_path / "whole.gguf")
    cut(file, "1", tmp_path / "cut.gguf", verify=False)
    header = resolve_source(str(file), weights=False).path
    with pytest.raises(VerificationError, match="reads layer_types = "):
        compare_header(tmp_path / "cut.gguf", header, CutPlan(num_layers=4, removed=(0, 1)))
