"""What select and sweep say of themselves before they run, beside what they then ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.selection.select import count_greedy_plans
from tests.unit.cli.conftest import Run, layercut, tiny  # noqa: F401 - fixtures

TASKS = ("--objective", "arithmetic,copy", "--limit", "3")


def dry(layercut: Run, *words: object) -> dict[str, Any]:  # noqa: F811
    ran = layercut(*words, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


def answers(folder: Path) -> int:
    """Answers that a search or sweep kept."""
    files = (folder / "samples").glob("*.jsonl")
    return sum(len(file.read_text("utf-8").splitlines()) for file in files)


def test_plans_of_a_greedy_search() -> None:
    assert count_greedy_plans(5, 1) == 5 and count_greedy_plans(5, 2) == 9 and count_greedy_plans(29, 5) == 135


def test_a_search_counts_its_plans_items_and_held_out_items(layercut: Run, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    words = ("select", tiny, "--criterion", "task_accuracy", "--remove", "2 layers", *TASKS, "--race", "off")
    said = dry(layercut, *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    search = [step for step in said["steps"] if "plans" in step["name"]]
    held_out = [step for step in said["steps"] if "held out" in step["name"]]
    assert [step["items"] for step in search] == [30, 30] and [step["items"] for step in held_out] == [6, 6]
    assert said["disk_bytes"] > 0 and said["memory_bytes"] > 2**30


@pytest.mark.parametrize(
    ("criterion", "more", "items"),
    [
        ("reverse", (), []),
        ("block_influence", (), [4, 4]),
        ("perplexity", (), [4, 12 * 4]),
        ("perplexity", ("--set", "search=one_shot"), [4, 7 * 4]),
        ("trace_damage", TASKS, [3, 18, 3, 18]),
    ],
)
def test_every_criterion_has_its_count(
    layercut: Run,  # noqa: F811
    tiny: Path,  # noqa: F811
    tmp_path: Path,
    criterion: str,
    more: tuple[object, ...],
    items: list[int],
) -> None:
    text = ("--calibration-texts", 4, "--calibration-tokens", 16)
    words = ("select", tiny, "--criterion", criterion, "--remove", "2 layers", *text, *more, "--out", tmp_path / "run")
    assert [step["items"] for step in dry(layercut, *words)["steps"]] == items
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_asks_what_it_said(layercut: Run, tiny: Path, tmp_path: Path) -> None:  # noqa: F811
    words = ("sweep", tiny, *TASKS, "--layers", "1-3", "--out", tmp_path / "run")
    said = layercut(*words, "--dry-run")
    assert said.code == 0 and not (tmp_path / "run").exists()
    assert "4 plans: 12 items" in said.out
    assert all(word in said.out for word in ("disk: ", "memory: ", "would write to"))
    assert layercut(*words).code == 0
    assert answers(tmp_path / "run") == 24
