"""Lengths of answers that are still to be given, from those that are known."""

from __future__ import annotations

from typing import Any

from layercut.healing.estimate import _mean_length
from layercut.healing.prompt_sources import PromptGroup
from layercut.healing.prompts import NamedPrompt, PromptWithAnswer


def test_the_mean_is_of_known_answers_to_the_same_prompts() -> None:
    part = PromptGroup([PromptWithAnswer(NamedPrompt(name, "say"), "") for name in ("a", "b", "c")])
    known: list[Any] = [{"id": name, "num_new_tokens": number} for name, number in (("a", 10), ("b", 30), ("x", 900))]
    assert _mean_length(part, known) == 20
    assert _mean_length(part, known[2:]) is None
