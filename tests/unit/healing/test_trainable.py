"""One set of weights for the pruned model and its teacher: the training of two models, to the last bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from layercut.engine.handle import ModelHandle
from layercut.healing.settings import OBJECTIVES, TrainSettings
from layercut.models.loading import load_model
from layercut.settings import ModelSettings
from layercut.surgery.checkpoint import cut_checkpoint
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers
from tests.support.healing import tiny_data, tiny_records
from tests.support.tiny import CONFIGS, NUM_LAYERS, save_tiny
from tests.unit.surgery.test_width import thin_plan

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing import trainable
from layercut.healing.heal import objective_of
from layercut.healing.sft import Trained
from layercut.healing.trainable import load_two_models, make_trainable
from tests.support.training import Killed, curve_of, small_settings, train_tiny

DATA = tiny_data(16)
REMOVED = (1, 4)


def settings(**more: Any) -> TrainSettings:
    taught: dict[str, Any] = {"max_steps": 3, "micro_batch": 4, "learning_rate": 1e-2, "objective": "forward-kl"}
    return small_settings(**(taught | {"rollout_max": 8} | more))


def models(folder: Path, family: str = "llama", **more: Any) -> tuple[ModelHandle, ModelHandle]:
    """Handles of a pruned model and its teacher."""
    if not (folder / "uncut").is_dir():
        save_tiny(family, folder / "uncut")
        whole = ModelHandle(ModelSettings(model=str(folder / "uncut")))
        plan = CutPlan(num_layers=NUM_LAYERS, removed=REMOVED, model_hash=whole.metadata.model_hash)
        cut_checkpoint(folder / "uncut", plan, folder / "cut")
    given = {"dtype": "float32", "device": "cpu", **more}
    cut, uncut = (ModelHandle(ModelSettings(model=str(folder / name), **given)) for name in ("cut", "uncut"))
    return cut, uncut


def heal(folder: Path, name: str, wanted: TrainSettings, kill_at: int | None = None) -> Trained:
    loaded, uncut = load_two_models(*models(folder), wanted)
    options = objective_of(loaded, uncut, wanted, DATA, tiny_records(16))
    return train_tiny(loaded.model, DATA, wanted, folder / name, kill_at, **options)


def result(trained: Trained) -> tuple[list[dict[str, float]], bytes, dict[str, Any]]:
    config = json.loads((trained.final / "adapter_config.json").read_text())
    targets = sorted(config.pop("target_modules"))
    return curve_of(trained), (trained.final / "adapter_model.safetensors").read_bytes(), config | {"targets": targets}


@pytest.mark.parametrize("family", CONFIGS)
def test_the_losses_and_adapters_are_those_of_two_models(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainable, "share_equal", lambda *args: 0)
        two = result(heal(tmp_path, "two", settings()))
    assert result(heal(tmp_path, "one", settings())) == two
    losses = [line["loss"] for line in two[0] if "loss" in line]
    assert len(set(losses)) == 3 and min(losses) > 0


TAUGHT = [name for name in list(OBJECTIVES)[2:] if OBJECTIVES[name].divergence]


@pytest.mark.parametrize(
    "more", [*({"objective": name} for name in TAUGHT), {"gradient_checkpointing": "on", "dropout": 0.0}], ids=str
)
def test_every_objective_has_the_same_training_also_when_stopped(
    more: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(trainable, "share_equal", lambda *args: 0)
        two = result(heal(tmp_path, "two", settings(**more)))
    with pytest.raises(Killed):
        heal(tmp_path, "one", settings(**more), kill_at=3)
    assert result(heal(tmp_path, "one", settings(**more))) == two


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe"])
def test_weights_are_in_memory_once_and_both_models_are_whole(family: str, tmp_path: Path) -> None:
    cut, teacher = models(tmp_path, family)
    said: list[str] = []
    loaded, uncut = load_two_models(cut, teacher, settings(), said.append)
    assert uncut is not None and len(said) == 1
    places = {one.data_ptr() for one in uncut.model.parameters()}
    assert {one.data_ptr() for one in loaded.model.parameters()} < places
    assert len(decoder_layers(uncut.model)) == NUM_LAYERS
    alone = load_model(str(tmp_path / "cut"), dtype="float32", device="cpu")
    assert loaded.model.config.to_dict() == alone.model.config.to_dict()
    assert (loaded.name, loaded.model_hash, loaded.num_layers) == (alone.name, alone.model_hash, alone.num_layers)
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        expected = uncut.model(ids).logits
        assert torch.equal(loaded.model(ids).logits, alone.model(ids).logits)
        with bypass(uncut.model, CutPlan(num_layers=NUM_LAYERS, removed=REMOVED)):
            assert torch.equal(uncut.model(ids).logits, alone.model(ids).logits)
        # What happens to the pruned model's tree leaves the teacher as it is.
        make_trainable(loaded.model.to(torch.float64), settings())
        assert torch.equal(uncut.model(ids).logits, expected)


def repaired(folder: Path, names: Sequence[str]) -> ModelHandle:
    """The pruned model with some matrices changed, as a repair of its seams does."""
    shutil.copytree(folder / "cut", folder / "repaired")
    file = folder / "repaired" / "model.safetensors"
    tensors = load_file(file)
    save_file({name: one * (1.01 if name in names else 1) for name, one in tensors.items()}, file, {"format": "pt"})
    return ModelHandle(ModelSettings(model=str(folder / "repaired"), dtype="float32", device="cpu"))


@pytest.mark.parametrize(
    ("family", "own"),
    [
        ("llama", ("model.layers.0.mlp.down_proj.weight",)),
        ("gpt2", ("transformer.h.0.mlp.c_proj.weight",)),
        ("qwen3_moe", ("model.layers.1.input_layernorm.weight",)),
    ],
)
def test_a_repaired_model_has_only_the_repaired_matrices_for_itself(
    family: str, own: tuple[str, ...], tmp_path: Path
) -> None:
    _, teacher = models(tmp_path, family)
    mine = repaired(tmp_path, own)
    loaded, uncut = load_two_models(mine, teacher, settings())
    assert uncut is not None
    places = {one.data_ptr() for one in uncut.model.parameters()}
    apart = {name: one for name, one in loaded.model.named_parameters() if one.data_ptr() not in places}
    assert tuple(apart) == own
    alone = load_model(str(tmp_path / "repaired"), dtype="float32", device="cpu")
    whole = load_model(str(tmp_path / "uncut"), dtype="float32", device="cpu")
    assert loaded.model.config.to_dict() == alone.model.config.to_dict() and loaded.model_hash == alone.model_hash
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(loaded.model(ids).logits, alone.model(ids).logits)
        assert torch.equal(uncut.model(ids).logits, whole.model(ids).logits)
        assert not torch.equal(
            loaded.model(ids).logits, load_two_models(*models(tmp_path, family), settings())[0].model(ids).logits
        )


def test_a_model_that_teaches_itself_shares_its_weights(tmp_path: Path) -> None:
    _, teacher = models(tmp_path)
    loaded, uncut = load_two_models(teacher, teacher, settings())
    assert uncut is not None and len(decoder_layers(loaded.model)) == NUM_LAYERS


def test_other_weights_are_loaded_for_themselves(tmp_path: Path) -> None:
    cut, teacher = models(tmp_path)

    def shares(cut: ModelHandle, teacher: ModelHandle, **more: Any) -> bool:
        loaded, uncut = load_two_models(cut, teacher, settings(**more))
        places = set() if uncut is None else {one.data_ptr() for one in uncut.model.parameters()}
        return any(one.data_ptr() in places for one in loaded.model.parameters())

    assert (
        shares(cut, teacher) and not shares(cut, teacher, method="full") and not shares(cut, teacher, objective="sft")
    )
    half, _ = models(tmp_path, dtype="bfloat16")
    assert not shares(half, teacher) and not shares(cut, half)
    # Trained: the plan is the same, the weights are not.
    shutil.copytree(tmp_path / "cut", tmp_path / "healed")
    file = tmp_path / "healed" / "model.safetensors"
    save_file({name: one + 0.01 for name, one in load_file(file).items()}, file, {"format": "pt"})
    assert not shares(ModelHandle(cut.settings.replace(model=str(tmp_path / "healed"))), teacher)
    # With another architecture: the weights are those of the cut, the config is its own.
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    shutil.copytree(tmp_path / "cut", tmp_path / "stretched")
    (tmp_path / "stretched" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    loaded, _ = load_two_models(
        ModelHandle(cut.settings.replace(model=str(tmp_path / "stretched"))), teacher, settings()
    )
    assert loaded.model.config.rms_norm_eps == 1e-3


def test_a_thinner_model_is_made_of_the_teachers_weights(tmp_path: Path) -> None:
    save_tiny("llama", tmp_path / "uncut")
    whole = ModelHandle(ModelSettings(model=str(tmp_path / "uncut"), dtype="float32", device="cpu"))
    plan = replace(thin_plan(whole.loaded.model, (1,)), model_hash=whole.metadata.model_hash)
    cut_checkpoint(tmp_path / "uncut", plan, tmp_path / "cut")
    cut, teacher = models(tmp_path)
    loaded, uncut = load_two_models(cut, teacher, settings())
    alone = load_model(str(tmp_path / "cut"), device="cpu").model
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, alone(input_ids=ids).logits)
        assert uncut is not None
        assert torch.equal(uncut.model(input_ids=ids).logits, whole.loaded.model(input_ids=ids).logits)
    assert result(heal(tmp_path, "run", settings()))[0]
