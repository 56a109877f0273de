"""Small Python functions to be written after two examples, made from a seed: what program classes are counted on."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import NamedTuple

from layercut.engine.base import GenerationRequest
from layercut.tasks.few_shot import content_id

MAX_NEW_TOKENS = 80
STOP = ("\ndef ", "\nclass ", "\nprint", "\nif __name__", "\n\n\n", "\n#", "\n```")
NUM_FUNCTIONS = 200

_EXAMPLES = '''def last_word(text):
    """Return the last word of a text, in lower case."""
    words = text.split()
    return words[-1].lower() if words else ""


def pairs_below(numbers, limit):
    """Return all pairs (a, b) of the list with a + b below the limit."""
    return [(a, b) for i, a in enumerate(numbers) for b in numbers[i + 1 :] if a + b < limit]


'''
_FORMS = (
    ("above", "numbers", "Return the numbers that are greater than {n}, in their order."),
    ("multiples", "limit", "Return a list of all multiples of {n} up to the limit."),
    ("chunks", "items", "Split a list into lists of {n} items each; the last one may be shorter."),
    ("count_words", "text", "Return a dictionary from each word of at least {n} letters to how often it comes."),
    ("total_of_top", "scores", "Return the sum of the {n} largest values of a dictionary."),
    ("every_nth", "text", "Return every {n}th character of a text as a list of (position, character) pairs."),
    ("clip", "rows", "Return a copy of a list of lists with every number above {n} replaced by {n}."),
    ("running_mean", "values", "Return the list of means of each {n} values in a row, rounded to two digits."),
    ("shortest", "names", "Return the {n} shortest names, sorted by length and then by the alphabet."),
    ("parse_pairs", "text", "Parse lines such as 'a=1' into a dictionary; skip lines of more than {n} characters."),
)


class Function(NamedTuple):
    """One function to be written."""

    id: str
    doc: str
    head: str
    """Signature and docstring, with which the program begins; without the line break, so that the model makes it."""

    @property
    def request(self) -> GenerationRequest:
        """The examples and the head."""
        return GenerationRequest(id=self.id, prompt=_EXAMPLES + self.head, max_new_tokens=MAX_NEW_TOKENS, stop=STOP)


def functions(limit: int, seed: int) -> list[Function]:
    """The first ``limit`` functions, no two alike; a smaller limit gives a prefix of a larger one."""
    found: dict[str, Function] = {}
    for index in count():
        if len(found) >= min(limit, NUM_FUNCTIONS):
            return list(found.values())
        name, argument, doc = _FORMS[index % len(_FORMS)]
        number = Random(f"functions 1 {seed} {index}").randint(2, 60)
        text = doc.format(n=number)
        head = f'def {name}_{number}({argument}):\n    """{text}"""'
        found.setdefault(head, Function(content_id("function", head), text, head))
    raise AssertionError("count has no end")
