"""A file of the user's own prompts with answers as a task: ``my.jsonl``, or ``my.jsonl:number``.

A sample row: ``{"prompt": "What is 2 + 3?", "answer": 5, "grade": "number"}``. docs/how_to/own_task.md is the how-to.
A row that cannot be used stops the reading with its line.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import regex

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.errors import InputError, one_line, unknown_name
from layercut.sandbox.isolation import Limits
from layercut.sandbox.runner import isolation_in_force
from layercut.tasks import grading
from layercut.tasks.base import Readout, Sample, Score, Split, Task, content_id
from layercut.tasks.benchmarks.boxed import last_boxed_text, same_value
from layercut.tasks.data_files import DataRow, DataSet, read_local_data
from layercut.tasks.grading import parse_number
from layercut.tasks.program_answers import NOT_PYTHON, OPENED, STOP, judge_programs, undefined_names
from layercut.tasks.selected_items import SplitNames, first_samples

Grade = Literal["exact", "number", "contains", "regex", "code", "choice"]
GRADES: tuple[Grade, ...] = get_args(Grade)
WRITTEN: tuple[Grade, ...] = ("exact", "number", "contains", "regex", "code")
"""The model writes an answer; rows of one file may mix these. Choices are ranked by likelihood."""

_ONLY_REGEX = re.compile(r"(\\N\{.*?\}|\\.)|(?<=\[)(?=\[:)|(?=\{(?!\d*,?\d*\}))", re.DOTALL)
"""[[:alpha:]] and x{e<=1}: classes and a number of errors to the regex package, characters to Python's re."""
_ROLES = ("system", "user", "assistant")


def samples_of_rows(rows: Sequence[DataRow], default: Grade | None) -> list[Sample]:
    """The samples that rows hold: ``prompt`` or ``text``, ``answer``, and what their grade needs.

    An id is made from the prompt alone, so its split does not depend on the grade. Raises InputError.
    """
    samples: list[Sample] = []
    for row in rows:
        try:
            samples.append(_sample(row, default))
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from error
    for sample in samples:
        if bool(sample.options) != bool(samples[0].options):
            raise InputError(f"{sample.data['where']}: written answers and choices need a file each ({rows[0].where}).")
    return samples


def check_grade(name: str) -> Grade:
    """A grade by its name. Raises InputError: no such grade."""
    if name not in GRADES:
        raise unknown_name("grade", name, GRADES)
    return name  # type: ignore[return-value]


def _sample(row: DataRow, default: Grade | None) -> Sample:
    """The sample of a row. Errors leave out where it stands."""
    fields = {name: value for name, value in row.fields.items() if value not in (None, "")}
    if (named := fields.get("grade", default)) is None:
        raise InputError(f"no field 'grade' ({', '.join(GRADES)}); or name it behind the file: my.jsonl:number.")
    grade = check_grade(str(named))
    prompt = _prompt(fields)
    data: dict[str, Any] = {"grade": grade, "prompt": prompt, "stop": _texts(fields, "stop"), "where": row.where}
    if grade == "code":
        data["tests"], data["names"] = _tests(fields)
    accepted = _texts(fields, "answer") or (("",) if grade == "code" else ())
    data["accepted"] = accepted
    if not accepted:
        raise InputError(f"no field 'answer', only {', '.join(fields)}. A row graded by {grade} needs the answer.")
    if grade in ("choice", "regex") and len(accepted) > 1:
        raise InputError(f"{len(accepted)} answers for the grade {grade}. Give one.")
    for answer in accepted:
        if grade == "number" and parse_number(answer.strip()) is None:
            raise InputError(f"the answer {answer!r:.60} is no number. Give digits, such as 18 or 1,234.5.")
    if grade == "regex":
        data["pattern"] = _pattern(accepted[0])
    question = prompt if isinstance(prompt, str) else prompt[0].content
    if len(prompt) > 1 and not isinstance(prompt, str):
        question = "\n\n".join(f"{turn.role}: {turn.content}" for turn in prompt)
    options = _choices(fields, accepted[0]) if grade == "choice" else ()
    return Sample(id=content_id("own", question), question=question, gold=accepted[0], options=options, data=data)


def _prompt(fields: Mapping[str, Any]) -> str | tuple[Message, ...]:
    """The conversation, or the plain text that the model goes on."""
    names = [name for name in ("prompt", "text") if name in fields]
    if len(names) != 1:
        held = "both 'prompt' and 'text'" if names else f"no field 'prompt', only {', '.join(fields) or 'empty cells'}"
        raise InputError(f"{held}. Give 'prompt' for a chat model, or 'text' that a base model goes on.")
    value, is_text = fields[names[0]], names == ["text"]
    if isinstance(value, str) and value.strip():
        return value if is_text else (Message("user", value),)
    turns = value if isinstance(value, list) and not is_text else []
    are_turns = (
        isinstance(turn, Mapping) and turn.get("role") in _ROLES and isinstance(turn.get("content"), str)
        for turn in turns
    )
    if turns and all(are_turns):
        return tuple(Message(turn["role"], turn["content"]) for turn in turns)
    fine = "Give text" if is_text else 'Give text, or turns such as {"role": "user", "content": "Hi"}'
    raise _unusable(names[0], value, f"{fine}.")


def _texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """One text or several; numbers count as text. Empty where the field is missing."""
    value = fields.get(name, [])
    texts = value if isinstance(value, list) else [value]
    if any(isinstance(text, bool) or not isinstance(text, str | int | float) or text == "" for text in texts):
        raise _unusable(name, value, "Give text, a number, or a list of such.")
    return tuple(map(str, texts))


def _pattern(answer: str) -> regex.Pattern[str]:
    """A pattern of Python's re, for the package whose search has a time limit."""
    try:
        re.compile(answer)
        return regex.compile(_ONLY_REGEX.sub(lambda at: at[1] or "\\", answer))
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        held = f"the answer {answer!r:.60} is no regular expression ({one_line(error, 100)})"
        raise InputError(f"{held}. Mend the pattern.") from error


def _choices(fields: Mapping[str, Any], answer: str) -> tuple[str, ...]:
    value, fine = fields.get("choices"), 'Give two or more different ones, such as ["red", "blue"], in CSV red|blue.'
    options = tuple(map(str.strip, value.split("|"))) if isinstance(value, str) else _texts(fields, "choices")
    if value is None:
        raise InputError(f"no field 'choices'. {fine}")
    if len(options) < 2 or len(set(options)) < len(options) or "" in options:
        raise _unusable("choices", value, fine)
    if answer not in options:
        raise InputError(f"the answer {answer!r:.60} is none of the choices {', '.join(options)}. Give one.")
    return options


def _tests(fields: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The tests, and the names that they take from the program."""
    tests = "\n".join(_texts(fields, "tests"))
    if not tests.strip():
        raise InputError("no field 'tests'. Give Python that fails where the program is wrong: assert double(2) == 4.")
    try:
        return tests, tuple(sorted(undefined_names(tests)))
    except NOT_PYTHON as error:
        raise InputError(f"the tests are not Python ({error}). Mend them.") from error


def _unusable(name: str, value: Any, fine: str) -> InputError:
    return InputError(f"the field {name!r} holds {value!r:.60}. {fine}")


logger = logging.getLogger(__name__)

VERSION = 2
"""Raised by any change of the prompts, the grading or what a limit takes.

- 2: a limit draws rows by hash, balanced over the answers, where it took the first rows of the file. The longest answer
  of ``exact``, ``contains`` and ``choice`` follows from the reference answers; it was 256 tokens.
"""
MAX_NEW_TOKENS = 256  # longest answer, where nothing else says
_SHORTEST = 16  # longest answer that is learned from reference answers, at least
_HALVES = SplitNames("all", "all")
_MOST_GUESSES = 100  # different answers that are tried as the constant one
_SECONDS = 5  # for one pattern on one answer; most take microseconds
_slow: set[str] = set()  # patterns that took longer once


def own_file_task(*, path: str, grade: str | None = None, max_new_tokens: int | None = None, seed: int = 0) -> OwnFile:
    """The task that a file is; its rows are read on first use. Raises InputError: no such grade, or no such file."""
    default = None if grade is None else check_grade(grade)
    if not Path(path).expanduser().is_file():
        raise InputError(f"{path}: no such file. Give the path of a file with prompts and answers, or a task's name.")
    return OwnFile(path=path, default=default, max_new_tokens=max_new_tokens, seed=seed)


@dataclass(frozen=True, kw_only=True)
class OwnFile(Task):
    """Prompts with answers from a file; selection and report items are halves of it, by the hash of the prompt.

    Grades, the first five of what the model writes (readout ``short``):

    - ``exact``: the text is the answer. White space around it and a full stop at its end do not count; case does.
    - ``number``: the last number, or the last ``\\boxed{}``, has the value of the answer. "$1,250.00" answers 1250.
    - ``contains``: the answer stands in the text, in any case.
    - ``regex``: the answer is a Python regular expression that is found in the text.
    - ``code``: the program in the text passes ``tests``, in the sandbox.
    - ``choice``: the right one of ``choices`` is the likeliest (``rank``).

    Where ``answer`` is a list, each of them is right.
    """

    path: str
    default: Grade | None  # grade of rows that name none
    max_new_tokens: int | None
    """Longest answer. If left out, four times the longest reference answer, at least 16, where
    nothing longer can be right or is needed (``exact``, ``contains``, ``choice``); else 256."""
    seed: int = 0  # seed of the draw of rows
    version: int = VERSION

    @property
    def name(self) -> str:  # type: ignore[override]
        return Path(self.path).name

    @property
    def shares_test_set(self) -> bool:
        return True

    @property
    def runs_programs(self) -> bool:
        return any(sample.data["grade"] == "code" for sample in self._samples)

    @property
    def readouts(self) -> tuple[Readout, ...]:  # type: ignore[override]
        """By the grade of the rows."""
        return ("rank" if self._samples[0].options else "short",)

    def settings(self) -> Mapping[str, object]:
        """Settings that decide the samples; the file counts by its content, not by its place."""
        return {
            "version": self.version,
            "max_new_tokens": self._longest,
            **({"seed": self.seed} if self.seed else {}),
            "data": self._rows.sha256,
            **({} if self.default is None else {"grade": self.default}),
            "splits": _HALVES.describe(),
        }

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """A draw by hash and seed, in which each answer has its share; a smaller limit takes part of a larger one.

        Raises InputError: any row that cannot be used, or rows that are graded by tests and no sandbox works here.
        """
        if self.runs_programs:
            isolation_in_force()
        return balanced_order(first_samples(split, _HALVES, lambda _: self._samples, None), self.seed)[:limit]

    @cached_property
    def _rows(self) -> DataSet:
        return read_local_data(self.path)

    @cached_property
    def _samples(self) -> list[Sample]:
        return samples_of_rows(self._rows.splits["all"], self.default)

    @cached_property
    def _longest(self) -> int:
        """Tokens of the longest answer; a token of a reference answer has three bytes here."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        if any(sample.data["grade"] not in ("exact", "contains", "choice") for sample in self._samples):
            return MAX_NEW_TOKENS
        longest = max(len(text.encode()) for sample in self._samples for text in sample.data["accepted"])
        return max(_SHORTEST, 4 * math.ceil(longest / 3))

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """The prompt as it stands in the file; for code with an answer that is begun with a code block."""
        prompt, grade = sample.data["prompt"], sample.data["grade"]
        plain = isinstance(prompt, str)
        if sample.options:
            # A word of its own, where the text does not end in white space.
            space = " " if plain and not prompt[-1].isspace() else ""
            texts = tuple(space + text for text in sample.options)
            return LikelihoodRequest(id=sample.id, prompt=prompt, continuations=texts)
        stop = sample.data["stop"] or (("\n\n",) if plain else ())
        if grade == "code" and not plain and prompt[-1].role != "assistant":
            prompt, stop = (*prompt, Message("assistant", OPENED)), sample.data["stop"] or STOP
        return GenerationRequest(
            id=sample.id, prompt=prompt, max_new_tokens=self._longest, stop=stop, where=sample.data["where"]
        )

    def grade_all(
        self, samples: Sequence[Sample], readout: Readout, answers: Sequence[Completion | Likelihoods]
    ) -> list[Score]:
        """Grade many answers, also several to one sample. Raises InputError: no sandbox works here."""
        pairs = list(zip(samples, answers, strict=True))
        coded = {
            place: answer
            for place, (sample, answer) in enumerate(pairs)
            if sample.data["grade"] == "code" and isinstance(answer, Completion)
        }
        judged = judge_programs([samples[place] for place in coded], list(coded.values()), Limits()) if coded else []
        judged_at = dict(zip(coded, judged, strict=True))
        scores = []
        for place, (sample, answer) in enumerate(pairs):
            if isinstance(answer, Likelihoods):
                scores.append(grading.grade_rank(sample, answer))
            elif place in judged_at:
                said, right, fate = judged_at[place]
                scores.append(grading.grade_free_text(said, right, answer)._replace(program=fate))
            else:
                scores.append(grading.grade_free_text(*_graded(sample, answer.text), answer))
        return scores

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        """True if the grade is certain: what is contained stays so, and a wrong beginning makes no exact answer.

        Other grades look at the whole text. Proven in ``test_no_way_to_go_on_changes_a_settled_grade`` of the own file.
        """
        grade, text = sample.data["grade"], text.rstrip("\ufffd")
        if grade not in ("contains", "exact"):
            return False
        if grade == "contains":
            return _graded(sample, text)[1]
        said = " ".join(text.split())
        right = map(_words, sample.data["accepted"])
        return not any(whole.startswith(said) for words in right for whole in (f"{words}.", f"{words} ."))

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The answer, where it is all that is to be written."""
        return sample.gold if sample.data["grade"] == "exact" else ""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """1 / number of choices.

        Written answers: what the best constant answer gets by these very grades, of the 100 most common answers in the
        file. Code: 0, as no constant program passes.
        """
        if samples[0].options:
            return grading.guessing_chance(samples, "rank", ("accuracy",))
        texts = [sample for sample in samples if sample.data["grade"] != "code"]
        answers = Counter(text for sample in texts for text in sample.data["accepted"])
        num_right = (
            sum(_graded(sample, text)[1] for sample in texts if sample.gold not in _slow)
            for text, _ in answers.most_common(_MOST_GUESSES)
        )
        return {"accuracy": max(num_right, default=0) / len(samples)}


def balanced_order(samples: Sequence[Sample], seed: int = 0) -> list[Sample]:
    """Samples in an order of which every beginning holds each right answer in its share, drawn by hash.

    The samples of an answer are spread evenly over the whole, in the order of the hash of their ids: the j-th of m has
    its place at (j + u) / m, with u from 0 to 1 by another hash.
    """

    def unit(text: str) -> float:
        return int.from_bytes(hashlib.sha256(f"{seed} {text}".encode()).digest()[:7]) / 2**56

    places: dict[str, float] = {}
    count, seen = Counter(sample.gold for sample in samples), Counter[str]()
    for sample in sorted(samples, key=lambda sample: unit(f"order {sample.id}")):
        places[sample.id] = (seen[sample.gold] + unit(f"place {sample.id}")) / count[sample.gold]
        seen[sample.gold] += 1
    return sorted(samples, key=lambda sample: (places[sample.id], sample.id))


def _graded(sample: Sample, text: str) -> tuple[str, bool]:
    """The answer in a written text, and whether it is right."""
    grade, accepted, said = sample.data["grade"], sample.data["accepted"], text.strip()
    if grade == "exact":
        return said, _words(said) in map(_words, accepted)
    if grade == "number":
        numbers = grading.all_numbers(text)
        answer = last_boxed_text(text) or (str(numbers[-1]) if numbers else "")
        return answer, bool(answer) and any(same_value(answer, right) for right in accepted)
    if grade == "regex":
        match = _first_match(sample.data["pattern"], text)
        return match or said, match is not None
    folded = " ".join(said.casefold().split())
    named = next((right for right in accepted if " ".join(right.casefold().split()) in folded), None)
    return named or said, named is not None


def _first_match(pattern: regex.Pattern[str], text: str) -> str | None:
    """The match of a pattern in a text; None for nothing, or where it takes longer than 5 seconds."""
    try:
        match = pattern.search(text, timeout=_SECONDS)
    except (TimeoutError, MemoryError):
        if pattern.pattern not in _slow:
            logger.warning(
                "the pattern %.60r takes more than %d s on an answer of %d characters, which counts as wrong. "
                "Avoid a repetition inside a repetition.", pattern.pattern, _SECONDS, len(text)
            )  # fmt: skip
        _slow.add(pattern.pattern)
        return None
    return match[0] if match else None


def _words(text: str) -> str:
    return " ".join(text.split()).removesuffix(".").rstrip()
