from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.errors import InputError, VerificationError
from layercut.healing import checkpoint, trainable
from layercut.healing.checkpoint import (
    SHARE,
    UNTRAINED,
    healed_card,
    judge_of_rounding,
    mean_loss_on,
    stochastic_bfloat16,
    stored_dtype,
    write_healed,
    write_trained,
)
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.healing.trainable import add_adapters, merge_adapters, probe_logits
from layercut.models.sources import resolve_source
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from tests.support.healing import HEALING, tiny_data
from tests.support.tiny import CONFIGS, save_tiny, tiny_model

DATA = tiny_data(24)
SETTINGS = TrainSettings(rank=4, alpha=8)
PLAN = CutPlan(num_layers=6, removed=(2, 4))
SILENT: Any = lambda text: None  # noqa: E731
IDS = torch.arange(40).reshape(2, 20)


def save_adapters(base: Any, folder: Path) -> Any:
    """Adapters that change something, saved."""
    model = add_adapters(base, SETTINGS).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    model.save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def uncut(tmp_path_factory):
    folder = save_tiny("llama", tmp_path_factory.mktemp("models") / "uncut")
    AutoModelForCausalLM.from_pretrained(folder).bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture
def cut(uncut, tmp_path):
    cut_checkpoint(uncut, PLAN, tmp_path / "cut")
    (tmp_path / "cut" / "README.md").write_text("the cut's card")
    return tmp_path / "cut"


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_merged_weights_are_the_adapter_model(family, tmp_path):
    adapted = save_adapters(tiny_model(family), tmp_path / "adapter")
    expected = adapted(input_ids=IDS).logits
    plain = tiny_model(family)(input_ids=IDS).logits
    merged, compared = merge_adapters(tiny_model(family), tmp_path / "adapter")
    found = merged(input_ids=IDS).logits
    assert (expected - plain).abs().max() > 1e-2
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item())
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert compared.startswith("merged weights and adapter model differ by at most ")


def test_a_merge_that_changes_the_model_is_noticed(tmp_path, monkeypatch):
    """One that is wrong by a twentieth of what the adapters do; sums in another order differ by less."""
    from peft.tuners.lora.layer import Linear

    save_adapters(tiny_model("llama"), tmp_path / "adapter")
    monkeypatch.setattr(trainable, "TOLERANCE", 0.0)
    _, compared = merge_adapters(tiny_model("llama"), tmp_path / "adapter")
    assert "by at most 0 in" not in compared
    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda layer, adapter: 0.95 * right(layer, adapter))
    with pytest.raises(VerificationError, match="folding the adapters"):
        merge_adapters(tiny_model("llama"), tmp_path / "adapter")


@torch.no_grad()
def test_a_healed_checkpoint_is_the_cut_ones_folder_with_other_weights(cut, tmp_path):
    adapted = save_adapters(AutoModelForCausalLM.from_pretrained(cut, dtype=torch.float32), tmp_path / "adapter")
    source = resolve_source(str(cut))
    how, data = HealSettings(train=SETTINGS), tiny_data(8)
    write_trained(source, tmp_path / "adapter", how, data, out=tmp_path / "healed", record=HEALING, say=SILENT)
    healed = AutoModelForCausalLM.from_pretrained(tmp_path / "healed")
    assert healed.dtype == torch.bfloat16 and stored_dtype(tmp_path / "healed") == "bfloat16"
    assert healed.config.num_hidden_layers == 4
    difference = (healed.float()(input_ids=IDS).logits - adapted(input_ids=IDS).logits).abs().max()
    assert difference < 0.1 * adapted(input_ids=IDS).logits.abs().max()  # bfloat16
    assert AutoTokenizer.from_pretrained(tmp_path / "healed").chat_template
    plan = json.loads((tmp_path / "healed" / "plan.json").read_text())
    assert CutPlan.load(tmp_path / "healed" / "plan.json").removed == (2, 4)
    (entry,) = plan["healing"]
    assert len(entry["checked"]) == 2
    card = (tmp_path / "healed" / "README.md").read_text()
    assert card.startswith("the cut's card\n\n## Healing\n") and "lora" in card
    assert "8 answers, 64 answer tokens" in card and "plan.json" in card
    with pytest.raises(InputError, match="not an empty folder"):
        write_healed(healed, source, out=tmp_path / "healed", record=HEALING)
    # Healed again, the first healing is still told.
    again = resolve_source(str(tmp_path / "healed"))
    write_healed(healed, again, out=tmp_path / "twice", record=HEALING | {"method": "seam"})
    recorded = json.loads((tmp_path / "twice" / "plan.json").read_text())["healing"]
    assert [one["method"] for one in recorded] == ["lora", "seam"]


def test_the_card_of_a_pruned_model_no_longer_says_that_nothing_was_trained():
    card = healed_card(f"# Pruned\n\n{UNTRAINED}\n", HEALING)
    assert UNTRAINED not in card and card.startswith("# Pruned\n\nHealed after the cut: see below.\n\n## Healing\n")
    assert healed_card("", HEALING).startswith("---\nlibrary_name: transformers\n")


def in_float32(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def trained(uncut: Path, size: float, steps: int) -> Any:
    """Steps of one size for every weight, as AdamW takes them; without layercut."""
    model = in_float32(uncut)
    batches = [torch.tensor([example.input_ids]) for example in DATA.train]
    for _ in range(steps):
        model.zero_grad()
        sum(model(input_ids=ids, labels=ids).loss for ids in batches).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= size * parameter.grad.sign()
    return model


def write(model: Any, uncut: Path, out: Path, **more: Any) -> dict[str, Any]:
    how = {"record": HEALING | {"method": "full"}, "judge": judge_of_rounding(in_float32(uncut), DATA)} | more
    return write_healed(model, resolve_source(str(uncut)), out=out, **how)


@pytest.mark.parametrize(("size", "steps"), [(1e-5, 2), (1e-4, 5), (1e-2, 5)])
def test_rounding_takes_little_of_what_was_learnt(size, steps, uncut, tmp_path):
    model = trained(uncut, size, steps)
    before, after = mean_loss_on(in_float32(uncut), DATA.held_out), mean_loss_on(model, DATA.held_out)
    logits = probe_logits(model)
    entry = write(model, uncut, tmp_path / "healed")
    written = in_float32(tmp_path / "healed")
    loss = mean_loss_on(written, DATA.held_out)
    assert after < before and loss - after <= SHARE * (before - after)
    metadata = json.loads((tmp_path / "healed" / "plan.json").read_text())["healing"][0]["written"]
    assert metadata == entry["written"] and metadata["dtype"] == stored_dtype(tmp_path / "healed")
    losses = {"before": before, "trained": after, "written": loss}
    assert metadata["loss"] == pytest.approx(losses | {"n": len(DATA.held_out), "held_out": True})
    difference = (probe_logits(written) - logits).abs().max().item()
    assert metadata["logit_difference"] == pytest.approx(difference, abs=1e-6)
    assert f"written {loss:.4f}" in entry["checked"][-1] and metadata["dtype"] in entry["checked"][-1]


def test_small_updates_survive_stochastic_rounding(uncut, tmp_path):
    """What this is for: rounded to the nearest, nothing of such a training is left."""
    model, judge = trained(uncut, 1e-5, 2), judge_of_rounding(in_float32(uncut), DATA)
    nearest = trained(uncut, 1e-5, 2).bfloat16().float()
    whole = mean_loss_on(model, DATA.held_out)
    assert judge.costs(whole, mean_loss_on(nearest, DATA.held_out)) and judge.costs(whole, float("nan"))
    unjudged = write(trained(uncut, 1e-5, 2), uncut, tmp_path / "unjudged", judge=None)
    assert unjudged["written"]["rounding"] == "stochastic" and "loss" not in unjudged["written"]
    judged = write(model, uncut, tmp_path / "judged")
    assert judged["written"]["rounding"] == "stochastic" and "rounded stochastically" in judged["checked"][-1]
    assert judged["written"]["loss"]["written"] < mean_loss_on(nearest, DATA.held_out)


def test_the_dtype_stays_also_where_rounding_costs(uncut, tmp_path, monkeypatch):
    """The smaller model was larger: rounding cost 3 % of a healing's gain, and float32 doubled the bytes."""
    monkeypatch.setattr(checkpoint, "SHARE", -1.0)  # whatever it costs is too much
    entry = write(trained(uncut, 1e-4, 5), uncut, tmp_path / "healed")
    assert stored_dtype(tmp_path / "healed") == entry["written"]["dtype"] == "bfloat16"
    size, uncut_size = ((folder / "model.safetensors").stat().st_size for folder in (tmp_path / "healed", uncut))
    assert size < 1.01 * uncut_size
    assert "`save_dtype` float32 costs nothing" in entry["checked"][-1]
    losses = [mean_loss_on(in_float32(tmp_path / "healed"), DATA.held_out), entry["written"]["loss"]["written"]]
    assert losses[0] == pytest.approx(losses[1])


def test_the_dtype_that_is_asked_for_is_written_and_the_card_counts_the_bytes(uncut, tmp_path):
    pruned = tmp_path / "pruned"
    cut_model(resolve_source(str(uncut)), CutPlan(num_layers=6, removed=(2,)), pruned, uncut=None)
    for dtype in ("bfloat16", "float32", "float16"):
        entry = write(trained(pruned, 1e-5, 2), pruned, tmp_path / dtype, dtype=dtype)
        assert stored_dtype(tmp_path / dtype) == entry["written"]["dtype"] == dtype
        assert json.loads((tmp_path / dtype / "config.json").read_text())["dtype"] == dtype
    for folder in (pruned, *(tmp_path / dtype for dtype in ("bfloat16", "float32", "float16"))):
        (file,) = folder.glob("*.safetensors")
        assert f"| weights | {file.stat().st_size:,} bytes, safetensors |" in (folder / "README.md").read_text()
    loss = mean_loss_on(in_float32(tmp_path / "float32"), DATA.held_out)
    assert loss == pytest.approx(mean_loss_on(trained(pruned, 1e-5, 2), DATA.held_out))


def test_stochastic_rounding_is_right_in_the_mean():
    weights = torch.tensor([1.0, 1.001, -1.001, 0.0, 3e-39, float("inf"), torch.finfo(torch.float32).max])
    generator = torch.Generator().manual_seed(1)
    draws = torch.stack([stochastic_bfloat16(weights, generator).float() for _ in range(4000)])
    assert (draws[:, 0] == 1).all() and (draws[:, 3] == 0).all() and draws[:, 5].isinf().all()
    assert set(draws[:, 1].tolist()) == {1.0, 1.0078125}
    assert draws[:, 1].mean().item() == pytest.approx(1.001, abs=1e-4)
    assert draws[:, 2].mean().item() == pytest.approx(-1.001, abs=1e-4)
    assert not draws.isnan().any()


def test_another_model_on_disk_is_noticed(uncut, tmp_path, monkeypatch):
    real = checkpoint._write

    def damaged(model: Any, folder: Path, dtype: str, how: str) -> Any:
        again = real(model, folder, dtype, how)
        with torch.no_grad():
            again.model.layers[3].mlp.up_proj.weight[0, 0] += 0.5
        return again

    monkeypatch.setattr(checkpoint, "_write", damaged)
    with pytest.raises(VerificationError, match="layers.3.mlp.up_proj.weight is another one"):
        write(trained(uncut, 1e-4, 1), uncut, tmp_path / "healed", judge=None)
    assert not (tmp_path / "healed").exists()
