"""The model card of a pruned checkpoint."""

from dataclasses import replace

import yaml

from layercut.surgery.card import model_card
from layercut.surgery.channels import Channels
from layercut.surgery.plan import CutPlan

PLAN = CutPlan(
    num_layers=30, removed=(27, 3, 28, 29), criterion="random", settings={"seed": 0}, model_hash="ab12", model="x"
)
FACTS = {
    "num_parameters_before": 134_515_008,
    "num_parameters_after": 120_354_624,
    "size": "240,711,144 bytes, safetensors",
    "layercut_version": "0.1.0",
}


def front_matter(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_a_model_from_the_hub():
    card = model_card(
        PLAN,
        source_name="HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="7e27bd9",
        license_name="apache-2.0",
        warnings=["max_window_layers was set to 20."],
        verified="Logits equal those of the original model with these layers skipped.",
        **FACTS,
    )
    assert front_matter(card) == {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "license": "apache-2.0",
        "library_name": "transformers",
        "tags": ["layercut", "depth-pruning"],
    }
    for expected in (
        "# SmolLM2-135M-Instruct, 4 decoder layers removed",
        "without decoder layers 3,27-29.",
        "| original model | HuggingFaceTB/SmolLM2-135M-Instruct, commit 7e27bd9 |",
        "| weights of the original model | ab12 |",
        "| decoder layers | 26 of 30 (13.3% removed) |",
        "| removed, in this order | 27, 3, 28, 29 |",
        "| kept | 0-2,4-26 |",
        "| chosen by | random (seed 0) |",
        "| parameters | 120.4M, before 134.5M (-10.5%) |",
        "| weights | 240,711,144 bytes, safetensors |",
        "## What was verified\n\nLogits equal",
        "- max_window_layers was set to 20.",
        "AutoModelForCausalLM.from_pretrained",
    ):
        assert expected in card


def test_a_local_model_names_no_base_model_and_no_home(monkeypatch):
    from pathlib import Path

    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    card = model_card(CutPlan(num_layers=2, removed=(1,)), source_name="/home/ada/models/tiny", **FACTS)
    assert "base_model" not in front_matter(card)
    assert "/home/ada" not in card
    assert "# tiny, 1 decoder layer removed" in card
    assert "without decoder layer 1" in card
    assert "chosen by | hand" in card
    assert "Nothing was verified" in card
    assert "## Warnings" not in card


def test_a_bundled_model_may_name_its_base():
    card = model_card(
        PLAN, source_name="bundled:smollm2-135m", base_model="HuggingFaceTB/SmolLM2-135M-Instruct", **FACTS
    )
    assert front_matter(card)["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "base_model" not in front_matter(model_card(PLAN, source_name="bundled:smollm2-135m", **FACTS))


def test_an_uncut_copy():
    card = model_card(CutPlan(num_layers=30), source_name="a/b", **{**FACTS, "num_parameters_after": 134_515_008})
    assert "without a cut" in card
    assert "in this order | none" in card


def test_thinner_mlps_are_named_with_what_ranked_their_channels():
    kept = {layer: tuple(range(6464)) for layer in range(30)}
    channels = Channels(field="intermediate_size", width=8960, kept=kept)
    plan = CutPlan(num_layers=30, channels=channels, criterion="rms", settings={"seed": 0, "channels": "rms"})
    card = model_card(plan, source_name="x", **FACTS)
    assert front_matter(card)["tags"] == ["layercut", "width-pruning"]
    assert "# x, 27.9% of the MLP channels removed" in card
    assert "| MLP channels removed | 2,496 of 8,960 MLP channels of each layer (27.9 %) |" in card
    assert "x without 2,496 of 8,960 MLP channels of each layer (27.9 %)." in card
    both = replace(plan, removed=(3,), criterion="explicit")
    card = model_card(both, source_name="x", **FACTS)
    assert "# x, 1 decoder layer and 27.9% of the MLP channels removed" in card
    assert "| chosen by | hand (a list of layers); MLP channels by rms |" in card
