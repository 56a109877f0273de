"""The report of a healing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from layercut.errors import InputError
from layercut.report.reports import write_reports
from layercut.runs.directory import RunFolder
from layercut.runs.healing import is_healing


def entry(**more: Any) -> dict[str, Any]:
    return {
        "method": "lora", "objective": "sft", "removed": [3, 4, 5], "responses": "self", "teacher": "some/model",
        "num_examples": 90, "num_held_out": 10, "loss_tokens": 351, "dropped": {"unfinished": 4}, "contaminated": 2,
        "too_long_with_prompt": 0, "checked": ["written in float32"], "settings": {"seed": 42}, **more,
    }  # fmt: skip


def trained(**more: Any) -> dict[str, Any]:
    losses = {"before": 2.0, "last": 1.5, "best": 1.25}
    return entry(held_out_loss=losses, steps=200, tokens=9_000, seconds=3.5, loss_curve="healing_loss.jsonl", **more)


def curve() -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"step": 0, "held_out_loss": 2.0}]
    lines += [{"step": step, "loss": 2 - step / 200} for step in range(1, 201)]
    return [*lines, {"step": 200, "held_out_loss": 1.25}]


def healed(tmp_path: Path, entries: list[dict[str, Any]], lines: list[dict[str, Any]], **settings: Any) -> Path:
    with RunFolder.begin(tmp_path / "run", {"heal": {"train": {}}, "cut": {"model": "cut-3"}, **settings}) as run:
        (run.path / "checkpoint").mkdir()
        (run.path / "checkpoint" / "plan.json").write_text(json.dumps({"healing": entries}))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.path / "checkpoint" / "healing_loss.jsonl").write_text(text)
    return tmp_path / "run"


def test_on_policy_training_is_not_said_to_learn_from_the_answers_of_the_data(tmp_path: Path) -> None:
    text = write_reports(healed(tmp_path, [trained(objective="on-policy")], curve()))["report"].read_text()
    assert "lora, on-policy, " in text
    assert " 90 prompts\n" in text
    facts = dict(row[:2] for row in rows(text, "Method and training data"))
    assert (
        facts["trained on"] == "90 prompts" and facts["held out"] == "10 answers" and "tokens in the loss" not in facts
    )


def rows(text: str, heading: str) -> list[list[str]]:
    part = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in part.splitlines() if line.startswith("|")]


def test_a_training_is_shown_with_its_losses_over_the_steps(tmp_path: Path) -> None:
    folder = healed(tmp_path, [trained()], curve())
    written = write_reports(folder)
    text = written["report"].read_text()
    assert text.startswith("# Healing of cut-3\n\n## Method and training data\n\nLayers 3-5 removed; lora, sft, ")
    assert "2.0000 before training, 1.2500 at its best" in text
    assert rows(text, "While it trained") == [
        ["step", "held-out loss, n=10"],
        ["---:", "---:"],
        ["0", "2.0000"],
        ["200", "1.2500"],
    ]
    assert ["left out", "unfinished 4, hold report items 2"] in rows(text, "Method and training data")
    assert "## Rounds" not in text
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    before = written["report"].read_bytes()
    assert write_reports(folder)["report"].read_bytes() == before


def test_graded_answers_are_shown_as_shares_and_not_as_a_loss(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 0, "held_out_loss": 0.9}, {"step": 1, "loss": 0.01, "reward": 0.25}]
    made = trained(objective="grpo", responses="own") | {
        "settings": {"group": 8},
        "held_out_loss": {"before": 0.9, "best": 0.6},
    }
    del made["loss_tokens"]
    text = write_reports(healed(tmp_path, [made], [*lines, {"step": 1, "held_out_loss": 0.6}]))["report"].read_text()
    assert "90 prompts, 8 to each" in text
    assert "90.0% before training, 60.0% at its best" in text
    assert rows(text, "While it trained") == [
        ["step", "held out, n=10"], ["---:", "---:"], ["0", "10 [2, 40]"], ["1", "40 [17, 69]"],
    ]  # fmt: skip
    assert ["trained on", "90 prompts"] in rows(text, "Method and training data") and "nats" not in text


def test_a_seam_has_no_plot_and_no_steps(tmp_path: Path) -> None:
    folder = healed(tmp_path, [entry(method="seam", seams=["seam of layers 3-5: the linear map"])], [])
    text = write_reports(folder)["report"].read_text()
    assert "seam, on the original model's own answers" in text and "- seam of layers 3-5: the linear map" in text
    assert "## While it trained" not in text and not (folder / "report.png").exists()


def test_a_healing_that_has_not_ended_says_what_to_do(tmp_path: Path) -> None:
    with RunFolder.begin(tmp_path / "run", {"heal": {"train": {}}}):
        pass
    with pytest.raises(InputError, match="holds no healed checkpoint yet; run its command again"):
        write_reports(tmp_path / "run")


def test_prune_has_a_setting_of_the_same_name_and_is_no_healing(tmp_path: Path) -> None:
    with RunFolder.begin(tmp_path / "run", {"heal": "auto"}):
        pass
    assert not is_healing(tmp_path / "run") and not is_healing(tmp_path)
