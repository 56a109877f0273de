"""The record of a healing: its place in a run folder, its keys, and its lines in the terminal, card and report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.runs.directory import RunFolder, is_run_folder
from layercut.runs.environment import shown_path
from layercut.runs.settings import read_json_or_refuse
from layercut.text import count_of

HEAL = "heal"  # key in the settings of a run of heal
CHECKPOINT, PLAN = "checkpoint", "plan.json"

ON_POLICY = "on-policy"
"""The objective whose answers the pruned model writes while it is trained; those of the data are its held-out ones."""


def is_healing(folder: Path) -> bool:
    """Return True for the folder of ``layercut heal``, finished or not."""
    return is_run_folder(folder) and isinstance(RunFolder.open(folder).settings.get(HEAL), Mapping)


def healings_in(folder: Path) -> list[Path]:
    """Run folders of the finished healings of a study or prune whose checkpoints are on disk."""
    places = ("*/heal-*", "healing/*/*")
    files = [file for place in places for file in folder.glob(f"{place}/{CHECKPOINT}/{PLAN}")]
    return sorted(file.parent.parent for file in files if is_healing(file.parent.parent))


def healing_entries_of(run: RunFolder) -> list[dict[str, Any]]:
    """An entry for each healing of a run's checkpoint, the last one by this run.

    Raises:
        InputError: the healing has not ended.
    """
    file = run.path / CHECKPOINT / PLAN
    if not file.is_file():
        raise InputError(
            f"{shown_path(run.path)} holds no healed checkpoint yet; run its command again, which goes on."
        )
    entries: list[dict[str, Any]] = read_json_or_refuse(file, f"{shown_path(file)} cannot be read")["healing"]
    return entries


def healing_lines(entry: Mapping[str, Any]) -> list[str]:
    """The training data, what came of it and what was checked, of an entry of ``healing`` in plan.json."""
    lines = [_trained_on(entry)]
    losses, name = entry.get("held_out_loss", {}), held_out_name(entry)
    if "best" in losses:
        before = f"{held_out_value(entry, losses['before'])} before training, " if "before" in losses else ""
        lines.append(f"{name}: {before}{held_out_value(entry, losses['best'])} at its best")
    lines += entry.get("seams", [])
    return [*lines, *(f"checked: {text}" for text in entry["checked"])]


def _trained_on(entry: Mapping[str, Any]) -> str:
    if is_graded(entry):
        prompts = count_of(entry["num_examples"], "prompt")
        return f"trained on graded answers to {prompts}, {entry['settings']['group']} to each at a time"
    if entry["objective"] == ON_POLICY:
        return f"trained on the pruned model's own answers to {count_of(entry['num_examples'], 'prompt')}"
    trained = count_of(entry["num_examples"], "answer")
    return f"trained on {trained}, {count_of(entry['loss_tokens'], 'answer token')}"


def is_graded(entry: Mapping[str, Any]) -> bool:
    """Return True where training minimised wrong answers, not a loss of tokens."""
    return bool(entry["objective"] == "grpo")


def held_out_name(entry: Mapping[str, Any]) -> str:
    """Name of ``held_out_loss`` for people."""
    return "held-out questions answered wrong" if is_graded(entry) else "held-out loss"


def held_out_value(entry: Mapping[str, Any], value: float) -> str:
    """A value of ``held_out_loss`` for people."""
    return f"{value:.1%}" if is_graded(entry) else f"{value:.4f}"
