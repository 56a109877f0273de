"""Memory of a training step by formula, and gradient checkpointing where a step would not fit into free memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.healing import outline
from layercut.healing.outline import OF_A_STEP, ProcessGroup, training_parts, within_memory
from layercut.healing.settings import TrainSettings
from layercut.settings import ModelSettings
from tests.support.healing import tiny_data
from tests.support.tiny import save_tiny

DATA = tiny_data(16)
Free = Callable[[int], None]
SMOLLM2 = ModelSettings(model="bundled:smollm2-135m", dtype="float32", device="cpu")


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Sets the free memory, in bytes."""

    def are_free(count: int) -> None:
        monkeypatch.setattr(outline.psutil, "virtual_memory", lambda: SimpleNamespace(available=count))

    return are_free


@pytest.fixture
def model(tmp_path: Path) -> ModelHandle:
    return ModelHandle(ModelSettings(model=str(save_tiny("llama", tmp_path / "tiny")), dtype="float32", device="cpu"))


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


def test_checkpointing_is_on_where_a_step_would_not_fit(free: Free, model: ModelHandle) -> None:
    examples = (*DATA.train, *DATA.held_out)
    longest = {
        "num_tokens": max(map(len, examples)), "num_in_loss": max(len(one.completion) for one in examples)
    }  # fmt: skip

    def takes(**more: Any) -> int:
        parts = training_parts(model, model, settings(**more), **longest)
        return sum(parts[name] for name in OF_A_STEP)

    def decided(count: int, **more: Any) -> tuple[str, list[str]]:
        free(count)
        said: list[str] = []
        train = within_memory(model, model, settings(**more), DATA, said.append)
        assert train.replace(gradient_checkpointing="auto") == settings(**more).replace(gradient_checkpointing="auto")
        return train.gradient_checkpointing, said

    off, on = takes(gradient_checkpointing="off"), takes(gradient_checkpointing="on")
    assert on < off
    assert decided(off) == ("auto", [])
    setting, said = decided(off - 1)
    assert setting == "on" and len(said) == 1 and "gradient checkpointing is on" in said[0]
    setting, said = decided(on - 1)
    assert setting == "on" and len(said) == 2 and "give micro_batch 1" in said[1]
    assert decided(off - 1, gradient_checkpointing="off")[0] == "off"
    setting, (line,) = decided(1, gradient_checkpointing="off", micro_batch=1)
    assert line.endswith("give gradient_checkpointing on")


def test_answers_of_its_own_count_with_their_limit(
    free: Free, model: ModelHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def counted(cut: Any, teacher: Any, train: Any, *, num_tokens: int, num_in_loss: int) -> dict[str, int]:
        seen.append((num_tokens, num_in_loss))
        return dict.fromkeys(OF_A_STEP, 0)

    free(1)
    monkeypatch.setattr(outline, "training_parts", counted)
    given = max(len(one.completion) for one in (*DATA.train, *DATA.held_out))
    for most in (2, 64):
        train = TrainSettings(objective="on-policy", rollout_max=most)
        within_memory(model, model, train, DATA, lambda text: None)
    assert [in_loss for _, in_loss in dict.fromkeys(seen)] == [given, 64] and seen[-1][0] - seen[0][0] >= 64 - given


def test_a_container_may_have_less_than_the_machine(
    free: Free, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(1000)
    monkeypatch.setattr(outline, "CGROUP", tmp_path)
    assert outline.free_memory() == 1000, "no container"
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    for limit, expected in (("max\n", 1000), ("900\n", 350), ("9000\n", 1000)):
        (tmp_path / "memory.max").write_text(limit)
        assert outline.free_memory() == expected


def test_without_a_launcher_one_is_alone() -> None:
    alone = ProcessGroup.of_this_process({})
    assert alone == ProcessGroup(0, 1)
    assert alone.share({"told": 1}) == {"told": 1}
    alone.leave()
    assert ProcessGroup.of_this_process({"RANK": "3", "WORLD_SIZE": "4"}) == (3, 4)


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [(8, 4, 1, (4, 2)), (8, 4, 2, (4, 1)), (8, 2, 2, (2, 2)), (8, 4, 8, (1, 1)), (64, 4, 8, (4, 2)), (2, 4, 1, (2, 1))],
)
def test_a_step_has_the_same_examples_whoever_trains(
    batch: int, micro: int, processes: int, expected: tuple[int, int]
) -> None:
    found = TrainSettings(batch_size=batch, micro_batch=micro).batches(processes)
    assert found == expected


def test_a_batch_that_cannot_be_spread_is_refused() -> None:
    with pytest.raises(InputError, match="micro_batch 2 .* 3 processes"):
        TrainSettings(batch_size=8, micro_batch=4).batches(3)
    with pytest.raises(InputError, match="micro_batch 1 .* 4 processes"):
        TrainSettings(batch_size=2).batches(4)
