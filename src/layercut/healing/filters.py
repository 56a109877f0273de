"""Filters of training data: rules that drop answers, and how many each rule dropped. Files are never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

from pydantic import Field, model_validator

from layercut.base_settings import Names, Settings, Share
from layercut.errors import InputError
from layercut.healing.languages import check_languages, is_in_another
from layercut.healing.near_duplicates import SeenTexts
from layercut.text.counting import counted

Record = Mapping[str, Any]


class FilterSettings(Settings):
    """Rules that an answer must meet. The paper (arXiv:2602.01997) filters by length alone."""

    max_tokens: int | None = Field(8000, ge=1, description="Most tokens of prompt and answer together.")
    min_tokens: int = Field(0, ge=0, description="Fewest tokens of an answer.")
    finished_only: bool = Field(
        True, description="Drop answers that ran into the length limit: they would teach the model not to stop."
    )
    right_only: bool = Field(
        False, description="Drop answers that the task's grader finds wrong; answers that nothing grades stay."
    )
    languages: Names = Field(
        (),
        description="Languages (ISO 639: en, de) of prompts and answers; texts in others are dropped. All if left out.",
    )
    dedup_prompts: Share = Field(
        1.0,
        gt=0,
        le=1,
        description="Drop prompts this similar to an earlier one (Jaccard of word 5-grams, such as 0.8); 1: equal but "
        "for case and spacing.",
    )
    dedup_answers: Share | None = Field(
        None, gt=0, le=1, description="Drop answers this similar to an earlier one; none if left out."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.max_tokens is not None and self.max_tokens < self.min_tokens:
            raise InputError(f"max_tokens {self.max_tokens} removes every answer; write a larger number.")
        return self

    def check(self) -> None:
        """Raise InputError or MissingExtra now for what would fail after hours of answering."""
        if self.languages:
            check_languages(self.languages)
        SeenTexts(min(self.dedup_prompts, self.dedup_answers or 1))


class Filtered(NamedTuple):
    """The kept records, and why others were dropped."""

    records: list[Record]
    dropped: dict[str, int]
    """Number of records by the first rule that dropped them, 0 for the other rules."""

    def describe(self) -> str:
        gone = ", ".join(f"{count} {rule}" for rule, count in self.dropped.items() if count) or "none dropped"
        total = len(self.records) + sum(self.dropped.values())
        text = f"{len(self.records)} of {counted(total, 'answer')} kept ({gone})"
        if self.dropped["unfinished"]:
            return (
                f"{text}; unfinished ones reached `max_new_tokens`: raise it, or keep them with `finished_only=false`"
            )
        return text


RULES = (
    "empty", "unfinished", "too long", "too short", "wrong", "in another language", "with a repeated prompt",
    "with a repeated answer",
)  # fmt: skip
"""Why a record is dropped, in the order in which the rules are applied."""


def filter_responses(records: Sequence[Record], settings: FilterSettings) -> Filtered:
    """Apply the rules, in the order of ``RULES``.

    A *repeated* text equals an earlier kept one, or nearly (``dedup_prompts``, ``dedup_answers``). System messages are
    not compared, nor are a task's items (``task``): they differ by construction, and share worked examples on purpose.

    Raises:
        InputError: ``right_only`` and records of which none was graded, or an unknown language.
        MissingExtra: a rule needs a library that is not installed.
    """
    settings.check()
    if settings.right_only and not any("right" in record for record in records):
        raise InputError(
            "none of these answers was graded, so the right ones cannot be selected; use prompts of a task "
            "(task:NAME), or leave out `right_only`."
        )
    dropped = dict.fromkeys(RULES, 0)
    kept: list[Record] = []
    prompts = SeenTexts(settings.dedup_prompts)
    answers = None if settings.dedup_answers is None else SeenTexts(settings.dedup_answers)
    for record in records:
        asked, answer = prompt_text(record, system=False), record["completion"]
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


def prompt_text(record: Record, *, system: bool = True) -> str:
    """All turns of a record's prompt; without ``system``, except system messages, which many prompts share."""
    prompt = record["prompt"]
    if isinstance(prompt, str):
        return prompt
    return "\n".join(turn["content"] for turn in prompt if system or turn["role"] != "system")


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
    if settings.right_only and not record.get("right", True):
        yield "wrong"
    texts = (prompt_text(record, system=False), record["completion"])
    if settings.languages and any(is_in_another(text, settings.languages) for text in texts):
        yield "in another language"
