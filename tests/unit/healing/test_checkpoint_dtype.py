"""What is said of a healed model is measured on the folder that is written, read back with plain transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.errors import VerificationError
from layercut.healing import checkpoint
from layercut.healing.checkpoint import SHARE, judged_by, mean_loss, stochastic_bfloat16, stored_dtype, write_healed
from layercut.healing.trainable import probe
from layercut.models.sources import resolve
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from tests.support.healing import HEALING, tiny_data
from tests.support.tiny import save_tiny

DATA = tiny_data(24)


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    save_tiny("llama", tmp_path / "cut")
    AutoModelForCausalLM.from_pretrained(tmp_path / "cut").bfloat16().save_pretrained(tmp_path / "cut")
    return tmp_path / "cut"


def in_float32(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def trained(cut: Path, size: float, steps: int) -> Any:
    """Steps of one size for every weight, as AdamW takes them; without layercut."""
    model = in_float32(cut)
    ids = [torch.tensor([one.input_ids]) for one in DATA.train]
    for _ in range(steps):
        model.zero_grad()
        sum(model(input_ids=one, labels=one).loss for one in ids).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= size * parameter.grad.sign()
    return model


def write(model: Any, cut: Path, out: Path, **more: Any) -> dict[str, Any]:
    judge = judged_by(in_float32(cut), DATA)
    return write_healed(
        model,
        resolve(str(cut)),
        out=out,
        entry=HEALING | {"method": "full"},
        **({"judge": judge} | more),
    )


@pytest.mark.parametrize(("size", "steps"), [(1e-5, 2), (1e-4, 5), (1e-2, 5)])
def test_rounding_takes_little_of_what_was_learnt(size: float, steps: int, cut: Path, tmp_path: Path) -> None:
    model = trained(cut, size, steps)
    before, after = mean_loss(in_float32(cut), DATA.held_out), mean_loss(model, DATA.held_out)
    logits = model(input_ids=probe(model)).logits.detach()
    entry = write(model, cut, tmp_path / "healed")
    written = in_float32(tmp_path / "healed")
    loss = mean_loss(written, DATA.held_out)
    assert after < before and loss - after <= SHARE * (before - after)
    metadata = json.loads((tmp_path / "healed" / "plan.json").read_text())["healing"][0]["written"]
    assert metadata == entry["written"] and metadata["dtype"] == stored_dtype(tmp_path / "healed")
    assert metadata["dtype"] == str(AutoModelForCausalLM.from_pretrained(tmp_path / "healed").dtype).split(".")[1]
    assert metadata["loss"] == {
        "before": pytest.approx(before),
        "trained": pytest.approx(after),
        "written": pytest.approx(loss),
        "n": len(DATA.held_out),
        "held_out": True,
    }
    difference = (written(input_ids=probe(written)).logits - logits).abs().max().item()
    assert metadata["logit_difference"] == pytest.approx(difference, abs=1e-6)
    assert f"written {loss:.4f}" in entry["checked"][-1] and metadata["dtype"] in entry["checked"][-1]


def test_small_updates_survive_stochastic_rounding(cut: Path, tmp_path: Path) -> None:
    """What this is for: rounded to the nearest, nothing of such a training is left."""
    model, judge = trained(cut, 1e-5, 2), judged_by(in_float32(cut), DATA)
    nearest = trained(cut, 1e-5, 2).bfloat16().float()
    whole = mean_loss(model, DATA.held_out)
    assert judge.costs(whole, mean_loss(nearest, DATA.held_out)) and judge.costs(whole, float("nan"))
    unjudged = write(trained(cut, 1e-5, 2), cut, tmp_path / "unjudged", judge=None)
    assert unjudged["written"]["rounding"] == "stochastic" and "loss" not in unjudged["written"]
    judged = write(model, cut, tmp_path / "judged")
    assert judged["written"]["rounding"] == "stochastic" and "of what healing gained" in judged["checked"][-1]
    assert judged["written"]["loss"]["written"] < mean_loss(nearest, DATA.held_out)


def test_the_dtype_stays_also_where_rounding_costs(cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smaller model was larger: rounding cost 3 % of a healing's gain, and float32 doubled the bytes."""
    monkeypatch.setattr(checkpoint, "SHARE", -1.0)  # whatever it costs is too much
    entry = write(trained(cut, 1e-4, 5), cut, tmp_path / "healed")
    assert stored_dtype(tmp_path / "healed") == entry["written"]["dtype"] == "bfloat16"
    assert (tmp_path / "healed" / "model.safetensors").stat().st_size < 1.01 * (
        cut / "model.safetensors"
    ).stat().st_size
    assert "`save_dtype` float32 costs nothing" in entry["checked"][-1]
    losses = [mean_loss(in_float32(tmp_path / "healed"), DATA.held_out), entry["written"]["loss"]["written"]]
    assert losses[0] == pytest.approx(losses[1])


def test_the_card_counts_the_bytes_of_the_files(cut: Path, tmp_path: Path) -> None:
    plan = CutPlan(num_layers=6, removed=(2,))
    cut_model(resolve(str(cut)), plan, tmp_path / "pruned", uncut=None)
    pruned = tmp_path / "pruned"
    for dtype in ("bfloat16", "float32"):
        write(in_float32(pruned), pruned, tmp_path / dtype, dtype=dtype)
    for folder in (pruned, tmp_path / "bfloat16", tmp_path / "float32"):
        size = (folder / "model.safetensors").stat().st_size
        assert f"| weights | {size:,} bytes, safetensors |" in (folder / "README.md").read_text()


def test_the_dtype_that_is_asked_for_is_written(cut: Path, tmp_path: Path) -> None:
    for dtype in ("bfloat16", "float32", "float16"):
        entry = write(trained(cut, 1e-5, 2), cut, tmp_path / dtype, dtype=dtype)
        assert stored_dtype(tmp_path / dtype) == entry["written"]["dtype"] == dtype
        assert json.loads((tmp_path / dtype / "config.json").read_text())["dtype"] == dtype
        assert len(list((tmp_path / dtype).glob("*.safetensors"))) == 1
    losses = [mean_loss(in_float32(tmp_path / dtype), DATA.held_out) for dtype in ("bfloat16", "float32")]
    assert losses[1] == pytest.approx(mean_loss(trained(cut, 1e-5, 2), DATA.held_out))


def test_stochastic_rounding_is_right_in_the_mean() -> None:
    weights = torch.tensor([1.0, 1.001, -1.001, 0.0, 3e-39, float("inf"), torch.finfo(torch.float32).max])
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([stochastic_bfloat16(weights, generator).float() for _ in range(4000)])
    assert (draws[:, 0] == 1).all() and (draws[:, 3] == 0).all() and draws[:, 5].isinf().all()
    assert set(draws[:, 1].tolist()) == {1.0, 1.0078125}
    assert draws[:, 1].mean().item() == pytest.approx(1.001, abs=1e-4)
    assert draws[:, 2].mean().item() == pytest.approx(-1.001, abs=1e-4)
    assert not draws.isnan().any()


def test_another_model_on_disk_is_noticed(cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint._write

    def damaged(model: Any, folder: Path, dtype: str, how: str) -> Any:
        again = real(model, folder, dtype, how)
        with torch.no_grad():
            again.model.layers[3].mlp.up_proj.weight[0, 0] += 0.5
        return again

    monkeypatch.setattr(checkpoint, "_write", damaged)
    with pytest.raises(VerificationError, match="layers.3.mlp.up_proj.weight is another one"):
        write(trained(cut, 1e-4, 1), cut, tmp_path / "healed", judge=None)
    assert not (tmp_path / "healed").exists()
