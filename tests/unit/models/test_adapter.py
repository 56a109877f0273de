"""A LoRA adapter named as a model: computed unmerged, alike in every engine, and never lost without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.errors import CheckpointError, InputError
from layercut.models.loading import load_model
from layercut.models.sources import describe_source, resolve_source
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.engines import completions, log_likelihoods
from tests.support.tiny import save_tiny

peft = pytest.importorskip("peft", reason="adapters need layercut[heal]")

TEXT = "abc def"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("mistral", tmp_path_factory.mktemp("base") / "whole")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that changes every projection, the head among them."""
    folder = tmp_path_factory.mktemp("adapter") / "lora"
    places = ["q_proj", "v_proj", "down_proj", "lm_head"]
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=places, rank_pattern={"lm_head": 3})
    model = peft.get_peft_model(load_model(str(base), dtype="float32").model, config)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    model.save_pretrained(folder)
    recorded = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(recorded | {"base_model_name_or_path": str(base)}))
    return folder


@torch.no_grad()
def test_the_logits_are_those_of_peft_and_of_the_merged_model(base: Path, adapter: Path) -> None:
    loaded = load_model(str(adapter), dtype="float32")
    ids = loaded.tokenizer(TEXT, return_tensors="pt").input_ids
    alone = load_model(str(base), dtype="float32")
    without = alone.model(ids).logits
    theirs = peft.PeftModel.from_pretrained(alone.model, str(adapter))
    found = loaded.model(ids).logits
    assert torch.equal(found, theirs(ids).logits)
    # Sums in another order: 4.6e-5 was seen on one CPU.
    torch.testing.assert_close(found, theirs.merge_and_unload()(ids).logits, atol=1e-4, rtol=1e-4)
    assert (found - without).abs().max() > 0.01
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_every_engine_computes_it_under_every_plan(adapter: Path, tmp_path: Path) -> None:
    loaded = load_model(str(adapter), dtype="float32")
    merged = peft.PeftModel.from_pretrained(load_model(resolve_source(str(adapter)).adapter.base).model, str(adapter))
    whole = tmp_path / "merged"
    merged.merge_and_unload().save_pretrained(whole)
    for file in resolve_source(str(adapter)).path.glob("tok*"):
        shutil.copy(file, whole)
    reference = PlainEngine(load_model(str(whole), dtype="float32"))
    wanted = [GenerationRequest(id=text, prompt=text, max_new_tokens=5) for text in (TEXT, "ghi")]
    asked = [LikelihoodRequest(id=text, prompt=text, continuations=("x", "y z")) for text in (TEXT, "ghi")]
    for removed in ((), (2, 3), (5,)):
        plan = CutPlan(num_layers=6, removed=removed)
        texts = [one.text for part in completions(reference, wanted, plan, Decoding()) for one in part]
        scores = [one.log_likelihoods for part in log_likelihoods(reference, asked, plan) for one in part]
        for engine in (PlainEngine(loaded), SharedEngine(loaded)):
            assert [one.text for part in completions(engine, wanted, plan, Decoding()) for one in part] == texts
            found = [one.log_likelihoods for part in log_likelihoods(engine, asked, plan) for one in part]
            torch.testing.assert_close(torch.tensor(found), torch.tensor(scores), atol=1e-4, rtol=1e-4)
    with bypass(loaded.model, CutPlan(num_layers=6, removed=(1,))):
        assert loaded.model.config.num_hidden_layers == 5


def test_its_hash_is_of_both(base: Path, adapter: Path, tmp_path: Path) -> None:
    def hash_of(folder: Path) -> str:
        return describe_source(resolve_source(str(folder))).model_hash

    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    assert hash_of(other) == hash_of(adapter) != hash_of(base)
    weights = load_file(other / "adapter_model.safetensors")
    name = next(name for name in weights if "lora_B" in name)
    save_file(weights | {name: weights[name] + 1}, other / "adapter_model.safetensors")
    assert hash_of(other) != hash_of(adapter)
    scaled = tmp_path / "scaled"
    shutil.copytree(adapter, scaled)
    recorded = json.loads((scaled / "adapter_config.json").read_text())
    (scaled / "adapter_config.json").write_text(json.dumps(recorded | {"lora_alpha": 16}))
    assert hash_of(scaled) != hash_of(adapter)


def test_a_base_beside_it_is_found(base: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "lora")
    shutil.copytree(base, tmp_path / "whole")
    recorded = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(
        json.dumps(recorded | {"base_model_name_or_path": "../whole"})
    )
    found = resolve_source(str(tmp_path / "lora"))
    assert found.path.samefile(tmp_path / "whole") and found.origin["kind"] == "adapter"


def test_it_is_not_cut_without_its_adapter(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a whole model"):
        cut_model(resolve_source(str(adapter)), CutPlan(num_layers=6, removed=(1,)), tmp_path / "cut", uncut=None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3; only LoRA"),
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"r": "two"}, "is no adapter for"),
        ({"target_modules": ["q_proj"], "rank_pattern": {}}, "is no adapter for"),
        ({"target_modules": ["nothing"]}, "is no adapter for"),
    ],
)
def test_what_is_none_is_refused_in_one_line(
    adapter: Path, tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    shutil.copytree(adapter, tmp_path / "lora")
    file = tmp_path / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(CheckpointError, match=message) as recorded:
        load_model(str(tmp_path / "lora"), dtype="float32")
    assert "\n" not in str(recorded.value)


def test_without_weights_it_is_refused(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "lora")
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no adapter_model.safetensors"):
        resolve_source(str(tmp_path / "lora"))
