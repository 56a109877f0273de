"""Optimizers on bfloat16 weights against the float32 ones, and through a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Adafactor

from layercut.errors import InputError
from layercut.healing import optimizers
from layercut.healing.optimizers import Rounded, RoundedAdafactor, RoundedAdamW, optimizer_of
from layercut.healing.settings import TrainSettings


def weights_of(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """A matrix and a vector whose numbers bfloat16 represents."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).bfloat16() for shape in ((500, 240), (240,))]
    return [torch.nn.Parameter(one.to(dtype)) for one in made]


def train(weights: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> None:
    """Gradients that depend on the step alone, and that bfloat16 represents."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for weight in weights:
            drawn = torch.randn(weight.shape, generator=generator) + 0.3
            weight.grad = drawn.bfloat16().to(weight.dtype)
        optimizer.step()


def made(kind: str, weights: list[torch.nn.Parameter], **more: Any) -> torch.optim.Optimizer:
    shared = {"lr": 1e-4, "weight_decay": 0.01} | more
    fixed = {"scale_parameter": False, "relative_step": False}
    if weights[0].dtype == torch.float32:
        if kind == "adamw":
            return torch.optim.AdamW(weights, betas=(0.9, 0.99), **shared)
        return Adafactor(weights, **shared, **fixed)
    if kind == "adamw":
        return RoundedAdamW(weights, betas=(0.9, 0.99), seed=7, **shared)
    return RoundedAdafactor(weights, seed=7, **shared, **fixed)


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_updates_that_the_nearest_rounding_would_undo_survive_in_the_mean(kind: str) -> None:
    """Steps of 1e-4 on weights of about 1, where bfloat16's spacing is 8e-3."""
    exact, rounded = weights_of(torch.float32), weights_of(torch.bfloat16)
    before = [weight.detach().clone() for weight in exact]
    train(exact, made(kind, exact), range(40))
    train(rounded, made(kind, rounded), range(40))
    moved, likewise = ((matrix[0].float() - before[0]).mean().item() for matrix in (exact, rounded))
    assert moved < -1e-3 and likewise == pytest.approx(moved, rel=0.1)
    assert (rounded[0].float() - exact[0]).abs().mean() < 2.0**-7
    nearest = weights_of(torch.bfloat16)
    train(nearest, torch.optim.AdamW(nearest, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.01), range(40))
    lost = (nearest[0].float() - before[0]).mean().abs().item()
    assert lost < 0.5 * (exact[0] - before[0]).mean().abs().item()


@pytest.mark.parametrize("chunk", [2**24, 1000])
def test_one_step_of_adamw_is_torchs_up_to_one_rounding(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers, "CHUNK_SIZE", chunk)
    exact, rounded = weights_of(torch.float32), weights_of(torch.bfloat16)
    for weights in (exact, rounded):
        train(weights, made("adamw", weights, lr=0.05), range(1))
    for wanted, found in zip(exact, rounded, strict=True):
        assert ((found.float() - wanted).abs() <= 2.0**-7 * wanted.abs() + 1e-30).all()


@pytest.mark.parametrize("kind", ["adamw", "adafactor"])
def test_a_resumed_optimizer_goes_on_bit_by_bit(kind: str, tmp_path: Path) -> None:
    whole = weights_of(torch.bfloat16)
    train(whole, made(kind, whole), range(6))
    stopped = weights_of(torch.bfloat16)
    optimizer = made(kind, stopped)
    train(stopped, optimizer, range(4))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = made(kind, stopped)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    kept = {value.dtype for state in resumed.state.values() for value in state.values() if torch.is_tensor(value)}
    assert kept == {torch.bfloat16 if kind == "adamw" else torch.float32}
    train(stopped, resumed, range(4, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, stopped, strict=True))


def test_settings_name_the_optimizer() -> None:
    def named(**more: Any) -> Any:
        found = optimizer_of(TrainSettings(method="full", **more))
        return found and found[0]

    assert named() is None, "the Trainer's own AdamW, as before"
    assert named(weights="bfloat16") is RoundedAdamW
    assert named(optimizer="adafactor") is None, "the Trainer's own"
    assert named(optimizer="adafactor", weights="bfloat16") is RoundedAdafactor
    found = optimizer_of(TrainSettings(method="full", weights="bfloat16", beta2=0.95, seed=3))
    assert found is not None and issubclass(found[0], Rounded)
    assert found[1] == {"lr": 1e-5, "weight_decay": 1e-4, "betas": (0.9, 0.95), "seed": 3}


def test_a_dtype_of_weights_that_are_not_trained_is_refused() -> None:
    with pytest.raises(InputError, match="lora trains no"):
        TrainSettings(weights="bfloat16")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"optimizer": "adam"}, "Did you mean adamw"),
        ({"method": "full", "weights": "bfloat16", "precision": "float32"}, "leave out `precision`"),
        ({"gradient_checkpointing": "of"}, "Did you mean off"),
    ],
)
def test_settings_of_memory_that_cannot_be_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TrainSettings(**wrong)
