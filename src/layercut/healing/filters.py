"""Which answers are learnt from: rules that drop records, each with the number it dropped. Files are never changed."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from layercut.errors import InputError

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """What has to hold of an answer. The paper (arXiv:2602.01997) drops by length alone."""

    max_tokens: int | None = 8000
    """Longest answer, in tokens."""
    finished_only: bool = True
    """Drop answers that ran into the length limit: they would teach the model not to stop."""
    right_only: bool = False
    """Drop answers that the task's grader did not find right."""
    min_latin_share: float = 0.0
    """Smallest share of Latin letters among the letters of prompt and answer; 0 takes every script."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_latin_share <= 1:
            raise InputError(f"min_latin_share {self.min_latin_share} is no share; write a number from 0 to 1.")


class Filtered(NamedTuple):
    """What is left, and why the others went."""

    records: list[Record]
    dropped: dict[str, int]
    """Number of records by the first rule that dropped them; rules that dropped none are there with 0."""

    def describe(self) -> str:
        """One line for people."""
        gone = ", ".join(f"{count} {rule}" for rule, count in self.dropped.items() if count) or "none dropped"
        return f"{len(self.records)} of {len(self.records) + sum(self.dropped.values())} answers kept ({gone})"


def filter_responses(records: Sequence[Record], settings: FilterSettings) -> Filtered:
    """Apply the rules in this order: empty, unfinished, too long, wrong, other script, repeated.

    *Repeated* is a record whose prompt is that of an earlier one, but for case and white space.

    Raises:
        InputError: ``right_only`` and records that nobody graded.
    """
    if settings.right_only and any("right" not in record for record in records):
        raise InputError(
            "these answers were not graded, so the right ones cannot be told; take prompts of a task (task:NAME), or "
            "leave out --right-only."
        )
    dropped = dict.fromkeys(("empty", "unfinished", "too long", "wrong", "other script", "repeated"), 0)
    kept: list[Record] = []
    seen: set[str] = set()
    for record in records:
        reason = _reason(record, settings)
        key = " ".join(prompt_text(record).split()).casefold()
        if reason is None and key in seen:
            reason = "repeated"
        if reason is None:
            seen.add(key)
            kept.append(record)
        else:
            dropped[reason] += 1
    return Filtered(kept, dropped)


def prompt_text(record: Record) -> str:
    """All that a record's prompt says, turns one below the other."""
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def latin_share(text: str) -> float:
    """Share of Latin letters among the letters; 1 for a text without letters.

    >>> latin_share("abc где 12"), latin_share("12 + 3")
    (0.5, 1.0)
    """
    letters = [character for character in text if character.isalpha()]
    return sum(map(_is_latin, letters)) / len(letters) if letters else 1.0


def _is_latin(character: str) -> bool:
    return character.isascii() or unicodedata.name(character, "").startswith("LATIN")


def _reason(record: Record, settings: FilterSettings) -> str | None:
    return next(_reasons(record, settings), None)


def _reasons(record: Record, settings: FilterSettings) -> Iterator[str]:
    if not record["completion"].strip():
        yield "empty"
    if settings.finished_only and record.get("finish_reason") == "length":
        yield "unfinished"
    if settings.max_tokens is not None and record.get("num_new_tokens", 0) > settings.max_tokens:
        yield "too long"
    if settings.right_only and not record["right"]:
        yield "wrong"
    if settings.min_latin_share and latin_share(prompt_text(record) + record["completion"]) < settings.min_latin_share:
        yield "other script"
