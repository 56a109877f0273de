"""Filters of training data: rules that drop answers, each with its count. Files are never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.healing.languages import check_languages, is_in_another
from layercut.healing.near_duplicates import SeenTexts
from layercut.text.counting import counted

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FilterSettings:
    """What has to hold of an answer. The paper (arXiv:2602.01997) drops by length alone."""

    max_tokens: int | None = 8000
    """Most tokens of prompt and answer together."""
    min_tokens: int = 0
    """Fewest tokens of an answer."""
    finished_only: bool = True
    """Drop answers that ran into the length limit: they would teach the model not to stop."""
    right_only: bool = False
    """Drop answers that the task's grader did not find right."""
    languages: tuple[str, ...] = ()
    """ISO 639 codes (en, de) of the languages that prompt and answer may be in, as far as they can be detected; all if
    none.
    """
    dedup_prompts: float = 1.0
    """Similarity to an earlier prompt from which on a record is dropped; 1: the same but for case and spacing."""
    dedup_answers: float | None = None
    """The same of answers, which are not compared if left out."""

    def __post_init__(self) -> None:
        for name in ("dedup_prompts", "dedup_answers"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise InputError(
                    f"{name} {value} is not a similarity; write a number above 0 and up to 1, such as 0.8."
                )
        if self.max_tokens is not None and self.max_tokens < max(1, self.min_tokens):
            raise InputError(f"max_tokens {self.max_tokens} removes every answer; write a larger number.")

    def check(self) -> None:
        """Whatever would fail after an hour of answering fails now.

        Raises:
            InputError: an unknown language.
            MissingExtra: what a rule needs is not installed.
        """
        if self.languages:
            check_languages(self.languages)
        SeenTexts(min(self.dedup_prompts, self.dedup_answers or 1))


class Filtered(NamedTuple):
    """What is left, and why the others went."""

    records: list[Record]
    dropped: dict[str, int]
    """Number of records by the first rule that dropped them; rules that dropped none are there with 0."""

    def describe(self) -> str:
        """One line for people."""
        gone = ", ".join(f"{count} {rule}" for rule, count in self.dropped.items() if count) or "none dropped"
        total = len(self.records) + sum(self.dropped.values())
        text = f"{len(self.records)} of {counted(total, 'answer')} kept ({gone})"
        if self.dropped["unfinished"]:
            return f"{text}; unfinished ones reached --max-new-tokens: raise it, or keep them with --keep-unfinished"
        return text


RULES = (
    "empty",
    "unfinished",
    "too long",
    "too short",
    "wrong",
    "in another language",
    "with a repeated prompt",
    "with a repeated answer",
)
"""Why a record is dropped, in the order in which the rules are asked."""


def filter_responses(records: Sequence[Record], settings: FilterSettings) -> Filtered:
    """Apply the rules, in the order of ``RULES``.

    *Repeated* is what says the same as an earlier record that was kept, or almost (``dedup_prompts``,
    ``dedup_answers``). System messages are not compared, nor are the items of a task (``task``): they differ by
    construction, and share what the task shares on purpose, such as worked examples.

    Raises:
        InputError: ``right_only`` and records that nobody graded, or an unknown language.
        MissingExtra: what a rule needs is not installed.
    """
    settings.check()
    if settings.right_only and any("right" not in record for record in records):
        raise InputError(
            "these answers were not graded, so the right ones cannot be selected; use prompts of a task (task:NAME), "
            "or leave out --right-only."
        )
    dropped = dict.fromkeys(RULES, 0)
    kept: list[Record] = []
    prompts = SeenTexts(settings.dedup_prompts)
    answers = None if settings.dedup_answers is None else SeenTexts(settings.dedup_answers)
    for record in records:
        asked, answer = question_text(record), record["completion"]
        reason = next(_reasons(record, settings), None)
        if reason is None and "task" not in record:
            if prompts.has(asked):
                reason = "with a repeated prompt"
            elif answers and answers.has(answer):
                reason = "with a repeated answer"
            else:
                prompts.add(asked)
                if answers:
                    answers.add(answer)
        if reason is None:
            kept.append(record)
        else:
            dropped[reason] += 1
    return Filtered(kept, dropped)


def prompt_text(record: Record) -> str:
    """All that a record's prompt says, turns one below the other."""
    prompt = record["prompt"]
    return prompt if isinstance(prompt, str) else "\n".join(turn["content"] for turn in prompt)


def question_text(record: Record) -> str:
    """All that a record's prompt says, but for system messages, which many prompts share."""
    prompt = record["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if turn["role"] != "system")


def _reasons(record: Record, settings: FilterSettings) -> Iterator[str]:
    asked, shared = record.get("num_prompt_tokens", 0), record.get("num_new_tokens", 0)
    if not record["completion"].strip():
        yield "empty"
    if settings.finished_only and record.get("finish_reason") == "length":
        yield "unfinished"
    if settings.max_tokens is not None and asked + shared > settings.max_tokens:
        yield "too long"
    if shared < settings.min_tokens:
        yield "too short"
    if settings.right_only and not record["right"]:
        yield "wrong"
    texts = (question_text(record), record["completion"])
    if settings.languages and any(is_in_another(text, settings.languages) for text in texts):
        yield "in another language"
