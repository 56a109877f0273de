from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from layercut.errors import InputError
from layercut.healing.settings import TrainSettings
from tests.support.healing import tiny_data
from tests.support.loaded import tiny_loaded
from tests.support.tiny import byte_tokenizer, tiny_model

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from layercut.healing import stored as module
from layercut.healing.distill import DistillTrainer, divergence
from layercut.healing.sft import Trained, train
from layercut.healing.stored import StoredLogits, StoredTrainer, TopK, top_k_divergence
from layercut.healing.trainable import make_trainable

DATA = tiny_data(24)
VOCABULARY = 260


def test_the_rest_is_one_more_outcome() -> None:
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(5, 11), 3 * torch.randn(5, 11)
    log_p = teacher.log_softmax(-1)
    for k in (1, 4, 11):
        top = log_p.topk(k)
        found = top_k_divergence(student.requires_grad_(), TopK(top.indices, top.values))
        p, q = log_p.exp(), student.softmax(-1)
        gone = torch.ones_like(p).scatter(-1, top.indices, 0.0)
        merged_p = torch.cat([p.gather(-1, top.indices), (p * gone).sum(-1, keepdim=True)], -1)
        merged_q = torch.cat([q.gather(-1, top.indices), (q * gone).sum(-1, keepdim=True)], -1)
        expected = torch.special.xlogy(merged_p, merged_p / merged_q.clamp(min=1e-38)).sum(-1)
        assert torch.allclose(found, expected, atol=1e-5)
        whole = divergence(student, teacher, "forward-kl")
        assert (found <= whole + 1e-5).all() and (k < 11 or torch.allclose(found, whole, atol=1e-5))
    found.sum().backward()
    assert student.grad is not None and torch.isfinite(student.grad).all()


def heal(folder: Path, **options: Any) -> Trained:
    settings = TrainSettings(
        objective="forward-kl", method="full", max_steps=4, batch_size=4, micro_batch=2, warmup_steps=0,
        learning_rate=1e-3, patience=0, save_every=2, packing=options.pop("packing", False),
    )  # fmt: skip
    model = make_trainable(tiny_loaded("llama").model, settings)
    return train(model, byte_tokenizer(), DATA, settings, folder, **options)


def losses(trained: Trained) -> list[float]:
    return [line.get("loss", line.get("held_out_loss", 0.0)) for line in trained.curve]


def test_all_tokens_stored_train_as_the_teacher_itself(tmp_path: Path) -> None:
    teacher = tiny_model("llama", seed=1)
    everything, few = (StoredLogits(tmp_path / str(k), DATA, k) for k in (VOCABULARY, 8))
    everything.fill(teacher)
    few.fill(teacher, batch_size=3)
    live = losses(heal(tmp_path / "live", trainer=DistillTrainer, teacher=teacher))
    assert losses(heal(tmp_path / "all", trainer=StoredTrainer, stored=everything)) == pytest.approx(live, rel=1e-3)
    short = losses(heal(tmp_path / "few", trainer=StoredTrainer, stored=few))
    packed = losses(heal(tmp_path / "packed", trainer=StoredTrainer, stored=few, packing=True))
    assert short[0] < live[0] and short[-1] < short[0]
    assert packed == pytest.approx(short, rel=0.05) and packed[0] == pytest.approx(short[0], rel=1e-3)


def test_what_is_stored_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 8)
    stored = StoredLogits(tmp_path, DATA, 4)
    stored.fill(tiny_model("llama"))
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3 and stored.is_whole() and stored.num_examples == 24
    before = [load(file.read_bytes()) for file in files]
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:50])  # torn
    asked: list[int] = []
    again = StoredLogits(tmp_path, DATA, 4)
    assert not again.is_whole()
    top_k = module._top_k
    monkeypatch.setattr(module, "_top_k", lambda model, some, k: asked.append(len(some)) or top_k(model, some, k))
    again.fill(tiny_model("llama"))
    assert sum(asked) == 16
    for file, tensors in zip(files, before, strict=True):
        found = load(file.read_bytes())
        assert found.keys() == tensors.keys()
        assert all(torch.allclose(found[name].float(), tensors[name].float(), atol=1e-5) for name in tensors)
    other = StoredLogits(tmp_path, DATA, 5)
    assert not other.is_whole(0), "of another k"
    with pytest.raises(InputError, match="261 likeliest tokens of 260"):
        StoredLogits(tmp_path / "more", DATA, 261).fill(tiny_model("llama"))
