"""MBPP and MBPP+: short Python problems, given by a sentence and the first assertion.

Austin et al., "Program Synthesis with Large Language Models", arXiv:2108.07732: the hand-checked ``sanitized`` part of
``google-research-datasets/mbpp`` (a local copy may also be the whole data set). The *plus* tests, some 35 times as
many: Liu et al., arXiv:2305.01210, ``evalplus/mbppplus``, with their tolerances and special judges, which are part of
the tests.

A sample problem: "Write a function to find the shared elements from the given two lists." with ``assert
set(similar_elements((3, 4, 5, 6),(5, 7, 4, 10))) == set((4, 5))``.

``mbpp:3`` asks as plain text, for base models too, with the three worked examples and the three assertions of the
published prompt, and ``mbpp:0`` without examples.

Report items are those of the published test split (numbers 11 to 510), selection items those of the validation and
training splits (511 to 974), in both tasks; numbers 1 to 10 are kept for examples in prompts, as published. Numbers 816
and 899 of the whole data set are not asked: their reference solutions always return the same value.

MBPP+ is published as one test set of 378 problems: 224 of MBPP's test split, 147 of its validation and training splits,
and 7 of its examples. A model that used none of these 147 is reported on all of them; ``mbpp_plus:3`` leaves out the
numbers that stand in prompts.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from layercut.errors import InputError
from layercut.sandbox.isolation import Limits
from layercut.tasks.base import Sample, Split
from layercut.tasks.code_task import CodeTask
from layercut.tasks.code_tests import PLUS_LIMITS, mended, refuse_inputs_only
from layercut.tasks.data_files import DataRow, text_field
from layercut.tasks.lm_eval.forms import published_form

VERSION = 2
"""Raised by any change of the prompt, the extraction or the tests.

2: programs are found by EvalPlus' rule, answers end at a closed block alone, comparisons with a tolerance ask for the
same type and shape, tests take helpers from the reference, types can be given to programs, 816 and 899 are not asked.
"""

# One of the inputs of Mbpp/255 has an answer of 1.7 million tuples of 77, which takes gigabytes to hold and to compare.
_WITHOUT_HUGE = ("in enumerate(inputs):", "in enumerate(inp for inp in inputs if len(inp[0]) < 5 or inp[1] < 77):")
_TEST_SPLIT = range(11, 511)
_IN_PROMPTS = range(1, 11)
_NOT_ASKED = {*_IN_PROMPTS, 816, 899}


def mbpp(*, data: str | None = None, max_new_tokens: int = 512, num_shots: int | None = None) -> CodeTask:
    """MBPP from the hub or from a local copy. Needs a model with a chat template, but not ``mbpp:3``."""
    return CodeTask(
        **_form("mbpp", num_shots, data, max_new_tokens),
        dataset="google-research-datasets/mbpp",
        published_as="sanitized-mbpp",
        config="sanitized",
        sample=_sample,
        limits=Limits(),
    )


def mbpp_plus(*, data: str | None = None, max_new_tokens: int = 512, num_shots: int | None = None) -> CodeTask:
    """MBPP+ from the hub or from a local copy (``MbppPlus-OriginFmt.jsonl.gz``). All of its tests run."""
    return CodeTask(
        **_form("mbpp_plus", num_shots, data, max_new_tokens),
        dataset="evalplus/mbppplus",
        published_as="MbppPlus-OriginFmt",
        sample=_plus_sample,
        in_test_set=lambda row: not num_shots or _number(row) not in _IN_PROMPTS,
        limits=PLUS_LIMITS,
    )


def _form(name: str, num_shots: int | None, data: str | None, max_new_tokens: int) -> dict[str, Any]:
    """Settings of both tasks: the chat format, or the published prompt with its three worked examples or fewer."""
    shared = {"data": data, "max_new_tokens": max_new_tokens, "version": VERSION, "split_of": _split_of}
    if num_shots is None:
        return {"name": name, **shared}
    return {
        **shared,
        "name": f"{name}:{num_shots}",
        "completion": partial(published_form, "mbpp/mbpp.yaml", num_shots, lambda sample: sample.data["row"]),
    }


def _split_of(row: DataRow) -> Split | None:
    number = _number(row)
    if number in _NOT_ASKED:
        return None
    return "report" if number in _TEST_SPLIT else "selection"


def _number(row: DataRow) -> int:
    found = re.search(r"[0-9]+$", str(row.fields.get("task_id", "")))
    if not found:
        raise InputError(f"{row.where}: the field 'task_id' holds no number. Mend or remove the row.")
    return int(found[0])


def _sample(row: DataRow) -> Sample:
    asserts = _lines(row, "test_list")
    # The setup comes after the program in the whole data set: two of its problems set up objects of a class in it.
    before = [*_lines(row, "test_imports"), str(row.fields.get("test_setup_code") or "")]
    return _with_tests(row, "\n".join([*before, *asserts]) + "\n")


def _plus_sample(row: DataRow) -> Sample:
    refuse_inputs_only(row, "MbppPlus-OriginFmt.jsonl.gz")
    tests = text_field(row, "test")
    if _number(row) == 255:
        tests = tests.replace(*_WITHOUT_HUGE)
    return _with_tests(row, tests)


def _with_tests(row: DataRow, tests: str) -> Sample:
    question, code = text_field(row, "prompt" if "prompt" in row.fields else "text").strip(), text_field(row, "code")
    asserts = _lines(row, "test_list")
    if not asserts:
        raise InputError(f"{row.where}: the field 'test_list' holds no assertion. Mend or remove the row.")
    names = _called(code, [*asserts, str(row.fields.get("test_setup_code") or "")])
    return Sample(
        id=f"mbpp-{_number(row)}",
        question=question,
        gold=code,
        data={
            "row": {"text": question, "test_list": asserts, "code": code},
            "instruction": f"{question}\nYour code should pass this test:\n\n{asserts[0].strip()}\n\n"
            "Reply with nothing but the Python code in a code block.",
            "head": "",
            "tests": mended(tests, row, code, names),
            "names": names,
        },
    )


def _called(code: str, tests: Sequence[str]) -> tuple[str, ...]:
    """Functions and classes that the reference solution defines and the tests use.

    One problem is about a function that is called ``sum``.
    """
    defined = re.findall(r"^(?:def|class)\s+(\w+)", code, re.MULTILINE)
    used = set(re.findall(r"\w+", "\n".join(tests)))
    return tuple(name for name in dict.fromkeys(defined) if name in used)


def _lines(row: DataRow, name: str) -> list[str]:
    """A list of lines of code, also where the file holds it as text that looks like a Python list."""
    value = row.fields.get(name) or []
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (SyntaxError, ValueError) as error:
            raise InputError(f"{row.where}: the field {name!r} is not a list. Mend or remove the row.") from error
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise InputError(f"{row.where}: the field {name!r} is not a list of lines. Mend or remove the row.")
    return value
