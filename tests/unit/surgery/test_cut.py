"""The model card of a pruned checkpoint."""

from dataclasses import replace
from pathlib import Path

import yaml

from layercut.models.sources import ModelSource
from layercut.surgery.channels import Channels
from layercut.surgery.checkpoint import CutReport
from layercut.surgery.cut import model_card
from layercut.surgery.plan import CutPlan

PLAN = CutPlan(
    num_layers=30, removed=(27, 3, 28, 29), criterion="random", settings={"seed": 0}, model_hash="ab12", model="x"
)
REPORT = CutReport(
    plan=PLAN, bytes_before=269_030_016, bytes_after=240_709_248, parameters_before=134_515_008,
    parameters_after=120_354_624, tensors_before=272, tensors_after=236, shards=("model.safetensors",),
)  # fmt: skip


def card_of(plan, name, **fields):
    given = {key: fields.pop(key) for key in ("revision", "origin") if key in fields}
    source = ModelSource(name=name, path=Path("uncut"), **given)
    return model_card(replace(REPORT, plan=plan, **fields), source, "240,711,144 bytes, safetensors")


def front_matter(card: str) -> dict:
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


def test_a_model_from_the_hub():
    card = card_of(
        PLAN,
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        revision="7e27bd9",
        origin={"license": "apache-2.0"},
        warnings=("max_window_layers was set to 20.",),
        verified="Logits equal those of the original model with these layers skipped.",
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


def test_only_a_model_of_the_hub_or_bundled_names_its_base_and_none_the_home(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ada"))
    card = card_of(CutPlan(num_layers=2, removed=(1,)), "/home/ada/models/tiny")
    assert "base_model" not in front_matter(card)
    for text in ("# tiny, 1 decoder layer removed", "without decoder layer 1", "by | hand", "Nothing was verified"):
        assert text in card
    assert "/home/ada" not in card and "## Warnings" not in card
    # A bundled model may name its base.
    card = card_of(PLAN, "bundled:smollm2-135m", origin={"base_model": "its/base"})
    assert front_matter(card)["base_model"] == "its/base"
    assert "base_model" not in front_matter(card_of(PLAN, "bundled:smollm2-135m"))


def test_thinner_mlps_are_named_with_what_ranked_their_channels():
    kept = {layer: tuple(range(6464)) for layer in range(30)}
    channels = Channels(field="intermediate_size", width=8960, kept=kept)
    plan = CutPlan(num_layers=30, channels=channels, criterion="rms", settings={"seed": 0, "channels": "rms"})
    card = card_of(plan, "x")
    assert front_matter(card)["tags"] == ["layercut", "width-pruning"]
    assert "# x, 27.9% of the MLP channels removed" in card
    assert "in this order | none" in card
    assert "| MLP channels removed | 2,496 of 8,960 MLP channels of each layer (27.9 %) |" in card
    assert "x without 2,496 of 8,960 MLP channels of each layer (27.9 %)." in card
    both = replace(plan, removed=(3,), criterion="explicit")
    card = card_of(both, "x")
    assert "# x, 1 decoder layer and 27.9% of the MLP channels removed" in card
    assert "| chosen by | hand (a list of layers); MLP channels by rms |" in card
