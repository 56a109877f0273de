"""The record of one healing: an entry of ``healing`` in plan.json, and the model card that shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from layercut.runs.healing import healing_lines
from layercut.surgery.cut import UNMEASURED
from layercut.text.markup import escape, escaped, table

UNTRAINED = "Nothing was trained after the cut."  # a line in the card of a pruned model


@dataclass(frozen=True, kw_only=True)
class HealingRecord:
    """One healing; what is None does not apply and is left out of plan.json."""

    method: str
    objective: str
    removed: Sequence[int]
    channels: str | None = None
    vocabulary: str | None = None
    tied: bool | None = None
    responses: str
    tokens_matched: bool
    teacher: str
    teacher_hash: str
    cut_hash: str
    cut_from: Mapping[str, Any] | None = None  # where the teacher is another model than the one that was cut
    data_hash: str
    num_examples: int
    num_held_out: int
    loss_tokens: int | None = None
    answers: int | None = None
    dropped: Mapping[str, int] | None = None
    contaminated: int
    too_long_with_prompt: int
    selection_items: Mapping[str, Any]
    # What the repair or the training adds:
    seams: Sequence[str] | None = None
    seam_map: str | None = None
    settings: Mapping[str, Any] | None = None
    steps: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    stopped_early: bool | None = None
    looks: Sequence[Mapping[str, float]] | None = None
    held_out_loss: Mapping[str, float] | None = None
    answer_tokens: int | None = None
    mark: int | None = None
    # What writing the checkpoint adds:
    checked: Sequence[str] = ()
    written: Mapping[str, Any] | None = None
    loss_curve: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return {name: value for name, value in asdict(self).items() if value is not None}


_IN_LINES = {"held_out_loss", "looks", "loss_tokens", "num_examples", "seams", "checked", "written"}
"""Keys that the card shows in lines, and not in its table."""


def healed_card(cut_card: str, entry: Mapping[str, Any]) -> str:
    """README.md of a healed checkpoint.

    Args:
        cut_card: README.md of the pruned checkpoint, whose text stays; empty where there is none.
        entry: of ``healing`` in plan.json.
    """
    text = cut_card.replace(UNTRAINED, "Healed after the cut: see below.").rstrip()
    if not text:
        front = "---\nlibrary_name: transformers\ntags: [layercut, depth-pruning]\n---"
        text = f"{front}\n\n# Healed model\n\n{UNMEASURED}"
    rows = [
        (name.replace("_", " "), _shown(value))
        for name, value in entry.items()
        if value not in (None, [], {}) and name not in _IN_LINES
    ]
    lines = [*(f"- {escaped(line)}" for line in healing_lines(entry)), ""]
    lines += table(["", ""], ((escape(name), escape(value)) for name, value in rows))
    return "\n".join([text, "", "## Healing", "", *lines, ""])


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "ids" in value:  # of items: their number
        return _shown(value["num_items"])
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items() if part not in (None, [], ()))
    if isinstance(value, list | tuple):
        return "; ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
