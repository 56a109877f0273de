"""Rules that several tasks share: numbers and options in a text, grades, and the score of guessing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

from layercut.engine.base import Completion, Likelihoods
from layercut.tasks.base import GENERATED, Readout, Sample, Score

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?"
_GROUPS_SO_FAR = re.compile(r"[0-9]*|[0-9]{1,3}(?:,[0-9]{3})*,[0-9]{0,3}")
_WHOLE_NUMBER_SO_FAR = re.compile(r"(?P<sign>[+\-−]?)(?P<whole>[0-9,]*)(?P<rest>.*)", re.DOTALL)
# What may follow a whole number in a line without changing its value: also how far that has come.
_NO_MORE_VALUE = re.compile(r"(?:\.0+)?\s*(?:\.\s*)?")
_PLAIN = re.compile(rf"[+\-−]?{_DIGITS}")
# In "5-3" the sign is a minus between two numbers, so it belongs to no number.
_ANYWHERE = re.compile(rf"(?<![0-9])(?<![0-9]\.)(?:(?<![\w)\]}}])[\-−])?{_DIGITS}")


def first_line(text: str) -> str:
    """The first line without surrounding white space and without one full stop at its end."""
    return text.partition("\n")[0].strip().removesuffix(".").rstrip()


def can_be_words(text: str, gold: str) -> bool:
    """True if a text that begins like this can have ``gold`` as its first line, but for the amount of white space.

    Exact for the rule of ``first_line``: False if and only if no continuation does it.
    """
    line = text.partition("\n")[0]
    words = " ".join(line.split())
    if words in (gold, f"{gold}.", f"{gold} ."):
        return True
    ended = bool(words) and line[-1].isspace()  # the last word is complete
    return gold.startswith(f"{words} " if ended else words)


def can_be_number(text: str, gold: str) -> bool:
    """True if a text that begins like this can have a number with the value of ``gold`` as its first line.

    Exact for the rules of ``first_line`` and ``parse_number``: False if and only if no continuation does it. ``gold``
    is a whole number.
    """
    line = text.partition("\n")[0].lstrip()
    if not line:
        return True
    parts = _WHOLE_NUMBER_SO_FAR.fullmatch(line)
    assert parts
    value, whole, rest = int(gold), parts["whole"], parts["rest"]
    if value and (parts["sign"] in ("-", "−")) != (value < 0):
        return False
    digits, right = whole.replace(",", "").lstrip("0"), str(abs(value)).lstrip("0")
    if rest:
        return bool(digits == right and _PLAIN.fullmatch(whole) and _NO_MORE_VALUE.fullmatch(rest))
    if not (right.startswith(digits) and _GROUPS_SO_FAR.fullmatch(whole)):
        return False
    if digits and "," in whole:  # the last group must be filled up to three digits, and more come in threes
        missing = 3 - len(whole.rpartition(",")[2])
        to_come = len(right) - len(digits)
        return to_come >= missing and (to_come - missing) % 3 == 0
    return True


def parse_number(text: str) -> Decimal | None:
    """The value of a text that is a number and nothing else, or None.

    A sign, a decimal part and commas before groups of three digits are part of a number. A percent sign is not: "60%"
    is another quantity than "60". Nor is a currency sign, a unit, or a sum that is left to do.

    >>> [str(parse_number(text)) for text in ("19", "19.0", "1,234", "-7", "−7")]
    ['19', '19.0', '1234', '-7', '-7']
    >>> [parse_number(text) for text in ("60%", "$5", "5 apples", "12,34", "2 + 3", "")]
    [None, None, None, None, None, None]
    """
    return _value(text) if _PLAIN.fullmatch(text) else None


def all_numbers(text: str) -> list[Decimal]:
    """The numbers that stand anywhere in a text.

    >>> [str(number) for number in all_numbers("$1,250.50 for 3, so 5-3 are left at -40 degrees.")]
    ['1250.50', '3', '5', '3', '-40']
    """
    return [_value(number) for number in _ANYWHERE.findall(text)]


def number_after(mark: str, text: str) -> str:
    """The number right after the first ``mark`` (in any case), as plain digits; empty if none stands there.

    A colon, a currency sign and emphasis may stand between.

    >>> number_after("answer is", "The Answer is: **$1,250.** Or is the answer is 3?")
    '1250'
    """
    start = place_after(mark, text)
    return "" if start is None else str(_value(_PLAIN.match(text, start)[0]))  # type: ignore[index]


def place_after(mark: str, text: str) -> int | None:
    """Start of the number that ``number_after`` finds; None if there is none."""
    match = re.search(rf"{re.escape(mark)}:?\s*[*$£€]*({_PLAIN.pattern})", text, re.IGNORECASE)
    return match.start(1) if match else None


def number_after_stands(mark: str, text: str) -> bool:
    """True if ``number_after`` finds the same number however the text goes on.

    A number ends before the first character that is neither digit, comma nor point.
    """
    start = place_after(mark, text)
    return start is not None and bool(text[start + 1 :].lstrip("0123456789,."))


def _value(text: str) -> Decimal:
    return Decimal(text.replace(",", "").replace("−", "-"))


def outcome_of(*, right: bool, answer: str, finish_reason: str) -> str:
    """The class of a generated answer; see Score."""
    if right:
        return "right"
    if finish_reason == "settled":  # no answer yet, perhaps, but none that could be right
        return "wrong"
    if finish_reason == "length":
        return "cut"
    return "wrong" if answer else "no_answer"


def grade_free_text(answer: str, right: bool, completion: Completion) -> Score:
    """Accuracy of a generated answer that was found in a completion; an empty one was not found."""
    kind = outcome_of(right=right, answer=answer, finish_reason=completion.finish_reason)
    return Score({"accuracy": float(right)}, answer, kind)


def grade_rank(sample: Sample, likelihoods: Likelihoods) -> Score:
    """Accuracy of the most likely option: the highest log-likelihood, not divided by length; the first wins ties."""
    scores = likelihoods.log_likelihoods
    answer = sample.options[scores.index(max(scores))]
    right = answer == sample.gold
    return Score({"accuracy": float(right)}, answer, "right" if right else "wrong")


def guessing_chance(samples: Sequence[Sample], readout: Readout, metrics: Sequence[str]) -> Mapping[str, float]:
    """Chance on these samples: 1 / number of options, averaged, for ``rank``; the share of the best constant answer for
    what is generated."""
    if readout in GENERATED:
        golds = Counter(sample.gold for sample in samples)
        share = golds.most_common(1)[0][1] / len(samples)
    else:
        share = sum(1 / len(sample.options) for sample in samples) / len(samples)
    return dict.fromkeys(metrics, share)
