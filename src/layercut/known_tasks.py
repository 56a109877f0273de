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


def _built_in(factory: str, summary: str, *suites: InSuite, **columns: Any) -> KnownTask:
    return KnownTask(f"builtin.{factory}", f"{summary} (built in)", suites=suites, **columns)


def _from_hub(factory: str, summary: str, hub: str, uses: tuple[str, ...], *suites: InSuite, **more: Any) -> KnownTask:
    summary = f"{summary} ({hub}, or a local copy)"
    return KnownTask(f"benchmarks.{factory}", summary, needs_files=True, uses=uses, suites=suites, **more)


def _choices(summary: str, *suites: InSuite) -> KnownTask:
    """Multiple choice by lm-eval; of arXiv:2602.01997, with five worked examples."""
    places = (InSuite("paper", "rank", num_shots=5), *suites)
    return KnownTask(BY_LM_EVAL, summary, needs_files=True, uses=("all/rank", "classify/rank"), suites=places)


_BUILT_IN, _QUICK, _PAPER, _EFFECT = (
    InSuite("builtin"),
    InSuite("quick", "short"),
    InSuite("paper"),
    InSuite("side_effects"),
)
_MATH, _CODE = ("all/chain", "math/chain"), ("all/chain", "code/chain")
TASKS = {
    "arithmetic": _built_in(
        "lines:arithmetic_task", "sums, differences and products of one and two digits", _BUILT_IN, _QUICK,
        uses=("all/short", "classify/rank", "math/short"),
    ),
    "brackets": _built_in(
        "lines:brackets_task", "close open brackets: ( [ {", _BUILT_IN, _QUICK,
        uses=("all/short", "classify/rank"), part_of=("code/short",),
    ),
    "copy": _built_in(
        "lines:copying_task", "repeat a list of four to eight words", _BUILT_IN, _QUICK,
        uses=("all/short", "classify/rank", "copy/short"), part_of=("summarize/short", "chat/short"),
    ),
    "chain_sum": _built_in("steps:chain_sum", "sums of five to seven numbers, worked out in steps", uses=("math",)),
    "gsm_symbolic": _built_in(
        "steps:gsm_symbolic", "grade-school word problems made from templates", _BUILT_IN,
        uses=_MATH, part_of=("chat/chain",),
    ),
    "mmlu": _choices("exam questions of 57 subjects with four choices"),
    "arc_challenge": _choices("the harder questions of arc_easy's kind"),
    "arc_easy": _choices("science questions with three to five choices", InSuite("quick", "rank", limit=100)),
    "hellaswag": _choices("which of four sentences continues a text"),
    "winogrande": _choices("which of two names fits into a sentence"),
    "piqa": _choices("which of two ways reaches an everyday goal"),
    "openbookqa": _choices("elementary science with four choices"),
    "gsm8k": _from_hub(
        "boxed:gsm8k_task", "grade-school word problems", "openai/gsm8k", _MATH, _PAPER,
        part_of=("chat/chain",), worked="gsm8k_cot",
    ),
    "math500": _from_hub("boxed:math500_task", "competition mathematics", "HuggingFaceH4/MATH-500", _MATH, _PAPER),
    "humaneval_plus": _from_hub(
        "code_problems:humaneval_plus", "complete a function, many tests", "evalplus/humanevalplus", _CODE, _PAPER
    ),
    "mbpp_plus": _from_hub(
        "code_problems:mbpp_plus", "short Python problems, many tests", "evalplus/mbppplus", _CODE, _PAPER
    ),
    "xsum": _from_hub(
        "xsum:XSum", "one-sentence summaries, by ROUGE", "EdinburghNLP/xsum", ("all/short", "summarize/short"), _PAPER,
        part_of=("chat/short",),
    ),
    "humaneval": _from_hub(
        "code_problems:humaneval_task", "the functions of humaneval_plus, few tests", "openai/openai_humaneval", _CODE
    ),
    "mbpp": _from_hub(
        "code_problems:mbpp_task", "problems as in mbpp_plus, few tests", "google-research-datasets/mbpp", _CODE
    ),
    "general": _built_in("checked:general", "everyday requests, to choose and heal with"),
    "general_code": _built_in("checked:general_code", "short programs to write, to choose and heal with"),
    "endings": _built_in("checked:endings", "answers of one or two sentences that end by themselves", _EFFECT),
    "same_language": _built_in("checked:same_language", "answers in the language of the request, one of ten", _EFFECT),
    "instructions": _built_in("checked:instructions", "instructions about an answer's form, after IFEval", _EFFECT),
    "needle_2k": _built_in("checked:needle_2k", "a number in a text of 2,000 tokens", _EFFECT),
    "needle_8k": _built_in("checked:needle_8k", "a number in a text of 8,000 tokens"),
}  # fmt: skip
"""By name. The order is that of suites and of the tasks of a use."""
