"""Word problems whose answer stands in ``\\boxed{...}``: how they are asked, and when two answers are the same."""

from __future__ import annotations

import logging
import multiprocessing
import re
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any, ClassVar, Protocol

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.tasks.base import Readout, Sample, Score
from layercut.tasks.grading import grade_gold, guessing, outcome, parse_number

CHAIN = "Please reason step by step, and put your final answer within \\boxed{}."
SHORT = "Write the final answer within \\boxed{} and nothing else."
SHORT_TOKENS = 48

_BOX = "\\boxed{"
_BRACE = re.compile(r"\\boxed\{|[{}]")
_SPACE = re.compile(r"\s+(?![A-Za-z0-9])|(?<![A-Za-z0-9])\s+")
"""White space that separates nothing: "p - q", but not "1 8"."""
_SECONDS = 5  # after which math-verify gives up on one expression
_LONGEST = 100_000
"""Characters at the end of a text in which math-verify looks for an answer: its search takes their square."""


class _Boxed(Protocol):
    max_new_tokens: int

    other_metric: ClassVar[str]

    def unboxed(self, text: str, gold: str) -> tuple[str, bool]: ...


class BoxedReadouts:
    """Three readouts of a problem with a final answer, in the model's own chat format; for a task to inherit.

    ``chain`` asks for steps and an answer in a box, ``short`` for the box alone, and ``gold`` scores the right box
    after the prompt of ``short``, per token.

    ``boxed`` takes the content of the last ``\\boxed{...}`` and nothing else; the other metric (``other_metric``) takes
    the same or, where nothing right is boxed, what the task finds otherwise (``unboxed``). Both compare with
    math-verify, which compares values. The class of an answer (right, wrong, no answer, cut by length) follows
    ``boxed``. No early verdict: a later box or number takes the place of what was found so far.
    """

    readouts: tuple[Readout, ...] = ("chain",)
    extra_readouts: tuple[Readout, ...] = ("short", "gold")

    def request(self: _Boxed, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """One user turn: the problem and the usual instruction."""
        wish = CHAIN if readout == "chain" else SHORT
        prompt = (Message("user", f"{sample.question}\n{wish}"),)
        if readout == "gold":
            return LikelihoodRequest(id=sample.id, prompt=prompt, continuations=(f"{_BOX}{sample.gold}}}",))
        longest = self.max_new_tokens if readout == "chain" else min(self.max_new_tokens, SHORT_TOKENS)
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=longest)

    def grade(self: _Boxed, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """``boxed`` and the other metric: 1 or 0."""
        if isinstance(answer, Likelihoods):
            return grade_gold(sample, answer)
        boxed = last_boxed(answer.text)
        right = bool(boxed) and same_value(boxed, sample.gold)
        found, also = (boxed, True) if right else self.unboxed(answer.text, sample.gold)
        kind = outcome(right=right, answer=boxed, finish_reason=answer.finish_reason)
        return Score({"boxed": float(right), self.other_metric: float(also)}, boxed or found, kind)

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The right box for short answers; no chain of steps can be guessed."""
        return f"{_BOX}{sample.gold}}}" if readout == "short" else ""

    def answer_start(self, sample: Sample, readout: Readout, text: str) -> int | None:
        """Characters before the last box that is closed."""
        return last_box(text)[0] if last_boxed(text) else None

    def chance(self: _Boxed, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """Always giving the most common right answer of these samples."""
        return guessing(samples, readout, ("boxed", self.other_metric))


def last_boxed(text: str) -> str:
    """The content of the last ``\\boxed{...}`` whose braces are closed; empty if there is none.

    >>> last_boxed("So \\\\boxed{12}, no, \\\\boxed{\\\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    >>> last_boxed("I think it is \\\\boxed{12")
    ''
    """
    return last_box(text)[1]


def last_box(text: str) -> tuple[int, str]:
    """Start of the last closed box, and its content; (0, "") if there is none."""
    last, end = -1, -1
    are_open = []  # where each brace begins that is not closed so far; -1 for one that opens no box
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            are_open.append(brace.start() if brace[0] == _BOX else -1)
        elif are_open and (start := are_open.pop()) > last:
            last, end = start, brace.start()
    return (last, text[last + len(_BOX) : end].strip()) if last >= 0 else (0, "")


def same_value(answer: str, gold: str) -> bool:
    """True if two answers are the same to the letter, or equal in value to math-verify.

    Numbers are compared as numbers; the rest by math-verify, which may take 5 seconds for one expression. Its time
    limit works by signals, which only a main thread gets, so any other thread has a process of its own do the work.

    >>> same_value("1,234.0", "1234"), same_value("\\\\text{east}", "\\\\text{east}"), same_value("7", "8")
    (True, True, False)
    """
    answer, gold = answer.strip(), gold.strip()
    number, right = parse_number(answer), parse_number(gold)
    if number is not None and right is not None:
        return number == right
    if _SPACE.sub("", answer) == _SPACE.sub("", gold):
        return True
    return _on_main_thread(_verify, f"${answer}$", gold)


def found_in(text: str, gold: str) -> bool:
    """True if the answer that math-verify itself finds in a text has the right value; limits as in ``same_value``."""
    return _on_main_thread(_verify, text, gold)


def _verify(answer: str, gold: str) -> bool:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # its warnings quote the whole text
    kinds = (LatexExtractionConfig(), ExprExtractionConfig())
    parsed = parse(answer[-_LONGEST:], kinds, parsing_timeout=_SECONDS)
    right = parse(gold if parse_number(gold) is not None else f"${gold}$", kinds, parsing_timeout=_SECONDS)
    return bool(verify(right, parsed, timeout_seconds=_SECONDS))


def _on_main_thread(work: Any, *given: str) -> bool:
    if threading.current_thread() is threading.main_thread():
        return bool(work(*given))
    return bool(_helper().submit(work, *given).result())


@cache
def _helper() -> ProcessPoolExecutor:
    """One process, in whose main thread the work is done."""
    return ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn"))
