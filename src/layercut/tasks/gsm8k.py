"""GSM8K: grade-school word problems, zero-shot in the model's own chat format.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv:2110.14168; data set ``openai/gsm8k``.

A sample problem: "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How
many clips did Natalia sell altogether in April and May?" with the gold answer 72.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from layercut.errors import InputError
from layercut.tasks.base import Sample
from layercut.tasks.boxed import BoxedReadouts, last_boxed, same_value
from layercut.tasks.data_files import DataRow, text_field
from layercut.tasks.few_shot import content_id
from layercut.tasks.grading import all_numbers, parse_number
from layercut.tasks.rows_task import RowsTask

VERSION = 2
"""Raised by any change of the prompt or the grading.

2: the metrics ``strict`` and ``flexible`` are called ``boxed`` and ``last_number``, because lm-eval gives the old names
to other rules. The values are the same.
"""
DATASET = "openai/gsm8k"
_CALCULATOR = re.compile(r"<<[^<>]*>>")


@dataclass(frozen=True, kw_only=True)
class Gsm8k(BoxedReadouts, RowsTask):
    """GSM8K read out as a chain of steps; ``short`` and ``gold`` by name.

    Selection items come from ``train`` and report items from ``test``; a single local file is halved.

    Grading: see ``BoxedReadouts``; without a box, ``last_number`` takes the last number of the completion. lm-eval's
    gsm8k has other rules: its ``strict-match`` takes the number behind "####", which its worked examples teach and this
    prompt does not, and its ``flexible-extract`` the last number even where one is boxed, compared as text.
    "18", "18.00", "\\$18", "18\\%" and "18 \\text{ dollars}" all answer 18, "1,234" answers 1234, "36/2" answers 18 as
    well.
    """

    dataset = DATASET
    config = "main"
    other_metric = "last_number"

    data: str | None = None  # a local file, or a folder with train and test files, in place of the hub's data set
    max_new_tokens: int = 512  # longest answer
    name: str = "gsm8k"
    version: int = VERSION

    @staticmethod
    def sample(row: DataRow) -> Sample:
        question, solution = text_field(row, "question"), text_field(row, "answer")
        steps, mark, gold = solution.rpartition("####")
        value = parse_number(gold.strip())
        if not mark or value is None:
            raise InputError(f"{row.where}: the answer does not end in #### and a number. Mend or remove the row.")
        worked = f"{_CALCULATOR.sub('', steps).strip()}\nThe answer is \\boxed{{{value}}}."
        return Sample(
            id=content_id("gsm8k", question, str(value)), question=question, gold=str(value), data={"solution": worked}
        )

    def unboxed(self, text: str, gold: str) -> tuple[str, bool]:
        """The last number, where nothing is boxed."""
        boxed = last_boxed(text)
        numbers = [] if boxed else all_numbers(text)
        found = str(numbers[-1]) if numbers else ""
        return found, bool(found) and same_value(found, gold)


def gsm8k(*, data: str | None = None, max_new_tokens: int = 512) -> Gsm8k:
    """GSM8K from the hub or from a local copy. Needs a model with a chat template."""
    return Gsm8k(data=data, max_new_tokens=max_new_tokens)
