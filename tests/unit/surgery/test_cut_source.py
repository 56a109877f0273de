"""Cutting a hub model without a comparison: only weight files that hold something that stays are fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from layercut.errors import InputError
from layercut.models.sources import is_hub_id, resolve
from layercut.models.weights import SINGLE_FILE, fingerprint, safetensors_files
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings
from layercut.surgery.cut import cut_model, cut_source
from layercut.surgery.plan import CutPlan
from tests.support.tiny import save_tiny
from tests.unit.models.hub_server import COMMIT, FakeHub


@pytest.fixture
def model(hub: FakeHub, tmp_path: Path) -> Path:
    """About one layer a file."""
    folder = save_tiny("llama", tmp_path / "repo", max_shard_size="33KB")
    hub.repos["lab/tiny"] = folder
    return folder


def cut(name: str, out: Path | None, remove: str, *, whole: bool = False) -> tuple[list[str], object]:
    said: list[str] = []
    settings = ModelSettings(model=name, device="cpu")
    with cut_source(settings, LayerSpec.parse(remove).bind, whole=whole, dry_run=out is None, say=said.append) as found:
        return said, cut_model(found.source, found.plan, out, uncut=found.uncut if whole else None)


def same_files(one: Path, other: Path) -> bool:
    names = {path.name for path in one.iterdir()}
    return names == {path.name for path in other.iterdir()} and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in names if name.startswith("model")
    )


def test_a_dry_run_downloads_no_weights_and_says_the_same(hub: FakeHub, model: Path) -> None:
    _, remote = cut("lab/tiny", None, "2-4")
    assert not {name for name in hub.fetched() if name.endswith(".safetensors")}
    assert set(hub.partly) == {path.name for path in model.glob("*.safetensors")}
    _, local = cut(str(model), None, "2-4")
    assert remote.lines() == local.lines()  # type: ignore[attr-defined]


def test_only_files_with_something_that_stays_are_fetched(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    files = safetensors_files(model)
    gone = {file.name for file in files.values()} - {
        file.name for name, file in files.items() if not name.startswith(("model.layers.2.", "model.layers.3."))
    }
    assert gone  # else this test says nothing
    said, _ = cut("lab/tiny", tmp_path / "remote", "2-3")
    fetched = {name for name in hub.fetched() if name.endswith(".safetensors")}
    assert fetched == {file.name for file in files.values()} - gone
    assert f"{len(fetched)} of {len(fetched | gone)} weight files" in said[0]
    cut(str(model), tmp_path / "local", "2-3")
    assert same_files(tmp_path / "remote", tmp_path / "local")
    plan = json.loads((tmp_path / "remote" / "plan.json").read_text())
    assert (plan["model"], plan["model_hash"]) == ("lab/tiny", None)
    assert "lab/tiny" in (tmp_path / "remote" / "README.md").read_text()


def test_what_was_left_out_is_fetched_when_the_model_is_wanted_whole(
    hub: FakeHub,
    model: Path,
    tmp_path: Path,
) -> None:
    cut("lab/tiny", tmp_path / "cut", "2-3")
    _, done = cut("lab/tiny", tmp_path / "verified", "2-3", whole=True)
    assert "differ" in done.verified  # type: ignore[attr-defined]
    assert fingerprint(resolve("lab/tiny").path) == fingerprint(model)


def test_a_model_in_one_file(hub: FakeHub, tmp_path: Path) -> None:
    hub.repos["lab/one"] = folder = save_tiny("gpt2", tmp_path / "one")
    said, _ = cut("lab/one", tmp_path / "remote", "1")
    assert "1 of 1 weight files" in said[0]
    assert SINGLE_FILE in hub.fetched()
    cut(str(folder), tmp_path / "local", "1")
    assert same_files(tmp_path / "remote", tmp_path / "local")


def test_a_plan_of_another_model_is_not_taken_unseen(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    """Not all weights are fetched, so the hash is not known, and the name must do."""
    file = tmp_path / "plan.json"
    CutPlan(num_layers=6, removed=(2,), model="lab/other", model_hash="ab" * 8).save(file)
    with pytest.raises(InputError, match=r"lab/other \((ab){8}\)"):
        cut("lab/tiny", None, str(file))
    settings = ModelSettings(model="lab/tiny", plan_from_another_model=True)
    with cut_source(settings, LayerSpec.parse(str(file)).bind, whole=False, dry_run=True, say=print) as found:
        assert found.plan.chosen_on == {"model": "lab/other", "model_hash": "ab" * 8}
        assert (found.plan.model, found.plan.model_hash) == ("lab/tiny", None)
    CutPlan(num_layers=6, removed=(2,), model="lab/tiny", model_hash="ab" * 8).save(file)
    said, _ = cut("lab/tiny", tmp_path / "cut", str(file))
    assert "compared with the plan's" in said[0]
    written = CutPlan.load(tmp_path / "cut" / "plan.json")
    assert (written.model_hash, written.chosen_on) == (None, {})


def test_without_a_network_what_is_in_the_cache_is_cut(
    hub: FakeHub,
    online: Callable[[str], None],
    model: Path,
    tmp_path: Path,
) -> None:
    assert resolve("lab/tiny").revision == COMMIT
    online("http://127.0.0.1:9")
    cut("lab/tiny", tmp_path / "remote", "2-3")
    cut(str(model), tmp_path / "local", "2-3")
    assert same_files(tmp_path / "remote", tmp_path / "local")


def test_refusals_are_those_of_any_hub_model(hub: FakeHub, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lab/none is neither"):
        cut("lab/none", None, "2")
    with pytest.raises(InputError, match="layer 9 .*6 decoder layers"):
        cut("lab/tiny", None, "9")
    assert not is_hub_id(str(model))
    assert not is_hub_id("bundled:smollm2-135m")
    assert not is_hub_id("gone/model.gguf")
