"""The tasks: what makes each, and what it counts for. A new one is a row here and a file in ``tasks/``.

No task is imported before it is used, so ``--help`` and the checks of a command stay quick.
"""

from __future__ import annotations

from typing import Any, NamedTuple

BY_LM_EVAL = "lm_eval.loading:lm_eval_task"


class InSuite(NamedTuple):
    """A task's place in a suite."""

    suite: str
    readout: str = ""  # all readouts of the task where it is empty
    limit: int | None = None
    num_shots: int | None = None  # worked examples before each item


class KnownTask(NamedTuple):
    """One row of the table of tasks."""

    factory: str  # ``module:function`` below layercut.tasks; the function takes the options that the task has
    summary: str
    worked: str = ""  # the task of lm-eval that is asked for with worked examples, ``NAME:8``, where it is another one
    needs_files: bool = False
    """Its items come from a data set. Training data never holds report items of a task that needs no files; of these
    where their files are given."""
    uses: tuple[str, ...] = ()  # ``math/short``: run for this use with this readout; ``math``: counts where it was run
    part_of: tuple[str, ...] = ()  # the same, of a part of the use only: a loss is a loss, what it keeps is a proxy
    suites: tuple[InSuite, ...] = ()


_BOXED, _CODE, _CHECKED, _LOCAL = "benchmarks.boxed", "benchmarks.code_problems", "builtin.checked", "or a local copy"
_BUILT_IN, _QUICK, _PAPER, _EFFECT = (
    InSuite("builtin"),
    InSuite("quick", "short"),
    InSuite("paper"),
    InSuite("side_effects"),
)
_MATH, _PROGRAMS, _CHOICES = ("all/chain", "math/chain"), ("all/chain", "code/chain"), ("all/rank", "classify/rank")
_PAPER_5 = InSuite("paper", "rank", num_shots=5)


def _built_in(factory: str, summary: str, **columns: Any) -> KnownTask:
    return KnownTask(factory, f"{summary} (built in)", **columns)


def _of_files(factory: str, summary: str, uses: tuple[str, ...], *suites: InSuite, **columns: Any) -> KnownTask:
    return KnownTask(factory, summary, needs_files=True, uses=uses, suites=suites, **columns)


TASKS = {
    "arithmetic": _built_in(
        "builtin.lines:arithmetic_task", "sums, differences and products of one and two digits",
        uses=("all/short", "classify/rank", "math/short"), suites=(_BUILT_IN, _QUICK),
    ),
    "brackets": _built_in(
        "builtin.lines:brackets_task", "close open brackets: ( [ {",
        uses=("all/short", "classify/rank"), part_of=("code/short",), suites=(_BUILT_IN, _QUICK),
    ),
    "copy": _built_in(
        "builtin.lines:copying_task", "repeat a list of four to eight words", suites=(_BUILT_IN, _QUICK),
        uses=("all/short", "classify/rank", "copy/short"), part_of=("summarize/short", "chat/short"),
    ),
    "chain_sum": _built_in("builtin.steps:chain_sum", "sums of five to seven numbers, in steps", uses=("math",)),
    "gsm_symbolic": _built_in(
        "builtin.steps:gsm_symbolic", "grade-school word problems made from templates",
        uses=_MATH, part_of=("chat/chain",), suites=(_BUILT_IN,),
    ),
    "mmlu": _of_files(BY_LM_EVAL, "exam questions of 57 subjects with four choices", _CHOICES, _PAPER_5),
    "arc_challenge": _of_files(BY_LM_EVAL, "the harder of these science questions", _CHOICES, _PAPER_5),
    "arc_easy": _of_files(
        BY_LM_EVAL, "science questions with three to five choices", _CHOICES,
        InSuite("quick", "rank", limit=100), _PAPER_5,
    ),
    "hellaswag": _of_files(BY_LM_EVAL, "which of four sentences continues a text", _CHOICES, _PAPER_5),
    "winogrande": _of_files(BY_LM_EVAL, "which of two names fits into a sentence", _CHOICES, _PAPER_5),
    "piqa": _of_files(BY_LM_EVAL, "which of two ways reaches an everyday goal", _CHOICES, _PAPER_5),
    "openbookqa": _of_files(BY_LM_EVAL, "elementary science with four choices", _CHOICES, _PAPER_5),
    "gsm8k": _of_files(
        f"{_BOXED}:gsm8k_task", f"grade-school word problems (openai/gsm8k, {_LOCAL})", _MATH, _PAPER,
        part_of=("chat/chain",), worked="gsm8k_cot",
    ),
    "math500": _of_files(
        f"{_BOXED}:math500_task", f"competition mathematics (HuggingFaceH4/MATH-500, {_LOCAL})", _MATH, _PAPER
    ),
    "humaneval_plus": _of_files(
        f"{_CODE}:humaneval_plus", f"complete a Python function, many tests (evalplus/humanevalplus, {_LOCAL})",
        _PROGRAMS, _PAPER,
    ),
    "mbpp_plus": _of_files(
        f"{_CODE}:mbpp_plus", f"short Python problems, many tests (evalplus/mbppplus, {_LOCAL})", _PROGRAMS, _PAPER
    ),
    "xsum": _of_files(
        "benchmarks.xsum:XSum", f"one-sentence summaries, by ROUGE (EdinburghNLP/xsum, {_LOCAL})",
        ("all/short", "summarize/short"), _PAPER, part_of=("chat/short",),
    ),
    "humaneval": _of_files(
        f"{_CODE}:humaneval_task", f"the functions of humaneval_plus, few tests (openai/openai_humaneval, {_LOCAL})",
        _PROGRAMS,
    ),
    "mbpp": _of_files(
        f"{_CODE}:mbpp_task", f"those of mbpp_plus, few tests (google-research-datasets/mbpp, {_LOCAL})", _PROGRAMS
    ),
    "general": _built_in(f"{_CHECKED}:general", "everyday requests, to choose and heal with"),
    "general_code": _built_in(f"{_CHECKED}:general_code", "short programs to write, to choose and heal with"),
    "endings": _built_in(
        f"{_CHECKED}:endings", "answers of one or two sentences that end by themselves", suites=(_EFFECT,)
    ),
    "same_language": _built_in(
        f"{_CHECKED}:same_language", "answers in the language of the request, one of ten", suites=(_EFFECT,)
    ),
    "instructions": _built_in(
        f"{_CHECKED}:instructions", "instructions about an answer's form, after IFEval", suites=(_EFFECT,)
    ),
    "needle_2k": _built_in(f"{_CHECKED}:needle_2k", "a number in a text of 2,000 tokens", suites=(_EFFECT,)),
    "needle_8k": _built_in(f"{_CHECKED}:needle_8k", "a number in a text of 8,000 tokens"),
}  # fmt: skip
"""By name. The order is that of suites and of the tasks of a use."""
