"""The model card of a healed checkpoint: the card of the cut, and how the model was trained afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layercut.text.markup import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

UNTRAINED = "Nothing was trained after the cut."
"""What the card of a pruned model says."""


def healed_card(cut_card: str, healing: Mapping[str, Any]) -> str:
    """README.md of a healed checkpoint.

    Args:
        cut_card: README.md of the pruned checkpoint; its front matter and facts stay. Empty where there is none.
        healing: the entry of plan.json.
    """
    text = cut_card.replace(UNTRAINED, "Healed after the cut: see below.").rstrip()
    if not text:
        text = "---\nlibrary_name: transformers\ntags: [layercut, depth-pruning]\n---\n\n# Healed model"
    rows = [(name.replace("_", " "), _shown(value)) for name, value in healing.items() if value not in (None, [], {})]
    table = ["| | |", "|---|---|", *(f"| {escape(name)} | {escape(value)} |" for name, value in rows)]
    return "\n".join([text, "", "## Healing", "", *table, ""])


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items() if part not in (None, [], ()))
    if isinstance(value, list | tuple):
        return "; ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
