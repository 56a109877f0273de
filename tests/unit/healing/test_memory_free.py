"""Gradient checkpointing where a training step would not fit into free memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("trl", reason="healing by training needs layercut[heal]")
pytest.importorskip("peft", reason="healing by training needs layercut[heal]")

from layercut.healing import memory
from layercut.healing.memory import OF_A_STEP, Longest, training_parts, within_memory
from layercut.healing.settings import TrainSettings
from tests.support.healing import tiny_data
from tests.unit.healing.test_pair import models, settings

DATA = tiny_data(16)
Free = Callable[[int], None]


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Free:
    """Sets the free memory, in bytes."""

    def are_free(count: int) -> None:
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=count))

    return are_free


def test_checkpointing_is_on_where_a_step_would_not_fit(
    free: Free, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned, teacher = models(tmp_path)
    examples = (*DATA.train, *DATA.held_out)
    longest = Longest(
        max(len(one.prompt) + len(one.completion) for one in examples), max(len(one.completion) for one in examples)
    )

    def takes(**more: Any) -> int:
        parts = training_parts(pruned, teacher, settings(**more), longest)
        return sum(parts[name] for name in OF_A_STEP)

    def decided(count: int, **more: Any) -> tuple[str, list[str]]:
        free(count)
        said: list[str] = []
        found = within_memory(pruned, teacher, settings(**more), DATA, said.append)
        assert found.replace(gradient_checkpointing="auto") == settings(**more).replace(gradient_checkpointing="auto")
        return found.gradient_checkpointing, said

    off, on = takes(gradient_checkpointing="off"), takes(gradient_checkpointing="on")
    assert on < off
    assert decided(off) == ("auto", [])
    setting, said = decided(off - 1)
    assert setting == "on" and len(said) == 1 and "gradient checkpointing is on" in said[0]
    setting, said = decided(on - 1)
    assert setting == "on" and len(said) == 2 and "give micro_batch 1" in said[1]
    assert decided(off - 1, gradient_checkpointing="off")[0] == "off"
    setting, said = decided(off - 1, gradient_checkpointing="off", micro_batch=1, batch_size=1)
    assert setting == "off" and not said, "one example at a time takes less"
    setting, (line,) = decided(1, gradient_checkpointing="off", micro_batch=1)
    assert line.endswith("give gradient_checkpointing on")

    # With ample memory nothing is counted, which takes seconds for a large model.
    monkeypatch.setattr(memory, "training_parts", None)
    assert decided(10**12) == ("auto", [])


def test_answers_of_its_own_count_with_their_limit(free: Free, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Longest] = []

    def counted(cut: Any, teacher: Any, train: Any, longest: Longest) -> dict[str, int]:
        seen.append(longest)
        return dict.fromkeys(OF_A_STEP, 0)

    free(1)
    monkeypatch.setattr(memory, "training_parts", counted)
    given = max(len(one.completion) for one in (*DATA.train, *DATA.held_out))
    for most in (2, 64):
        train = TrainSettings(objective="on-policy", rollout_max=most, rollout_start=2)
        within_memory(*models(tmp_path), train, DATA, lambda text: None)
    assert [one.in_loss for one in seen] == [given, 64] and seen[1].tokens - seen[0].tokens >= 64 - given


def test_a_container_may_have_less_than_the_machine(
    free: Free, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(1000)
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_memory() == 1000, "no container"
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    for limit, expected in (("max\n", 1000), ("900\n", 350), ("9000\n", 1000)):
        (tmp_path / "memory.max").write_text(limit)
        assert memory.free_memory() == expected
