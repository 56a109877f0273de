"""Rows of a user's own file as samples; a row that cannot be used stops the reading with its line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import regex

from layercut.engine.base import Message
from layercut.errors import InputError, one_line, unknown
from layercut.tasks.base import Sample, content_id
from layercut.tasks.data_files import DataRow
from layercut.tasks.grading import parse_number
from layercut.tasks.lettered import LETTERS
from layercut.tasks.program_answers import NOT_PYTHON, undefined

Grade = Literal["exact", "number", "contains", "regex", "code", "choice", "likelihood"]
GRADES: tuple[Grade, ...] = get_args(Grade)
WRITTEN: tuple[Grade, ...] = ("exact", "number", "contains", "regex", "code")
"""The model writes an answer; rows of one file may mix these. The others are scored by likelihood."""

_ONLY_REGEX = re.compile(r"(\\N\{.*?\}|\\.)|(?<=\[)(?=\[:)|(?=\{(?!\d*,?\d*\}))", re.DOTALL)
"""[[:alpha:]] and x{e<=1}: classes and a number of errors to the regex package, characters to Python's re."""

_ROLES = ("system", "user", "assistant")


def check_grade(name: str) -> Grade:
    """A grade by its name. Raises InputError: no such grade."""
    if name not in GRADES:
        raise unknown("grade", name, GRADES)
    return name  # type: ignore[return-value]


def sample_of(row: DataRow, default: Grade | None) -> Sample:
    """The sample that a row holds. Its id is made from the prompt alone, so its split does not depend on the grade.

    Args:
        row: with ``prompt`` or ``text``, ``answer``, and what its grade needs.
        default: grade of rows that name none.

    Raises:
        InputError: a field that is missing or cannot be used.
    """
    fields = {name: value for name, value in row.fields.items() if value not in (None, "")}
    grade = _grade(row, fields, default)
    prompt = _prompt(row, fields)
    data: dict[str, Any] = {"grade": grade, "prompt": prompt, "stop": _texts(row, fields, "stop"), "where": row.where}
    data["max_new_tokens"] = _length(row, fields)
    options: tuple[str, ...] = ()
    if grade == "code":
        data["tests"], data["names"] = _tests(row, fields)
        accepted = _texts(row, fields, "answer") or ("",)
    else:
        accepted = _texts(row, fields, "answer")
        if not accepted:
            held = f"no field 'answer', only {', '.join(fields)}"
            if "answer" in row.fields:
                held = f"the answer is {'null' if row.fields['answer'] is None else 'empty'}"
            raise _refused(row, held, f"A row graded by {grade} needs the answer.")
    if grade in ("choice", "likelihood", "regex") and len(accepted) > 1:
        raise _refused(row, f"{len(accepted)} answers for the grade {grade}", "Give one.")
    if grade == "number":
        for one in accepted:
            if parse_number(one.strip()) is None:
                raise _refused(row, f"the answer {one!r:.60} is no number", "Give digits, such as 18 or 1,234.5.")
    if grade == "regex":
        try:
            re.compile(accepted[0])
            pattern = _ONLY_REGEX.sub(lambda at: at[1] or "\\", accepted[0])
            data["pattern"] = regex.compile(pattern)  # whose search has a time limit
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            held = f"the answer {accepted[0]!r:.60} is no regular expression ({one_line(error, 100)})"
            raise _refused(row, held, "Mend the pattern.") from error
    if grade == "choice":
        options = _choices(row, fields, accepted[0])
    question = (
        prompt
        if isinstance(prompt, str)
        else "\n\n".join(turn.content if len(prompt) == 1 else f"{turn.role}: {turn.content}" for turn in prompt)
    )
    data["accepted"] = accepted
    return Sample(id=content_id("own", question), question=question, gold=accepted[0], options=options, data=data)


def _grade(row: DataRow, fields: Mapping[str, Any], default: Grade | None) -> Grade:
    named = fields.get("grade", default)
    if named is None:
        raise _refused(
            row,
            "no field 'grade'",
            f"Say how answers are graded ({', '.join(GRADES)}): in a field 'grade', or for the whole file behind its "
            "name, such as my.jsonl:number.",
        )
    try:
        return check_grade(str(named))
    except InputError as error:
        raise InputError(f"{row.where}: {error}") from error


def _prompt(row: DataRow, fields: Mapping[str, Any]) -> str | tuple[Message, ...]:
    """The conversation, or the plain text that the model goes on."""
    given = [name for name in ("prompt", "text") if name in fields]
    if len(given) != 1:
        held = "both 'prompt' and 'text'" if given else f"no field 'prompt', only {', '.join(fields) or 'empty cells'}"
        raise _refused(row, held, "Give 'prompt' for a chat model, or 'text' that a base model goes on.")
    value = fields[given[0]]
    if isinstance(value, str) and value.strip():
        return value if given == ["text"] else (Message("user", value),)
    if given == ["prompt"] and isinstance(value, list) and value and all(map(_is_turn, value)):
        return tuple(Message(turn["role"], turn["content"]) for turn in value)
    fine = "Give text" if given == ["text"] else 'Give text, or turns such as {"role": "user", "content": "Hi"}'
    raise _refused(row, f"the field {given[0]!r} holds {value!r:.60}", f"{fine}.")


def _is_turn(turn: Any) -> bool:
    return isinstance(turn, Mapping) and turn.get("role") in _ROLES and isinstance(turn.get("content"), str)


def _texts(row: DataRow, fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """One text or several; numbers count as text. Empty where the field is missing."""
    value = fields.get(name, [])
    several = value if isinstance(value, list) else [value]
    if any(isinstance(one, bool) or not isinstance(one, str | int | float) or one == "" for one in several):
        raise _refused(row, f"the field {name!r} holds {value!r:.60}", "Give text, a number, or a list of such.")
    return tuple(map(str, several))


def _length(row: DataRow, fields: Mapping[str, Any]) -> int | None:
    """The row's own longest answer, in tokens."""
    value = fields.get("max_new_tokens")
    if value is None:
        return None
    if isinstance(value, bool) or not str(value).isascii() or not str(value).isdigit() or not 0 < int(value) <= 10**6:
        raise _refused(row, f"the field 'max_new_tokens' holds {value!r:.60}", "Give a number of tokens, such as 32.")
    return int(value)


def _choices(row: DataRow, fields: Mapping[str, Any], answer: str) -> tuple[str, ...]:
    value = fields.get("choices")
    options = (
        tuple(part.strip() for part in value.split("|")) if isinstance(value, str) else _texts(row, fields, "choices")
    )
    if not 2 <= len(options) <= len(LETTERS) or len(set(options)) < len(options) or "" in options:
        held = "no field 'choices'" if value is None else f"the field 'choices' holds {value!r:.60}"
        raise _refused(row, held, 'Give two to 26 different ones, such as ["red", "blue"], in CSV red|blue.')
    if answer not in options:
        raise _refused(
            row, f"the answer {answer!r:.60} is none of the choices {', '.join(options)}", "Give the text of one."
        )
    return options


def _tests(row: DataRow, fields: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    tests = "\n".join(_texts(row, fields, "tests"))
    if not tests.strip():
        raise _refused(
            row, "no field 'tests'", "Give Python that fails where the program is wrong: assert double(2) == 4."
        )
    try:
        return tests, tuple(sorted(undefined(tests)))
    except NOT_PYTHON as error:
        raise _refused(row, f"the tests are not Python ({error})", "Mend them.") from error


def _refused(row: DataRow, held: str, fine: str) -> InputError:
    return InputError(f"{row.where}: {held}. {fine}")


def check_one_kind(rows: Sequence[DataRow], samples: Sequence[Sample]) -> None:
    """Refuse a file whose rows are read in more than one way: written, choice or likelihood.

    Raises:
        InputError: such a file, with the first row that differs.
    """
    kinds = ["written" if sample.data["grade"] in WRITTEN else sample.data["grade"] for sample in samples]
    for row, sample, kind in zip(rows, samples, kinds, strict=True):
        if kind != kinds[0]:
            raise _refused(
                row,
                f"the grade {sample.data['grade']}, and {samples[0].data['grade']} in {rows[0].where}",
                f"Answers that are written ({', '.join(WRITTEN)}), choice and likelihood need a file each.",
            )
