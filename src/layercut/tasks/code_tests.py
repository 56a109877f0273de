"""The tests of the code benchmarks: upstream's, with their errors fixed.

Upstream is OpenAI's and Google's published files, and EvalPlus' (Liu et al., arXiv:2305.01210) with its tolerances and
special judges.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from layercut.errors import InputError
from layercut.sandbox.isolation import Limits
from layercut.tasks.data_files import DataRow
from layercut.tasks.program_parts import NOT_PYTHON, defined, needed, undefined

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


def mended(tests: str, row: DataRow, reference: str, names: Sequence[str]) -> str:
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
