"""GSM8K: grade-school word problems, asked without examples in the model's own chat format.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168; data set ``openai/gsm8k``.

A sample problem: "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How
many clips did Natalia sell altogether in April and May?" with the gold answer 72.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.errors import InputError, MissingExtra
from layercut.tasks.base import Readout, Sample, Score, Split
from layercut.tasks.data_files import DataSet, Row, read_local, text_field
from layercut.tasks.few_shot import content_id
from layercut.tasks.grading import all_numbers, guessing, outcome, parse_number
from layercut.tasks.splits import SplitNames, choose_splits, first_of

VERSION = 1
"""Raised by any change of the prompt or the grading."""
DATASET = "openai/gsm8k"

_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."
_BOX = "\\boxed{"
_SECONDS = 5
"""After which math-verify gives up on one expression."""


@dataclass(frozen=True, kw_only=True)
class Gsm8k:
    """GSM8K read out as a chain of steps.

    Selection items come from ``train`` and report items from ``test``; a single local file is halved.

    Grading: ``strict`` takes the content of the last ``\\boxed{...}`` and nothing else; ``flexible`` takes the same or,
    where nothing is boxed, the last number of the completion. Both compare with math-verify, which looks at the value:
    "18", "18.00", "\\$18", "18\\%" and "18 \\text{ dollars}" all answer 18, "1,234" answers 1234, "36/2" answers 18 as
    well. The class of an answer (right, wrong, ...) follows ``strict``.
    """

    data: str | None = None
    """A local file, or a folder with train and test files, in place of the hub's data set."""
    max_new_tokens: int = 512
    """Longest answer."""
    name: str = "gsm8k"
    version: int = VERSION
    readouts: tuple[Readout, ...] = ("chain",)

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"gsm8k: max_new_tokens {self.max_new_tokens} is too small; use 1 or more.")

    def settings(self) -> Mapping[str, Any]:
        """What decides the samples; a local file counts by its content, not by its place."""
        return {
            "version": self.version,
            "max_new_tokens": self.max_new_tokens,
            "data": self._rows.sha256,
            "splits": self._split_names.describe(),
        }

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set."""
        rows = self._rows.splits
        return first_of(split, self._split_names, lambda name: map(_sample, rows[name]), limit)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """One user turn: the problem and the usual instruction."""
        prompt = (Message("user", f"{sample.question}\n{_INSTRUCTION}"),)
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=self.max_new_tokens)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """``strict`` and ``flexible``: 1 or 0."""
        assert isinstance(answer, Completion)
        boxed = last_boxed(answer.text)
        found = boxed or _last_number(answer.text)
        strict = bool(boxed) and same_value(boxed, sample.gold)
        flexible = strict or (bool(found) and same_value(found, sample.gold))
        kind = outcome(right=strict, answer=boxed, finish_reason=answer.finish_reason)
        return Score({"strict": float(strict), "flexible": float(flexible)}, found, kind)

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        """Never: a later box, or without any box a later number, takes the place of what was found so far."""
        return False

    def draft(self, sample: Sample, readout: Readout) -> str:
        """None: no chain of steps can be guessed."""
        return ""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """Always giving the most common right answer of these samples."""
        return guessing(samples, readout, ("strict", "flexible"))

    @cached_property
    def _rows(self) -> DataSet:
        return _from_hub() if self.data is None else read_local(self.data)

    @cached_property
    def _split_names(self) -> SplitNames:
        return choose_splits(self._rows.splits, selection=("train", "validation"))


def gsm8k(*, data: str | None = None, max_new_tokens: int = 512) -> Gsm8k:
    """GSM8K from the hub or from a local copy. Needs a model with a chat template."""
    return Gsm8k(data=data, max_new_tokens=max_new_tokens)


def last_boxed(text: str) -> str:
    """The content of the last ``\\boxed{...}`` whose braces are closed; empty if there is none.

    >>> last_boxed("So \\\\boxed{12}, no, \\\\boxed{\\\\frac{1}{2}}.")
    '\\\\frac{1}{2}'
    >>> last_boxed("I think it is \\\\boxed{12")
    ''
    """
    end = len(text)
    while (start := text.rfind(_BOX, 0, end)) >= 0:
        depth = 0
        for place in range(start + len(_BOX) - 1, len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if depth == 0:
                return text[start + len(_BOX) : place].strip()
        end = start
    return ""


def same_value(answer: str, gold: str) -> bool:
    """Whether math-verify finds two answers equal in value."""
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    plain = parse_number(answer.strip())
    if plain is not None:
        return plain == parse_number(gold)
    # A tower of powers can keep it busy for ever. Its time limit works by signals, which only the main thread gets.
    seconds = _SECONDS if threading.current_thread() is threading.main_thread() else None
    kinds = (LatexExtractionConfig(), ExprExtractionConfig())
    parsed = parse(f"${answer}$", kinds, parsing_timeout=seconds)
    return bool(verify(parse(gold, kinds, parsing_timeout=seconds), parsed, timeout_seconds=seconds))


def _last_number(text: str) -> str:
    numbers = all_numbers(text)
    return str(numbers[-1]) if numbers else ""


def _sample(row: Row) -> Sample:
    question, solution = text_field(row, "question"), text_field(row, "answer")
    _, mark, gold = solution.rpartition("####")
    value = parse_number(gold.strip())
    if not mark or value is None:
        raise InputError(f"{row.where}: the answer does not end in #### and a number. Mend or remove the row.")
    return Sample(id=content_id("gsm8k", question, str(value)), question=question, gold=str(value))


def _from_hub() -> DataSet:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra(f"fetching {DATASET}", "lm-eval") from error
    try:
        found = load_dataset(DATASET, "main")
    except Exception as error:  # what a failed download raises differs from version to version of three libraries
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"gsm8k: the data set {DATASET} cannot be loaded ({reason}). With no network give a local copy: "
            "--data gsm8k=PATH."
        ) from error
    splits = {
        name: [Row(f"{DATASET} {name} row {i}", row) for i, row in enumerate(rows)] for name, rows in found.items()
    }
    return DataSet(splits)
