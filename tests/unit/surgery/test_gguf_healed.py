"""The GGUF file of a checkpoint that was healed in closed form: its last matrices, and all else as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import layercut
from layercut.engine.handle import ModelHandle
from layercut.errors import InputError, VerificationError
from layercut.models.gguf_file import GgufTensor, read_gguf_head
from layercut.settings import ModelSettings
from layercut.surgery.gguf_width import with_matrix
from layercut.surgery.plan import CutPlan
from layercut.verbs.cut import CutVerb
from tests.support.tiny_gguf import TINY, build, write
from tests.unit.surgery.test_gguf import tensors
from tests.unit.surgery.test_gguf_width import channels_of

Kind = gguf.GGMLQuantizationType
pytestmark = pytest.mark.usefixtures("shared_cache")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    return write(build(TINY["llama"]), "llama", TINY["llama"], path, {"ffn_down.weight": Kind.Q8_0})


def healed_of(file: Path, folder: Path, plan: CutPlan, changed: str = "down_proj", **entry: Any) -> Path:
    """A checkpoint of a plan whose matrices of a name are others; of a layer, where one is named."""
    layercut.cut(str(file), plan, folder, device="cpu", verify=False)
    weights = load_file(folder / "model.safetensors")
    drawn = torch.Generator().manual_seed(5)
    for name in sorted(name for name in weights if changed in name):
        weights[name] += (0.2 * torch.randn(weights[name].shape, generator=drawn)).to(weights[name].dtype)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    written = json.loads((folder / "plan.json").read_text())
    written["healing"] = [{"method": "seam", **entry}]
    (folder / "plan.json").write_text(json.dumps(written))
    return folder


@pytest.mark.parametrize(
    ("plan", "changed", "count"),
    [
        (CutPlan(num_layers=4, removed=(1,), channels=channels_of(4)), "down_proj", 3),
        (CutPlan(num_layers=4, removed=(1,)), "layers.0.mlp.down_proj", 1),
    ],
    ids=["thinner MLPs", "a map at the cut"],
)
def test_it_has_the_matrices_that_healing_solved_for(
    file: Path, tmp_path: Path, plan: CutPlan, changed: str, count: int
) -> None:
    folder = healed_of(file, tmp_path / "healed", plan, changed)
    layercut.cut(str(file), plan, tmp_path / "cut.gguf", device="cpu")
    out = layercut.cut(str(file), healed=folder, out=tmp_path / "healed.gguf", device="cpu")
    cut, found, weights = tensors(tmp_path / "cut.gguf"), tensors(out), load_file(folder / "model.safetensors")
    others = {name for name in found if found[name] != cut[name]}
    assert len(others) == count and all(name.endswith("ffn_down.weight") for name in others)
    for name in others:
        kind, shape, data = found[name]
        wanted = weights[f"model.layers.{name.split('.')[1]}.mlp.down_proj.weight"].float().numpy()
        assert kind == Kind.Q8_0 and shape == wanted.shape[::-1]
        rows = np.frombuffer(data, dtype=np.uint8).reshape(len(wanted), -1)
        assert np.abs(gguf.quants.dequantize(rows, kind) - wanted).max() <= np.abs(wanted).max() / 127
    handle = ModelHandle(ModelSettings(model=str(out), device="cpu"))
    assert [entry["method"] for entry in handle.healings] == ["seam"]
    assert handle.earlier_plans[0].key == plan.key
    assert read_gguf_head(out).num_layers == 3


@pytest.mark.parametrize(
    ("before", "width", "after"),
    [(Kind.Q4_1, 64, Kind.Q8_0), (Kind.Q6_K, 64, Kind.Q8_0), (Kind.F32, 64, Kind.F32), (Kind.Q4_0, 80, Kind.F16)],
)
def test_solved_matrices_have_eight_bits_or_more(before: Kind, width: int, after: Kind) -> None:
    block, block_bytes = gguf.GGML_QUANT_SIZES[before]
    tensor = GgufTensor("blk.0.ffn_down.weight", (256, 8), int(before), 0, 8 * 256 // block * block_bytes)
    thin = with_matrix(tensor, Path("model.safetensors"), "down", width)
    assert (thin.kind, thin.shape) == (after, (width, 8))
    block, block_bytes = gguf.GGML_QUANT_SIZES[after]
    assert thin.num_bytes == 8 * width // block * block_bytes


def test_from_a_pruned_file_over_its_healing_to_a_file(file: Path, tmp_path: Path) -> None:
    """A pruned GGUF file knows its plan, so that `heal` takes it."""
    plan = CutPlan(num_layers=4, channels=channels_of(4))
    thin = layercut.cut(str(file), plan, tmp_path / "thin.gguf", device="cpu")
    folder = layercut.heal(
        str(thin), str(file), "task:arithmetic", limit=30, responses="original", method="seam", seam="projection",
        dtype="float32", device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    out = layercut.cut(str(file), healed=folder, out=tmp_path / "healed.gguf", device="cpu")
    found, before = tensors(out), tensors(thin)
    others = {name for name in found if found[name] != before[name]}
    assert others == {f"blk.{layer}.ffn_down.weight" for layer in range(4)}


def test_what_is_no_such_checkpoint_is_refused(file: Path, tmp_path: Path) -> None:
    plan = CutPlan(num_layers=4, removed=(1,), channels=channels_of(4))
    out = tmp_path / "x.gguf"
    trained = healed_of(file, tmp_path / "trained", plan, method="lora")
    with pytest.raises(InputError, match="was healed by lora, and `healed` takes what `heal` `method` seam solved for"):
        layercut.cut(str(file), healed=trained, out=out, device="cpu")
    scaled = healed_of(file, tmp_path / "scaled", plan, method="seam", seam_map="scale")
    with pytest.raises(InputError, match="was healed by `seam` scale, which changes norms"):
        layercut.cut(str(file), healed=scaled, out=out, device="cpu")
    more = healed_of(file, tmp_path / "more", plan, "_proj")
    with pytest.raises(VerificationError, match=r"after reloading, .*_proj\.weight differs"):
        layercut.cut(str(file), healed=more, out=out, device="cpu")
    whole = write(build(TINY["qwen2"]), "qwen2", TINY["qwen2"], tmp_path / "other.gguf")
    with pytest.raises(VerificationError, match="is not the model that was asked for"):
        layercut.cut(str(whole), healed=more, out=out, device="cpu")
    with pytest.raises(InputError, match="names its plan itself"):
        CutVerb.of(model=str(file), healed=more, remove="1", out=out)
    with pytest.raises(InputError, match=r"give `out` FILE\.gguf"):
        layercut.cut(str(file), healed=more, out=tmp_path / "folder", device="cpu")
    assert not out.exists() and not (tmp_path / "folder").exists()
