"""MATH-500: competition problems with a closed-form answer, zero-shot in the model's own chat format.

``math500:4`` asks as plain text, for base models too, with the four worked examples of Lewkowycz et al., "Solving
Quantitative Reasoning Problems with Language Models", arXiv:2206.14858, and ``math500:0`` with none.

The 500 test problems of Lightman et al., "Let's Verify Step by Step", arXiv:2305.20050, out of Hendrycks et al.,
"Measuring Mathematical Problem Solving With the MATH Dataset", arXiv:2103.03874; data set ``HuggingFaceH4/MATH-500``.

A sample problem: "Convert the point $(0,3)$ in rectangular coordinates to polar coordinates." with the gold answer
``\\left( 3, \\frac{\\pi}{2} \\right)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from layercut.engine.base import GenerationRequest, LikelihoodRequest
from layercut.tasks.base import Readout, Sample
from layercut.tasks.boxed import BoxedReadouts, found_in, last_boxed
from layercut.tasks.data_files import DataRow, text_field
from layercut.tasks.few_shot import content_id
from layercut.tasks.rows_task import RowsTask

if TYPE_CHECKING:
    from layercut.tasks.lm_eval.forms import CompletionForm

VERSION = 2
"""Raised by any change of the prompt or the grading.

2: the metrics ``strict`` and ``flexible`` are called ``boxed`` and ``anywhere``, as in ``gsm8k``. The values are the
same.
"""
DATASET = "HuggingFaceH4/MATH-500"


@dataclass(frozen=True, kw_only=True)
class Math500(BoxedReadouts, RowsTask):
    """MATH-500 read out as a chain of steps; ``short`` and ``gold`` by name.

    The published data set has one split, ``test``, so selection items are half of it, by the hash of their content; a
    model that used none of them is reported on all 500. In a local folder they come from ``train.jsonl``, where it is
    there: MATH's own training split, whose rows box the answer in ``solution``.

    The gold answer is the field ``answer``. The worked solution (field ``solution``) holds many other expressions,
    any of which a comparison with the whole solution may take for the answer.

    Grading: see ``BoxedReadouts``; where nothing right is boxed, ``anywhere`` takes what math-verify itself finds in
    the completion (arXiv:2602.01997 grades by that). "\\frac12", "0.5" and "1/2" are the same, "x = 3" answers 3, and
    "(3, \\pi/2)" answers the sample problem. Units and text must agree as math-verify reads them.
    """

    dataset = DATASET
    other_metric = "anywhere"

    data: str | None = None  # a local file or folder in place of the hub's data set
    max_new_tokens: int = 1024  # longest answer
    name: str = "math500"
    version: int = VERSION

    @staticmethod
    def sample(row: DataRow) -> Sample:
        problem, solution = text_field(row, "problem"), row.fields.get("solution")
        boxed = last_boxed(solution) if isinstance(solution, str) and "answer" not in row.fields else ""
        answer = boxed or text_field(row, "answer")
        data = {name: row.fields[name] for name in ("subject", "level") if name in row.fields}
        return Sample(id=content_id("math500", problem, answer), question=problem, gold=answer, data=data)

    def unboxed(self, text: str, gold: str) -> tuple[str, bool]:
        """The answer that math-verify finds in the whole text."""
        right = bool(text.strip()) and found_in(text, gold)
        return gold if right else last_boxed(text), right


@dataclass(frozen=True, kw_only=True)
class Math500Completed(Math500):
    """MATH-500 as plain text after worked examples; graded in the same way."""

    num_shots: int
    extra_readouts: tuple[Readout, ...] = ()

    @cached_property
    def _form(self) -> CompletionForm:
        from layercut.tasks.lm_eval.forms import published_form

        file = "minerva_math/minerva_math_algebra.yaml"
        return published_form(file, self.num_shots, lambda one: {"problem": one.question, "answer": one.gold})

    def settings(self) -> Mapping[str, Any]:
        """See RowsTask; and the worked examples."""
        return {**super().settings(), **self._form.described}

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """The examples and the problem."""
        prompt, longest = self._form.prompt(sample), self.max_new_tokens
        return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=longest, stop=self._form.stop)


def math500(*, data: str | None = None, max_new_tokens: int = 1024, num_shots: int | None = None) -> Math500:
    """MATH-500 from the hub or from a local copy. Without worked examples it needs a model with a chat template."""
    if num_shots is None:
        return Math500(data=data, max_new_tokens=max_new_tokens)
    return Math500Completed(name=f"math500:{num_shots}", data=data, max_new_tokens=max_new_tokens, num_shots=num_shots)
