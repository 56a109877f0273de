"""CheckedTask: requests whose answers pass or fail by a rule.

``general`` and ``general_code`` choose and heal with everyday requests. ``suite:side_effects`` checks what pruning and
healing may break in silence: answers that end by themselves, in the language of the request, in the form that was asked
for, and a number in a long text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from random import Random
from typing import Any, NamedTuple

from layercut.engine.base import Completion, GenerationRequest, Likelihoods, Message
from layercut.tasks.base import Readout, Sample, Score, Split, Task, content_id
from layercut.tasks.grading import grade_free_text

GENERAL, CODE = "general", "general_code"
GENERAL_VERSION, VERSION = 2, 1  # of the two above, and of the others; raised by any change of the requests or rules
REQUESTS: dict[str, Any] = json.loads(files(__package__).joinpath("requests.json").read_text("utf-8"))
"""Per task; of ``endings`` the topics. No two tasks share a request; none of ``general_code`` is a benchmark's."""


class Check(NamedTuple):
    """One request and its rule."""

    prompt: str
    passes: Callable[[Completion], bool]
    wanted: str  # requirement of a right answer, for people


@dataclass(frozen=True, kw_only=True)
class CheckedTask(Task):
    """Requests in the model's chat format; each answer passes or fails.

    There is no score of guessing: of most checks a constant answer would pass all, and what counts is the difference
    from the original model.
    """

    name: str
    checks: tuple[Check, ...]
    max_new_tokens: int
    version: int = VERSION
    readouts: tuple[Readout, ...] = ("short",)
    split: Split = "report"  # the split of all items: no layers are chosen by the checks of what a cut breaks

    def settings(self) -> Mapping[str, object]:
        return {"version": self.version, "max_new_tokens": self.max_new_tokens}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in an order by hash, in which kinds of requests are mixed."""
        if split not in (self.split, "full"):
            return []
        samples = [
            Sample(
                id=content_id(self.name, check.prompt),
                question=check.prompt,
                gold=check.wanted,
                data={"passes": check.passes},
            )
            for check in self.checks
        ]
        return sorted(samples, key=lambda sample: sample.id)[:limit]

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        prompt = (Message("user", sample.question),)
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=self.max_new_tokens)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        return grade_free_text(answer.text.strip(), bool(sample.data["passes"](answer)), answer)

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {}


def general() -> CheckedTask:
    """50 everyday requests, all of them selection items; an answer that goes on after 128 tokens fails."""
    return _selecting(GENERAL, 128)


def general_code() -> CheckedTask:
    """30 requests for short programs, all of them selection items; an answer that goes on after 160 tokens fails."""
    return _selecting(CODE, 160)


def _selecting(name: str, longest: int) -> CheckedTask:
    checks = tuple(Check(request, _ends, "ends by itself") for request in REQUESTS[name])
    return CheckedTask(name=name, version=GENERAL_VERSION, checks=checks, max_new_tokens=longest, split="selection")


def _ends(answer: Completion) -> bool:
    return answer.finish_reason == "stop"


def endings() -> CheckedTask:
    """48 requests such as "Explain in one or two sentences what rust is."; an answer that goes on after 160 tokens
    fails."""
    prompts = (f"Explain in one or two sentences what {topic} is." for topic in REQUESTS["endings"])
    checks = tuple(Check(prompt, _ends, "ends by itself") for prompt in prompts)
    return CheckedTask(name="endings", checks=checks, max_new_tokens=160)


def same_language() -> CheckedTask:
    """40 everyday requests, four in each of ten languages; an answer in another language, or none, fails.

    After what was reported of pruned Qwen3-30B-A3B, which answered in another language than it was asked.
    """
    checks = tuple(
        Check(request, partial(_is_in, language), f"is in the language {language}")
        for language, requests in REQUESTS["same_language"].items()
        for request in requests
    )
    return CheckedTask(name="same_language", checks=checks, max_new_tokens=96)


def _is_in(language: str, answer: Completion) -> bool:
    return bool(answer.text.strip()) and language_of(answer.text) == language


def language_of(text: str) -> str:
    """The likeliest language of a text, among English and those of the requests: ``de``."""
    import py3langid  # imported here: it reads its model

    py3langid.set_languages(["en", *REQUESTS["same_language"]])
    return str(py3langid.classify(text)[0])


def instructions() -> CheckedTask:
    """48 requests to write about one of four topics in a form that a rule checks; an empty answer fails.

    The kinds are those of IFEval (Zhou et al., arXiv:2311.07911), which ``lm-eval:ifeval`` asks in full.
    """
    checks = tuple(
        Check(f"Write one or two sentences about {topic}. {rule}", partial(_follows, holds), rule)
        for rule, holds in _RULES.items()
        for topic in ("a walk in the forest", "a new bicycle", "cooking for friends", "a train that is late")
    )
    return CheckedTask(name="instructions", checks=checks, max_new_tokens=128)


def _follows(holds: Callable[[str], bool], answer: Completion) -> bool:
    return bool(text := answer.text.strip()) and holds(text)


def _is_object(text: str) -> bool:
    value = parsed_answer(text)
    return isinstance(value, dict) and set(value) == {"title", "text"}


def parsed_answer(text: str) -> Any:
    """The JSON value that a text is, within a fence of code or not; None for other texts."""
    inside = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        return json.loads(inside[1] if inside else text)
    except ValueError:
        return None


_RULES: dict[str, Callable[[str], bool]] = {
    "Write in lower case only, without any capital letter.": lambda text: text == text.lower(),
    "Write in capital letters only.": lambda text: text == text.upper() != text.lower(),
    "Do not use any comma.": lambda text: "," not in text,
    "Answer with exactly three bullet points, each on a line of its own that begins with '- '.": lambda text: (
        len(re.findall(r"^\s*[-*•] ", text, re.MULTILINE)) == 3
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

_PLACES = """Ashford Benton Carlow Dunmore Elstree Farnham Grafton Halden Ipsley Jarrow Kelso Ludlow Marton Newbury
    Oakham Penrith Quenby Romsey Selby Thornton Upton Verwood Wexford Yarmouth""".split()  # noqa: SIM905
_WHO = ("The baker", "A teacher", "The old sailor", "My neighbour", "The gardener", "A young nurse", "The postman")
_DOES = ("walked to", "wrote about", "came back from", "bought bread in", "painted a house in", "met a friend in")
_WHEN = ("in the spring", "after the storm", "on a quiet morning", "before the market opened", "late in the evening")


def needle_2k() -> CheckedTask:
    """24 texts of about 2,000 tokens; in each, one town has a code of six digits, and the answer must hold it.

    The code stands at places spread evenly from the beginning to the end.
    """
    return _needles("needle_2k", 1300)  # tokenizers make 1.2 to 1.5 tokens of a word here


def needle_8k() -> CheckedTask:
    """The same in texts of about 8,000 tokens."""
    return _needles("needle_8k", 5200)


def _needles(name: str, num_words: int) -> CheckedTask:
    checks = []
    for index, place in enumerate(_PLACES):
        rng = Random(f"needle {VERSION} {index} {num_words}")
        code, sentences, num_written = str(rng.randint(100_000, 999_999)), list[str](), 0
        others = [name for name in _PLACES if name != place]
        while num_written < num_words:
            other = rng.choice(others)
            sentences.append(f"{rng.choice(_WHO)} {rng.choice(_DOES)} {other} {rng.choice(_WHEN)}.")
            num_written += len(sentences[-1].split())
        sentences.insert(round(index / (len(_PLACES) - 1) * len(sentences)), f"The code of {place} is {code}.")
        prompt = f"{' '.join(sentences)}\n\nWhat is the code of {place}? Answer with the code alone."
        checks.append(Check(prompt, partial(_holds, code), code))
    return CheckedTask(name=name, checks=tuple(checks), max_new_tokens=24)


def _holds(code: str, answer: Completion) -> bool:
    return code in answer.text.replace(",", "").replace(" ", "")
