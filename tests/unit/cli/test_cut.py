"""``layercut cut`` from a GGUF file to a GGUF file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.models.gguf_file import read_gguf_head
from layercut.models.sources import describe_source, resolve_source
from layercut.surgery.plan import CutPlan
from tests.unit.cli.conftest import Run
from tests.unit.models.gguf_maker import write_gguf


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAYERCUT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_the_command(layercut: Run, file: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "cut.gguf"
    ran = layercut("cut", file, "--remove", "reverse:2", "--out", out, "--device", "cpu")
    assert ran.code == 0, ran.err
    assert "removes 2 of 6 decoder layers (33.3 %): 4, 5" in ran.err
    assert "by at most " in ran.out and f"checkpoint: {out}" in ran.out
    assert read_gguf_head(out).num_layers == 4
    again = layercut("cut", file, "--remove", "reverse:2", "--out", out)
    assert again.code == 1 and "choose another --out" in again.err
    dry = layercut("cut", file, "--remove", "1", "--out", tmp_path / "other.gguf", "--dry-run")
    assert dry.code == 0 and "nothing was written" in dry.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
    assert [path.name for path in out.parent.iterdir()] == ["cut.gguf"]


def test_plan_json_and_hashes(layercut: Run, file: Path, tmp_path: Path) -> None:
    digest = describe_source(resolve_source(str(file))).model_hash
    plan = CutPlan(num_layers=6, removed=(2,), criterion="block_influence", model=str(file), model_hash=digest)
    plan.save(tmp_path / "plan.json")
    ran = layercut("cut", file, "--remove", tmp_path / "plan.json", "--out", tmp_path / "a.gguf", "--device", "cpu")
    assert ran.code == 0, ran.err
    recorded = json.loads(read_gguf_head(tmp_path / "a.gguf").metadata["layercut.plan"])
    assert (recorded["criterion"], recorded["model_hash"]) == ("block_influence", digest)
    CutPlan(num_layers=6, removed=(2,), model="another", model_hash="0" * 16).save(tmp_path / "other.json")
    for verify in ("--verify", "--no-verify"):
        out = tmp_path / "b.gguf"
        ran = layercut("cut", file, "--remove", tmp_path / "other.json", "--out", out, verify, "--device", "cpu")
        assert ran.code == 1 and "made for another" in ran.err.replace(f"{tmp_path}/other.json", "the plan")


def test_a_folder_is_not_cut_to_a_gguf_file(layercut: Run, tiny: Path, tmp_path: Path) -> None:
    ran = layercut("cut", tiny, "--remove", "1", "--out", tmp_path / "x.gguf")
    assert ran.code == 1 and "convert_hf_to_gguf.py" in ran.err
    assert not any(tmp_path.iterdir())


def test_a_gguf_file_is_still_cut_to_a_folder(layercut: Run, file: Path, tmp_path: Path) -> None:
    ran = layercut("cut", file, "--remove", "1", "--out", tmp_path / "folder", "--device", "cpu")
    assert ran.code == 0, ran.err
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["num_hidden_layers"] == 5


def test_a_configuration_for_mergekit_is_no_dry_run_and_a_gguf_file_has_its_own_share(
    layercut: Run, file: Path, tmp_path: Path
) -> None:
    ran = layercut("cut", file, "--remove", "1", "--mergekit", tmp_path / "merge.yaml")
    assert ran.code == 0 and (tmp_path / "merge.yaml").is_file()
    assert "no checkpoint was written" in ran.out and "dry run" not in ran.out
    dry = layercut("cut", file, "--remove", "1", "--dry-run", "--json")
    whole, cut = json.loads(dry.out)["gguf_bytes"]
    layercut("cut", file, "--remove", "1", "--out", tmp_path / "cut.gguf", "--no-verify")
    assert whole == file.stat().st_size and abs(cut / (tmp_path / "cut.gguf").stat().st_size - 1) < 0.05
