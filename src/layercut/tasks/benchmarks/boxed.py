"""GSM8K and MATH-500: problems whose answer stands in ``\\boxed{...}``, zero-shot in the model's own chat format.

GSM8K: Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168; ``openai/gsm8k``. MATH-500: the
500 test problems of Lightman et al., "Let's Verify Step by Step", arXiv:2305.20050, out of Hendrycks et al., "Measuring
Mathematical Problem Solving With the MATH Dataset", arXiv:2103.03874; ``HuggingFaceH4/MATH-500``.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, Likelihoods, Message
from layercut.errors import InputError
from layercut.tasks.base import Readout, Sample, Score, content_id
from layercut.tasks.data_files import DataRow, text_field
from layercut.tasks.grading import all_numbers, guessing_chance, outcome_of, parse_number
from layercut.tasks.selected_items import RowsTask

CHAIN = "Please reason step by step, and put your final answer within \\boxed{}."

_BOX = "\\boxed{"
_BRACE = re.compile(r"\\boxed\{|[{}]")
_SPACE = re.compile(r"\s+(?![A-Za-z0-9])|(?<![A-Za-z0-9])\s+")
"""White space that separates nothing: "p - q", but not "1 8"."""
_CALCULATOR = re.compile(r"<<[^<>]*>>")
_SECONDS = 5  # after which math-verify gives up on one expression
_LONGEST = 100_000
"""Characters at the end of a text in which math-verify looks for an answer: its search takes their square."""


@dataclass(frozen=True, kw_only=True)
class BoxedTask(RowsTask):
    """Problems whose answer is written as steps that end in a box.

    ``boxed`` takes the content of the last ``\\boxed{...}`` and nothing else; the other metric (``other_metric``) takes
    the same or, where nothing right is boxed, what the task finds otherwise (``unboxed``). Both compare values. No
    early verdict: a later box or number takes the place of what was found so far. Needs a chat template.

    GSM8K: selection items come from ``train`` and report items from ``test``; a single local file is halved. Without a
    box, ``last_number`` takes the last number of the completion. lm-eval's gsm8k has other rules: its ``strict-match``
    takes the number behind "####", which its worked examples teach and this prompt does not, and its
    ``flexible-extract`` the last number even where one is boxed, compared as text. "18", "18.00", "\\$18", "18\\%" and
    "18 \\text{ dollars}" all answer 18, "1,234" answers 1234, "36/2" answers 18 as well.

    MATH-500 has one split, ``test``, so selection items are half of it, by the hash of their content; a model that used
    none of them is reported on all 500. In a local folder they come from ``train.jsonl``, where it is there: MATH's own
    training split, whose rows box the answer in ``solution``. Where nothing right is boxed, ``anywhere`` takes what
    math-verify itself finds in the completion (arXiv:2602.01997 grades by that). "\\frac12", "0.5" and "1/2" are the
    same, "x = 3" answers 3. Units and text must agree as math-verify reads them.
    """

    other_metric: str
    unboxed: Callable[[str, str], tuple[str, bool]]
    """From a text and the right answer, what is found where nothing right is boxed, and whether it is right."""
    version: int = 2
    readouts: tuple[Readout, ...] = ("chain",)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        """One user turn: the problem and the usual instruction."""
        prompt = (Message("user", f"{sample.question}\n{CHAIN}"),)
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=self.max_new_tokens)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """``boxed`` and the other metric: 1 or 0."""
        assert isinstance(answer, Completion)
        boxed = last_boxed_text(answer.text)
        right = bool(boxed) and same_value(boxed, sample.gold)
        said, also = (boxed, True) if right else self.unboxed(answer.text, sample.gold)
        kind = outcome_of(right=right, answer=boxed, finish_reason=answer.finish_reason)
        return Score({"boxed": float(right), self.other_metric: float(also)}, boxed or said, kind)

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """Always giving the most common right answer of these samples."""
        return guessing_chance(samples, readout, ("boxed", self.other_metric))


def _gsm8k_sample(row: DataRow) -> Sample:
    question, solution = text_field(row, "question"), text_field(row, "answer")
    steps, mark, gold = solution.rpartition("####")
    value = parse_number(gold.strip())
    if not mark or value is None:
        raise InputError(f"{row.where}: the answer does not end in #### and a number. Mend or remove the row.")
    worked = f"{_CALCULATOR.sub('', steps).strip()}\nThe answer is \\boxed{{{value}}}."
    return Sample(
        id=content_id("gsm8k", question, str(value)), question=question, gold=str(value), data={"solution": worked}
    )


def _math500_sample(row: DataRow) -> Sample:
    problem, solution = text_field(row, "problem"), row.fields.get("solution")
    boxed = last_boxed_text(solution) if isinstance(solution, str) and "answer" not in row.fields else ""
    answer = boxed or text_field(row, "answer")
    return Sample(id=content_id("math500", problem, answer), question=problem, gold=answer)


def _last_number(text: str, gold: str) -> tuple[str, bool]:
    """The last number, where nothing is boxed."""
    numbers = [] if last_boxed_text(text) else all_numbers(text)
    number = str(numbers[-1]) if numbers else ""
    return number, bool(number) and same_value(number, gold)


def _anywhere(text: str, gold: str) -> tuple[str, bool]:
    """The answer that math-verify itself finds in the whole text."""
    right = bool(text.strip()) and found_in(text, gold)
    return gold if right else last_boxed_text(text), right


def last_boxed_text(text: str) -> str:
    """The content of the last ``\\boxed{...}`` whose braces are closed; empty if there is none."""
    last, end = -1, -1
    are_open = []  # where each brace begins that is not closed so far; -1 for one that opens no box
    for brace in _BRACE.finditer(text):
        if brace[0] != "}":
            are_open.append(brace.start() if brace[0] == _BOX else -1)
        elif are_open and (start := are_open.pop()) > last:
            last, end = start, brace.start()
    return text[last + len(_BOX) : end].strip() if last >= 0 else ""


def same_value(answer: str, gold: str) -> bool:
    """True if two answers are equal as numbers, the same to the letter, or equal in value to math-verify."""
    answer, gold = answer.strip(), gold.strip()
    number, right = parse_number(answer), parse_number(gold)
    if number is not None and right is not None:
        return number == right
    return _SPACE.sub("", answer) == _SPACE.sub("", gold) or found_in(f"${answer}$", gold)


def found_in(text: str, gold: str) -> bool:
    """True if the answer that math-verify itself finds in a text has the right value.

    Its time limit works by signals, which only a main thread gets; in any other there is none.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # its warnings quote the whole text
    limit: Any = _SECONDS if threading.current_thread() is threading.main_thread() else None
    kinds = (LatexExtractionConfig(), ExprExtractionConfig())
    parsed = parse(text[-_LONGEST:], kinds, parsing_timeout=limit)
    right = parse(gold if parse_number(gold) is not None else f"${gold}$", kinds, parsing_timeout=limit)
    return bool(verify(right, parsed, timeout_seconds=limit))


gsm8k_task = partial(
    BoxedTask,
    name="gsm8k",
    dataset="openai/gsm8k",
    config="main",
    sample=_gsm8k_sample,
    max_new_tokens=512,
    other_metric="last_number",
    unboxed=_last_number,
)
math500_task = partial(
    BoxedTask,
    name="math500",
    dataset="HuggingFaceH4/MATH-500",
    sample=_math500_sample,
    max_new_tokens=1024,
    other_metric="anywhere",
    unboxed=_anywhere,
)
