"""The record of a healing: its place in a run folder, its keys, and its lines in the terminal and the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layercut.text import count_of

CHECKPOINT = "checkpoint"  # folder in that of a run

ON_POLICY = "on-policy"
"""The objective whose answers the pruned model writes while it is trained; those of the data are its held-out ones."""


def healing_lines(entry: Mapping[str, Any]) -> list[str]:
    """The training data, what came of it and what was checked, of an entry of ``healing`` in plan.json."""
    lines = [_trained_on(entry)]
    losses = entry.get("held_out_loss", {})
    name = "held-out questions answered wrong" if is_graded(entry) else "held-out loss"
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
    return bool(entry.get("graded", "loss_tokens" not in entry))  # records of layercut 0.3 lack it


def held_out_value(entry: Mapping[str, Any], value: float) -> str:
    """A value of ``held_out_loss`` for people."""
    return f"{value:.1%}" if is_graded(entry) else f"{value:.4f}"
