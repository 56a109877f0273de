"""Instructions about the form of an answer, of twelve kinds that a program can check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from layercut.engine.base import Completion
from layercut.tasks.checked import Check, CheckedTask

VERSION = 1  # raised by any change of the requests or the rules
_TOPICS = ("a walk in the forest", "a new bicycle", "cooking for friends", "a train that is late")
_BULLET = re.compile(r"^\s*[-*•] ", re.MULTILINE)


def _is_object(text: str) -> bool:
    found = parsed(text)
    return isinstance(found, dict) and set(found) == {"title", "text"}


_RULES: dict[str, Callable[[str], bool]] = {
    "Write in lower case only, without any capital letter.": lambda text: text == text.lower(),
    "Write in capital letters only.": lambda text: text == text.upper() != text.lower(),
    "Do not use any comma.": lambda text: "," not in text,
    "Answer with exactly three bullet points, each on a line of its own that begins with '- '.": lambda text: (
        len(_BULLET.findall(text)) == 3
    ),
    "End with the words: That is all.": lambda text: text.rstrip("*\"' ").endswith("That is all."),
    "Begin with the word Listen.": lambda text: text.lstrip("*\"' ").startswith("Listen"),
    "Put your whole answer in double quotation marks.": lambda text: text[0] in '"“' and text[-1] in '"”',
    "Begin with a title in double angular brackets, such as <<title>>.": lambda text: bool(
        re.match(r"<<[^<>\n]+>>", text)
    ),
    "Use the word wonderful at least twice.": lambda text: len(re.findall(r"\bwonderful\b", text, re.IGNORECASE)) >= 2,
    "Write exactly two paragraphs with a line of three stars, ***, between them.": lambda text: (
        len([part for part in re.split(r"^\s*\*\*\*\s*$", text, flags=re.MULTILINE) if part.strip()]) == 2
    ),
    "Use at most ten words in all.": lambda text: len(text.split()) <= 10,
    "Answer with a JSON object that has the keys title and text, and with nothing else.": _is_object,
}


def instructions() -> CheckedTask:
    """48 requests to write about one of four topics in a form that a rule checks; an empty answer fails.

    The kinds are those of IFEval (Zhou et al., arXiv:2311.07911), which ``lm-eval:ifeval`` asks in full.
    """
    checks = [
        Check(f"Write one or two sentences about {topic}. {rule}", _of(holds), rule)
        for rule, holds in _RULES.items()
        for topic in _TOPICS
    ]
    return CheckedTask(name="instructions", version=VERSION, checks=tuple(checks), max_new_tokens=128)


def _of(holds: Callable[[str], bool]) -> Callable[[Completion], bool]:
    return lambda answer: bool(text := answer.text.strip()) and holds(text)


def parsed(text: str) -> Any:
    """The JSON value that a text is, within a fence of code or not; None for other texts.

    >>> parsed('```json\\n{"a": 1}\\n```')
    {'a': 1}
    """
    inside = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        return json.loads(inside[1] if inside else text)
    except ValueError:
        return None
