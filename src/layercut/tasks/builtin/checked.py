"""CheckedTask: requests whose answers pass or fail by a rule; the requests of ``general`` and ``general_code``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from layercut.engine.base import Completion, GenerationRequest, Likelihoods, Message
from layercut.tasks.base import Readout, Sample, Score, Split, Task, content_id
from layercut.tasks.grading import grade_text


class Check(NamedTuple):
    """One request and its rule."""

    prompt: str
    passes: Callable[[Completion], bool]
    wanted: str  # requirement of a right answer, for people


def ends(answer: Completion) -> bool:
    """True if an answer ended by itself."""
    return answer.finish_reason == "stop"


@dataclass(frozen=True, kw_only=True)
class CheckedTask(Task):
    """Requests in the model's chat format; each answer passes or fails.

    There is no score of guessing: of most checks a constant answer would pass all, and what counts is the difference
    from the original model.
    """

    name: str
    version: int
    checks: tuple[Check, ...]
    max_new_tokens: int
    readouts: tuple[Readout, ...] = ("short",)
    split: Split = "report"  # the split of all items: no layers are chosen by the checks of what a cut breaks

    def settings(self) -> Mapping[str, object]:
        return {"version": self.version, "max_new_tokens": self.max_new_tokens}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in an order by hash, in which kinds of requests are mixed."""
        if split not in (self.split, "full"):
            return []
        found = [
            Sample(
                id=content_id(self.name, check.prompt),
                question=check.prompt,
                gold=check.wanted,
                data={"passes": check.passes},
            )
            for check in self.checks
        ]
        return sorted(found, key=lambda sample: sample.id)[:limit]

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        return GenerationRequest(
            id=sample.id, prompt=(Message("user", sample.question),), max_new_tokens=self.max_new_tokens
        )

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        return grade_text(answer.text.strip(), bool(sample.data["passes"](answer)), answer)

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {}


GENERAL, CODE = "general", "general_code"
VERSION = 2  # raised by any change of the requests or the rule
REQUESTS = (
    "What is the difference between a frog and a toad?",
    "Explain in one sentence what a dictionary is.",
    "Why do leaves change colour in autumn?",
    "Describe how a bicycle works, in three sentences.",
    "Who wrote Romeo and Juliet, and what is it about?",
    "What is the capital of Japan?",
    "Explain to a child what money is.",
    "In one or two sentences: what does a dentist do?",
    "Give me three tips for learning a language.",
    "List five vegetables.",
    "Name two advantages and two disadvantages of living in a city.",
    "Give me a recipe for pancakes.",
    "Write a packing list for a weekend in the mountains, one item a line.",
    "Write a short thank-you note to a neighbour who watered my plants.",
    "Write an email that moves a meeting from Monday to Wednesday.",
    "Write a poem of four lines about snow.",
    "Tell me a short story about a lost key.",
    "Write a slogan for a bakery.",
    "Rewrite this politely: Send me the report now.",
    "Correct the spelling: I recieved you're letter yesterday.",
    "Summarise in one sentence: The shop opened in 1921. It sold shoes, and later books. It closed last year.",
    "Is this review positive or negative? The room was small, but the staff were lovely and the food was great.",
    "Turn this into JSON: Anna is 31 years old and lives in Oslo.",
    "Which word does not belong: apple, pear, hammer, plum?",
    "Write a Python function that returns the larger of two numbers.",
    "Write a Python function that counts the vowels in a string.",
    "What does this do? print(sum(x * x for x in range(4)))",
    "Write an SQL query that selects all customers from Spain.",
    "What is 17 + 26?",
    "A book costs 12 euros and a pen 3 euros. What do two books and one pen cost? Work it out step by step.",
    "How many minutes are two and a half hours?",
    "What is 15 % of 80?",
    "I feel nervous before exams. What can I do?",
    "My plant has yellow leaves. What could be the reason?",
    "Should I learn to play the piano or the guitar?",
    "Translate into French: Where is the railway station?",
    "Translate into German: I would like a cup of tea, please.",
    "Was ist ein Regenbogen?",
    "Nenne drei Tiere, die im Wasser leben.",
    "Qu'est-ce qu'une fontaine ?",
    "Donne-moi trois conseils pour bien dormir.",
    "¿Qué es un desierto?",
    "Escribe dos frases sobre el mar.",
    "Che cos'è un museo?",
    "O que é uma floresta?",
    "Wat is een fiets?",
    "Co to jest rower?",
    "Что такое музей?",
    "什么是自行车？",
    "駅とは何ですか。",
)
"""In ten languages; none is one of the suite ``side_effects``."""

CODE_REQUESTS = (
    "Write a Python function `is_weekend(day)` that says whether a name of a day is Saturday or Sunday.",
    "Write a Python function that converts minutes to a text such as 1h 05m.",
    "Write a Python function that returns the initials of a full name.",
    "Write a Python function that removes every second element of a list.",
    "Write a Python function that computes the price after a discount in per cent.",
    "Write a Python function that reads a file and returns its longest line.",
    "Write a Python function that groups a list of dictionaries by one of their keys.",
    "Write a Python function that tells whether two rectangles overlap.",
    "Write a Python function that turns a list of rows into CSV text.",
    "Write a Python function that draws a triangle of stars with n lines.",
    "Write a Python function that returns the next leap year after a year.",
    "Write a Python function that replaces tabs by four spaces in a text.",
    "Write a Python class `Stack` with push, pop and peek.",
    "Write a Python class for a bank account that refuses to go below zero.",
    "Write a Python generator that gives the lines of a file which are not empty.",
    "Write a Python decorator that prints how long a function took.",
    "Use a list comprehension to get the squares of the odd numbers up to 20.",
    "Parse the date 2024-03-09 in Python and print the name of its weekday.",
    "Write a Python function with a doctest that adds two vectors given as tuples.",
    'Complete this function:\n\ndef clamp(value, low, high):\n    """Limit a value to a range."""\n',
    'Complete this function:\n\ndef count_words(text):\n    """Return a dictionary from each word to its count."""\n',
    'Complete this function:\n\ndef transpose(matrix):\n    """Swap rows and columns of a list of lists."""\n',
    "Find the bug: def mean(xs): return sum(xs) / len(xs) + 1",
    "Find the bug: for i in range(len(xs)): if xs[i] = 0: print(i)",
    "Make this shorter: result = []\nfor x in xs:\n    if x > 0:\n        result.append(x)",
    "What does this print? a = [1, 2, 3]; b = a; b.append(4); print(a)",
    "Write a JavaScript function that reverses the words of a sentence.",
    "Write a shell command that counts the lines of all .txt files in a folder.",
    "Write an SQL query for the three products with the highest price.",
    "Write a regular expression that matches a time such as 09:45.",
)
"""Short programs, to be written, completed, mended and explained; none is from a benchmark."""


def general() -> CheckedTask:
    """50 everyday requests, all of them selection items; an answer that goes on after 128 tokens fails."""
    return _task(GENERAL, REQUESTS, 128)


def general_code() -> CheckedTask:
    """30 requests for short programs, all of them selection items; an answer that goes on after 160 tokens fails."""
    return _task(CODE, CODE_REQUESTS, 160)


def _task(name: str, requests: Sequence[str], max_new_tokens: int) -> CheckedTask:
    checks = tuple(Check(request, ends, "ends by itself") for request in requests)
    return CheckedTask(name=name, version=VERSION, checks=checks, max_new_tokens=max_new_tokens, split="selection")
