from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import kl_div, log_softmax
from transformers import AutoModelForCausalLM

import layercut
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")

from layercut.healing.distill import KINDS, check_teacher, divergence, trim_teacher
from tests.support.tiny import tiny_model
from tests.support.vocabularies import write_model


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(5, 11, generator=torch.Generator().manual_seed(seed))


def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    return kl_div(q.log(), p, reduction="none").sum(-1)


def test_divergences_are_those_of_the_formulas() -> None:
    student, teacher = logits(0), logits(1)
    q, p = student.softmax(-1), teacher.softmax(-1)
    assert torch.allclose(divergence(student, teacher, "forward-kl"), kl(p, q), atol=1e-5)
    assert torch.allclose(divergence(student, teacher, "reverse-kl"), kl(q, p), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_divergence_from_oneself_and_descent_towards_the_teacher(kind: str) -> None:
    student, teacher = logits(0).requires_grad_(), logits(1)
    assert divergence(teacher, teacher + 7, kind).abs().max() < 1e-6  # a shift of logits is no difference
    before = divergence(student, teacher, kind)
    before.sum().backward()
    with torch.no_grad():
        student -= 0.1 * student.grad  # type: ignore[operator]
    assert divergence(student, teacher, kind).sum() < before.sum()


@pytest.mark.parametrize(("kind", "beta"), [("forward-kl", 0), ("reverse-kl", 1)])
def test_divergences_are_those_of_trls_gkd_trainer(kind: str, beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    student, teacher = logits(0), logits(1)
    theirs = GKDTrainer.generalized_jsd_loss(student[None], teacher[None], beta=beta, reduction="none").sum(-1)[0]
    assert torch.allclose(divergence(student, teacher, kind), theirs, atol=1e-5)


def test_extreme_logits_stay_finite() -> None:
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert torch.isfinite(log_softmax(student, -1)).all()
    assert divergence(student, teacher, "reverse-kl").item() == pytest.approx(1e4, rel=1e-4)


def test_a_teacher_with_other_tokens_is_refused() -> None:
    other = tiny_model("llama")
    other.resize_token_embeddings(300)
    check_teacher(tiny_model("llama"), tiny_model("llama", seed=1))
    with pytest.raises(InputError, match="300 tokens .* 260"):
        check_teacher(tiny_model("llama"), other)


@pytest.mark.parametrize("objective", ["sft", "forward-kl"])
def test_a_checkpoint_with_fewer_tokens_is_healed(tmp_path: Path, objective: str) -> None:
    whole = write_model("bytes", tmp_path / "whole")
    small = layercut.cut(whole, "2 vocab:ascii", tmp_path / "small", verify=False)
    teacher = AutoModelForCausalLM.from_pretrained(whole)
    trim_teacher(teacher, small)
    plan = CutPlan.load(small / "plan.json")
    assert plan.vocabulary is not None
    kept = torch.tensor(plan.vocabulary.kept)
    ids = torch.arange(40)[None]
    expected = AutoModelForCausalLM.from_pretrained(whole)(kept[ids]).logits[..., kept]
    assert torch.equal(teacher(ids).logits, expected)
    (tmp_path / "prompts.txt").write_text("Write a test.\nName the layers.\n")
    healed = layercut.heal(
        small, teacher=whole, prompts=tmp_path / "prompts.txt", objective=objective, max_steps=2, finished_only=False,
        held_out=0.0, max_new_tokens=8, device="cpu", out=tmp_path / "healed",
    )  # fmt: skip
    (entry,) = json.loads((healed / "plan.json").read_text())["healing"]
    assert entry["vocabulary"] == plan.vocabulary.key and entry["steps"] == 2
