"""Long texts with one number, which should be found: a needle in a haystack."""

from __future__ import annotations

from functools import partial
from random import Random

from layercut.engine.base import Completion
from layercut.tasks.checked import Check, CheckedTask

VERSION = 1  # raised by any change of the texts or the rule
NUM = 24
_WORDS = {2000: 1300, 8000: 5200}  # words of a text by its tokens; tokenizers make 1.2 to 1.5 tokens of a word here
_PLACES = """Ashford Benton Carlow Dunmore Elstree Farnham Grafton Halden Ipsley Jarrow Kelso Ludlow Marton Newbury
    Oakham Penrith Quenby Romsey Selby Thornton Upton Verwood Wexford Yarmouth""".split()  # noqa: SIM905
_WHO = ("The baker", "A teacher", "The old sailor", "My neighbour", "The gardener", "A young nurse", "The postman")
_DOES = ("walked to", "wrote about", "came back from", "bought bread in", "painted a house in", "met a friend in")
_WHEN = ("in the spring", "after the storm", "on a quiet morning", "before the market opened", "late in the evening")


def needle_2k() -> CheckedTask:
    """24 texts of about 2,000 tokens; in each, one town has a code of six digits, and the answer must hold it.

    The code stands at places spread evenly from the beginning to the end.
    """
    return _needles("needle_2k", 2000)


def needle_8k() -> CheckedTask:
    """The same in texts of about 8,000 tokens."""
    return _needles("needle_8k", 8000)


def _needles(name: str, tokens: int) -> CheckedTask:
    checks = [_check(index, _WORDS[tokens]) for index in range(NUM)]
    return CheckedTask(name=name, version=VERSION, checks=tuple(checks), max_new_tokens=24)


def _check(index: int, num_words: int) -> Check:
    rng = Random(f"needle {VERSION} {index} {num_words}")
    place, code = _PLACES[index], str(rng.randint(100_000, 999_999))
    sentences: list[str] = []
    while sum(len(one.split()) for one in sentences) < num_words:
        other = rng.choice([one for one in _PLACES if one != place])
        sentences.append(f"{rng.choice(_WHO)} {rng.choice(_DOES)} {other} {rng.choice(_WHEN)}.")
    sentences.insert(round(index / (NUM - 1) * len(sentences)), f"The code of {place} is {code}.")
    prompt = f"{' '.join(sentences)}\n\nWhat is the code of {place}? Answer with the code alone."
    return Check(prompt, partial(_holds, code), code)


def _holds(code: str, answer: Completion) -> bool:
    return code in answer.text.replace(",", "").replace(" ", "")
