"""The arithmetic files of GPT-3 (github.com/openai/gpt-3, folder data) as items of the arithmetic diagnostic.

Brown et al., "Language Models are Few-Shot Learners", arXiv:2005.14165, section 3.9.1: ten tests of 2,000 problems from
two-digit addition to composite operations of one digit. A sample problem: ``Q: What is 47 plus 93?``, a blank line and
``A:`` are answered by `` 140``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from layercut.errors import InputError
from layercut.evidence.splits import items_hash
from layercut.tasks.arithmetic import find_number, same_number
from layercut.tasks.data_files import DataRow, read_local
from layercut.tasks.few_shot import FewShotTask, Problem, item_rng
from layercut.tasks.grading import can_be_number
from layercut.tasks.near_misses import near_numbers

VERSION = 1
NUM_EXAMPLES = 3
_CONTEXT = re.compile(r"\s*Q: (?P<question>.+?)\s*A:\s*", re.DOTALL)
_NUMBER = re.compile(r"-?\d+")


def arithmetic_files(path: Path, *, seed: int = 0) -> FewShotTask:
    """The problems of a file, or of all files of a folder, alternating, so that any limit has every kind.

    Each row has ``context`` and ``completion``. The first three rows, of different kinds where there are several, are
    the worked examples, in the format of the files; they are never asked. Options to rank are slips in the first two
    digits.

    Args:
        path: a .jsonl file, or a folder of them.
        seed: recorded only; the files decide the problems.

    Raises:
        InputError: no such file, or a row that is no arithmetic problem.
    """
    rows = _in_turn(_files(path))
    problems = [_problem(kind, row) for kind, row in rows]
    if len(problems) <= NUM_EXAMPLES:
        raise InputError(f"{path}: {len(problems)} problems, of which {NUM_EXAMPLES} are worked examples; give more.")
    shown, asked = problems[:NUM_EXAMPLES], problems[NUM_EXAMPLES:]
    return FewShotTask(
        name="gpt3_arithmetic",
        version=VERSION,
        readouts=("short", "rank"),
        seed=seed,
        problems=lambda seed: iter(asked),
        num_samples=len(asked),
        examples="".join(f"{_prompt(one.question)} {one.gold}\n\n" for one in shown),
        example_questions=frozenset(one.question for one in shown),
        prompt=_prompt,
        answer=lambda option: f" {option}\n",
        find=find_number,
        is_right=same_number,
        max_new_tokens=12,
        stop=("\n",),
        made_with={"problems": items_hash(f"{one.question} {one.gold}" for one in problems)},
        settles=lambda text, gold: not can_be_number(text, gold),
    )


def _prompt(question: str) -> str:
    return f"Q: {question}\n\nA:"


def _files(path: Path) -> list[tuple[str, Sequence[DataRow]]]:
    """Kind and rows of each file; the kind is the file's name in words."""
    files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
    if not files:
        raise InputError(f"{path}: no .jsonl file in here; give the arithmetic files of GPT-3, or one of them.")
    return [(file.name.partition(".")[0].replace("_", " "), read_local(str(file)).splits["all"]) for file in files]


def _in_turn(files: Sequence[tuple[str, Sequence[DataRow]]]) -> Iterator[tuple[str, DataRow]]:
    for row_of_each in zip_longest(*([(kind, row) for row in rows] for kind, rows in files)):
        yield from (found for found in row_of_each if found is not None)


def _problem(kind: str, row: DataRow) -> Problem:
    context, completion = (str(row.fields.get(name, "")) for name in ("context", "completion"))
    asked, gold = _CONTEXT.fullmatch(context), completion.strip()
    if asked is None or not _NUMBER.fullmatch(gold):
        raise InputError(
            f"{row.where}: no problem of GPT-3's arithmetic files, whose rows have a context such as 'Q: What is 47 "
            "plus 93? A:' and a completion such as '140'."
        )
    question = asked["question"]
    return Problem(
        question, gold, near_numbers(int(gold), item_rng("gpt3_arithmetic", VERSION, question)), {"kind": kind}
    )
