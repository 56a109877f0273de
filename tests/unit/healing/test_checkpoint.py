from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.errors import InputError, VerificationError
from layercut.healing import trainable
from layercut.healing.checkpoint import UNTRAINED, healed_card, stored_dtype, write_healed, write_trained
from layercut.healing.settings import HealSettings, TrainSettings
from layercut.healing.trainable import add_adapters, merge_adapters
from layercut.models.sources import resolve
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from tests.support.healing import HEALING, tiny_data
from tests.support.tiny import CONFIGS, save_tiny, tiny_model

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


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    save_tiny("llama", tmp_path / "uncut")
    tiny = AutoModelForCausalLM.from_pretrained(tmp_path / "uncut").bfloat16()
    tiny.save_pretrained(tmp_path / "uncut")
    cut_checkpoint(tmp_path / "uncut", PLAN, tmp_path / "cut")
    (tmp_path / "cut" / "README.md").write_text("the cut's card")
    return tmp_path / "cut"


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_merged_weights_are_the_adapter_model(family: str, tmp_path: Path) -> None:
    adapted = save_adapters(tiny_model(family), tmp_path / "adapter")
    expected = adapted(input_ids=IDS).logits
    plain = tiny_model(family)(input_ids=IDS).logits
    merged = merge_adapters(tiny_model(family), tmp_path / "adapter")
    found = merged.model(input_ids=IDS).logits
    assert (expected - plain).abs().max() > 1e-2
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item())
    assert not any("lora" in name for name, _ in merged.model.named_parameters())
    assert merged.max_abs_diff <= merged.tolerance


def test_a_merge_that_changes_the_model_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is wrong by a twentieth of what the adapters do; sums in another order differ by less."""
    from peft.tuners.lora.layer import Linear

    save_adapters(tiny_model("llama"), tmp_path / "adapter")
    monkeypatch.setattr(trainable, "TOLERANCE", 0.0)
    assert merge_adapters(tiny_model("llama"), tmp_path / "adapter").max_abs_diff > 0
    right = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda layer, adapter: 0.95 * right(layer, adapter))
    with pytest.raises(VerificationError, match="folding the adapters"):
        merge_adapters(tiny_model("llama"), tmp_path / "adapter")


@torch.no_grad()
def test_a_healed_checkpoint_is_the_cut_ones_folder_with_other_weights(cut: Path, tmp_path: Path) -> None:
    adapted = save_adapters(AutoModelForCausalLM.from_pretrained(cut, dtype=torch.float32), tmp_path / "adapter")
    source = resolve(str(cut))
    curve = tmp_path / "loss.jsonl"
    curve.write_text('{"step": 1}\n')
    how, data = HealSettings(train=SETTINGS), tiny_data(8)
    write_trained(
        source, tmp_path / "adapter", how, data, out=tmp_path / "healed", entry=HEALING, curve=curve, say=SILENT
    )
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
    assert entry["loss_curve"] == "healing_loss.jsonl"
    assert (tmp_path / "healed" / "healing_loss.jsonl").read_text() == '{"step": 1}\n'
    card = (tmp_path / "healed" / "README.md").read_text()
    assert card.startswith("the cut's card\n\n## Healing\n") and "| method | lora |" in card
    assert "8 answers, 64 answer tokens" in card and "num examples" not in card
    with pytest.raises(InputError, match="not an empty folder"):
        write_healed(healed, source, out=tmp_path / "healed", entry=HEALING)
    # Healed again, the first healing is still told.
    again = resolve(str(tmp_path / "healed"))
    write_healed(healed, again, out=tmp_path / "twice", entry=HEALING | {"method": "seam"})
    recorded = json.loads((tmp_path / "twice" / "plan.json").read_text())["healing"]
    assert [one["method"] for one in recorded] == ["lora", "seam"]


@torch.no_grad()
def test_a_kept_adapter_loads_on_its_base(cut: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    adapted = save_adapters(AutoModelForCausalLM.from_pretrained(cut, dtype=torch.float32), tmp_path / "adapter")
    how = HealSettings(train=SETTINGS, keep_adapter=True)
    out, source = tmp_path / "kept", resolve(str(cut))
    write_trained(source, tmp_path / "adapter", how, tiny_data(8), out=out, entry=HEALING, say=SILENT)
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "kept", dtype=torch.float32).eval()
    assert torch.allclose(loaded(input_ids=IDS).logits, adapted(input_ids=IDS).logits, atol=1e-4)
    assert json.loads((tmp_path / "kept" / "plan.json").read_text())["healing"][0]["method"] == "lora"


def test_the_card_of_a_pruned_model_no_longer_says_that_nothing_was_trained() -> None:
    entry = HEALING | {"checked": []}
    card = healed_card(f"# Pruned\n\n{UNTRAINED}\n", entry | {"dropped": {"empty": 2}})
    assert UNTRAINED not in card and card.startswith("# Pruned\n\nHealed after the cut: see below.\n\n## Healing\n")
    assert "| dropped | empty 2 |" in card and "| removed | 2; 4 |" in card and "| channels |" not in card
    assert healed_card("", entry).startswith("---\nlibrary_name: transformers\n")
