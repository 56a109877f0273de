"""Rows of a user's own file as samples; a row that cannot be used stops the reading with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import regex

from layercut.engine.base import Message
from layercut.errors import InputError, one_line, unknown_name
from layercut.tasks.base import Sample, content_id
from layercut.tasks.data_files import DataRow
from layercut.tasks.grading import parse_number
from layercut.tasks.program_answers import NOT_PYTHON, undefined_names

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
