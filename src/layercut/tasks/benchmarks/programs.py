"""CodeTask: problems answered by a program, graded by running it against tests in a sandbox.

The tests are upstream's (OpenAI's and Google's published files, and EvalPlus': Liu et al., arXiv:2305.01210, with its
tolerances and special judges), with their errors fixed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.errors import InputError
from layercut.sandbox.isolation import Limits
from layercut.sandbox.runner import Program, ProgramResult, in_force, run_programs
from layercut.tasks.base import Readout, Sample, Score, Split
from layercut.tasks.benchmarks.rows_task import RowsTask
from layercut.tasks.data_files import DataRow
from layercut.tasks.grading import outcome
from layercut.tasks.lm_eval.forms import CompletionForm
from layercut.tasks.program_answers import (
    NOT_PYTHON,
    OPENED,
    STOP,
    defined,
    find_program,
    needed,
    program_class,
    undefined,
)
from layercut.tasks.splits import SplitNames, first_of


@dataclass(frozen=True, kw_only=True)
class CodeTask(RowsTask):
    """Problems with tests. The model writes a program in a code block that is opened for it, or in the completion form
    right behind the prompt.

    Grading: ``pass`` is 1 if all tests of the problem pass, else 0. The score's answer says how the program fared:
    ``passed``, or the failure (the name of a Python exception, ``timeout``, ``memory``, ``output`` or ``exit``), a
    colon and a line about it. No program in the completion is ``no_answer``.

    Chance is 0: no constant program passes the tests of a problem, and an empty body passes none. No early verdict: any
    beginning of a program can go on to pass or to fail.
    """

    runs_programs: ClassVar[bool] = True
    name: str
    dataset: str  # on the hub
    published_as: str  # name of the file in which the benchmark is published, without its ending
    config: str | None = None  # configuration of the data set
    sample: Callable[[DataRow], Sample]
    """From a row to a sample, with ``instruction`` (the user's turn), ``head`` (what the code block begins with),
    ``tests`` and ``names`` (what the tests take from the program) in its data."""
    split_of: Callable[[DataRow], Split | None] | None = None
    """The benchmark's own split of a row; None for neither. If left out, the splits of the data set."""
    in_test_set: Callable[[DataRow], bool] | None = None
    """With ``split_of``: the test set, where selection items are part of it. If left out, it is the report items."""
    limits: Limits
    data: str | None = None
    """A local file, or a folder with split files or with the published one, in place of the hub's data set."""
    max_new_tokens: int = 512  # longest answer
    version: int
    completion: Callable[[], CompletionForm] | None = None
    """Prompt and stop strings of the completion form, in place of the chat format."""
    readouts: tuple[Readout, ...] = ("chain",)

    def settings(self) -> Mapping[str, Any]:
        published = {"splits": "as published"} if self.split_of else {}
        return {**super().settings(), **published, **({} if self._form is None else self._form.described)}

    @property
    def shares_test_set(self) -> bool:
        return self._split_names.are_halves if self.split_of is None else self.in_test_set is not None

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in the order of the data set.

        Raises:
            InputError: no sandbox works here. Said now, before a model has written programs for an hour.
        """
        in_force()
        if self.split_of is None:
            return super().samples(split, limit)
        every = [row for part in self._rows.splits.values() for row in part]
        rows = {part: [row for row in every if self.split_of(row) == part] for part in ("selection", "report")}
        if split == "full" and self.in_test_set is not None:
            rows["report"] = [row for row in every if self.in_test_set(row)]
        names = SplitNames("selection", "report")
        return first_of(split, names, lambda name: map(self.sample, rows[name]), limit)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """The problem as one user turn, and an answer begun with a code block; or the text of the completion form."""
        if self._form is not None:
            text, stop = self._form.prompt(sample), self._form.stop
            return GenerationRequest(id=sample.id, prompt=text, max_new_tokens=self.max_new_tokens, stop=stop)
        head = sample.data["head"]
        return GenerationRequest(
            id=sample.id,
            prompt=(Message("user", sample.data["instruction"]), Message("assistant", OPENED + head)),
            begins="\n" if head else "",
            max_new_tokens=self.max_new_tokens,
            stop=STOP,
        )

    def grade_all(
        self, samples: Sequence[Sample], readout: Readout, answers: Sequence[Completion | Likelihoods]
    ) -> list[Score]:
        """Run many programs over the cores; scores in the order of the samples.

        Raises:
            InputError: no sandbox works here.
        """
        programs = [self._program(sample, answer) for sample, answer in zip(samples, answers, strict=True)]
        results = iter(run_programs([program for program in programs if program.source], limits=self.limits))
        return [
            _score(next(results) if program.source else None, program.source, sample.data["head"], answer)
            for program, sample, answer in zip(programs, samples, answers, strict=True)
        ]

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """0; see the class."""
        return {"pass": 0.0}

    @staticmethod
    def _program(sample: Sample, answer: Completion | Likelihoods) -> Program:
        assert isinstance(answer, Completion)
        source = find_program(answer.text, sample.data["names"], sample.data["head"])
        return Program(source, tests=sample.data["tests"], names=sample.data["names"])

    @cached_property
    def _form(self) -> CompletionForm | None:
        return None if self.completion is None else self.completion()


def _score(result: ProgramResult | None, source: str, head: str, answer: Completion | Likelihoods) -> Score:
    assert isinstance(answer, Completion)
    if result is None:
        said, right = "", False
    else:
        right = result.passed
        said = "passed" if right else f"{result.failure}: {result.detail}".removesuffix(": ")
    kind = outcome(right=right, answer=said, finish_reason=answer.finish_reason)
    return Score({"pass": float(right)}, said, kind, program_class(source, head, answer, result))


PLUS_LIMITS = Limits(cpu_seconds=60, memory_mb=4096)
"""A few reference solutions take ten seconds and over a gigabyte on the largest inputs."""

_MENDS = (
    # An empty list is close to everything, and a number is compared with each item of a list. EvalPlus' own evaluator
    # (0.3.1) compares types and lengths first; the published tests do not.
    (
        "assert np.allclose(out, exp, rtol=1e-07, atol=atol)",
        "assert type(out) == type(exp) and np.shape(out) == np.shape(exp)\n"
        "        assert np.allclose(out, exp, rtol=1e-07, atol=atol)",
    ),
    # HumanEval/32 passes the root where the coefficients belong, so that no program passes.
    ("assert _poly(*candidate(*inp), inp) <= 0.0001", "assert abs(_poly(*inp, candidate(*inp))) <= 0.0001"),
    # The judge of Mbpp/737, 787 and 794 compares and then forgets to assert, so that every program passes.
    ("exact_match = exp == (out is not None)\n", "exact_match = exp == (out is not None)\n    assert exact_match\n"),
)


def mend_tests(tests: str, row: DataRow, reference: str, names: Sequence[str]) -> str:
    """Tests that take from the program under test only what it is asked for.

    Args:
        tests: as published.
        reference: the solution that they were published with, signature included.
        names: what the program is asked for.

    What else the tests use and the reference defines, such as the encoder that a decoder is tested with, is taken from
    the reference: a program could redefine it so that it passes. Classes remain the program's, since their objects
    are given to it.

    Raises:
        InputError: the tests or the reference are not Python.
    """
    for fault, mend in _MENDS:
        tests = tests.replace(fault, mend)
    try:
        offered = defined(reference) - set(names)
        if not any(re.search(rf"\b{name}\b", tests) for name in offered):  # parsing megabytes of tests takes seconds
            return tests
        borrowed = sorted(offered & undefined(tests))
        return f"{needed(reference, borrowed)}\n{tests}" if borrowed else tests
    except NOT_PYTHON as error:
        raise InputError(
            f"{row.where}: the tests or the solution are not Python: {error}. Mend or remove the row."
        ) from error


def refuse_inputs_only(row: DataRow, fine: str) -> None:
    """Refuse EvalPlus' own layout, whose ``test`` field (where there is one) holds the base tests alone.

    Raises:
        InputError: the row has inputs in place of tests.
    """
    if "plus_input" in row.fields:
        raise InputError(
            f"{row.where}: holds the plus inputs without the results that are right, so its plus tests cannot be run. "
            f"Give {fine} of the same release, or the hub's copy."
        )
