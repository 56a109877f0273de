"""Memory of a training step by formula."""

from __future__ import annotations

from typing import Any

import pytest

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing.outline import training_parts
from layercut.healing.settings import TrainSettings
from layercut.settings import ModelSettings

SMOLLM2 = ModelSettings(model="bundled:smollm2-135m", dtype="float32", device="cpu")


def settings(**more: Any) -> TrainSettings:
    return TrainSettings(**({"method": "full", "batch_size": 4, "micro_batch": 2} | more))


@pytest.mark.parametrize(
    ("more", "measured"),
    [
        ({"method": "full"}, 3.05),
        ({"method": "full", "gradient_checkpointing": "on"}, 2.54),
        ({"method": "full", "optimizer": "adafactor"}, 1.98),
        ({"method": "last-k"}, 1.69),
        ({"method": "lora"}, 2.14),
        ({"method": "lora", "objective": "forward-kl"}, 2.88),
    ],
)
def test_the_formula_is_near_what_was_measured(more: dict[str, Any], measured: float) -> None:
    """Peaks in GB of SmolLM2-135M, 2 examples of 256 tokens, half of them in the loss (docs/reference/healing.md)."""
    handle, train = ModelHandle(SMOLLM2), TrainSettings(batch_size=8, micro_batch=2, **more)
    parts = training_parts(handle, handle if train.goal.divergence else None, train, num_tokens=256, num_in_loss=128)
    assert sum(parts.values()) / 1e9 == pytest.approx(measured, rel=0.15)


def test_the_base_of_qlora_takes_four_bits_a_weight() -> None:
    handle, longest = ModelHandle(SMOLLM2), {"num_tokens": 256, "num_in_loss": 128}
    lora, qlora = (
        training_parts(handle, None, settings(method=method), **longest)["weights"] for method in ("lora", "qlora")
    )
    assert 0.3 * lora < qlora < 0.35 * lora, "of 134.5 million weights, 28.3 million are embeddings in float32"


@pytest.mark.parametrize(
    ("batch", "micro", "expected"), [(8, 4, (4, 2)), (8, 2, (2, 4)), (64, 4, (4, 16)), (2, 4, (2, 1))]
)
def test_a_step_is_accumulated_from_micro_batches(batch: int, micro: int, expected: tuple[int, int]) -> None:
    assert TrainSettings(batch_size=batch, micro_batch=micro).batches() == expected


def test_a_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(InputError, match="batch_size 8 .* micro_batch 3"):
        TrainSettings(batch_size=8, micro_batch=3).batches()
