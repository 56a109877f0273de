"""Extract the program from a model's text: the rule that the code tasks share.

The prompt ends in an answer that is begun for the model: an opened code block, with the head of the function in it
where there is one. The model continues it, and its text ends where the block is closed.

The rule is the one of ``evalplus.sanitize`` (Liu et al., arXiv:2305.01210; release 0.3.1): take the longest run of
lines that parses, and of it the function under test with all that it needs. The model's own tests, examples and prose
are left out, so a wrong one does not fail a right function. The package itself is not used, because it installs the
clients of three model providers. The rule differs where EvalPlus loses a right program; it also keeps decorated
functions, helpers without ``return``, and statements that fill a table, and it takes a shorter run of lines where the
longest one does not define the function. Imports are kept where something uses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from layercut.engine.base import Completion
from layercut.evidence.program_classes import FENCE_LINE, ProgramClass, classify
from layercut.sandbox.runner import ProgramResult
from layercut.tasks.program_parts import NOT_PYTHON, defines, needed, parse

FENCE = "```"
OPENED = f"{FENCE}python\n"  # beginning of the answer
STOP = (f"\n{FENCE}\n",)
"""End of the answer: a closing fence with its line end, as the fence that opens a block of Python ends nothing."""

_MAX_PARSED = 3 * 10**6  # Characters. Bounds the search in texts without sense, such as a thousand opened brackets.
_TOP_LEVEL = re.compile(r"^(?:(?:async\s+)?def|class|import|from|@|\w+\s*(?::[^=\n]+)?=[^=])", re.MULTILINE)
_INDENTED = re.compile(r"[ \t]+\S")
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)


def find_program(text: str, names: Sequence[str], head: str = "") -> str:
    """The program of a completion, or an empty text where there is none.

    Args:
        names: the functions and classes that the tests use.
        head: what the code block was begun with.

    A body is put below the head; a complete function, signature included, takes the place of the head's:

    >>> head = 'def double(x):\\n    \\"\\"\\"Twice x.\\"\\"\\"'
    >>> print(find_program("\\n    return 2 * x\\n\\nassert double(3) == 5", ["double"], head))
    def double(x):
        \"\"\"Twice x.\"\"\"
        return 2 * x
    >>> print(find_program("\\ndef double(y):\\n    return y + y", ["double"], head))
    def double(y):
        return y + y

    A block that the model opens itself counts, whatever is said around it. Words alone are no program:

    >>> find_program("Sure!\\n```python\\ndef f():\\n    return 1\\n```\\nIt returns 1.", ["f"])
    'def f():\\n    return 1'
    >>> find_program("I cannot do that.", ["f"])
    ''

    Code without the function is returned unchanged, so that running it shows the error.
    """
    text = _INDENT.sub(lambda found: found[0].replace("\t", "    "), text.replace("\r\n", "\n"))
    for lines in _runs(_below(head, text).split("\n")):
        code = "\n".join(lines)
        if names and all(any(defines(node, name) for node in parse(code).body) for name in names):
            both = code if head in code else f"{code}\n{head}"
            return needed(both if _failure(both) is None else code, names)
    pieces = (piece.rstrip() for piece in FENCE_LINE.split(text))
    code = next((piece for piece in pieces if _is_code(piece, head)), "")
    return _below(head, code) if code and head else code.strip("\n")


def program_class(source: str, head: str, answer: Completion, result: ProgramResult | None) -> ProgramClass:
    """The class of the program that ``find_program`` gave for an answer, after it was run; None: there was none."""
    if result is None:
        return "cut" if answer.finish_reason == "length" and answer.text.strip() else "no_code"
    return classify(source, head=head, finish_reason=answer.finish_reason, outcome=result.failure)


def _below(head: str, code: str) -> str:
    return head + code if not head or code.startswith("\n") else f"{head}\n{code}"


def _runs(lines: list[str]) -> Iterator[list[str]]:
    """The longest run of lines that parses, then those of the lines before and after it."""
    pieces, budget = [lines], [_MAX_PARSED]
    for piece in pieces:
        start, end = _longest(piece, budget)
        if end > start:
            yield piece[start:end]
            pieces += [piece[:start], piece[end:]]


def _longest(lines: list[str], budget: list[int]) -> tuple[int, int]:
    """The run with most lines that are not blank; the first of several."""
    counts = [0]
    for line in lines:
        counts.append(counts[-1] + bool(line.strip()))
    best, longest = (0, 0), 0
    for start in range(len(lines)):
        end = len(lines)
        while counts[end] - counts[start] > longest and budget[0] > 0:
            run = "\n".join(lines[start:end])
            budget[0] -= len(run)
            failed = _failure(run)
            if failed is None:
                best, longest = (start, end), counts[end] - counts[start]
            else:  # no run that goes on to the line of the error parses
                end = min(end - 1, start + max(failed - 1, 0))
    return best


def _failure(source: str) -> int | None:
    """The line at which a text stops to be Python, from 1; None if it is."""
    try:
        parse(source)
    except NOT_PYTHON as error:
        return getattr(error, "lineno", None) or 10**9
    return None


def _is_code(code: str, head: str) -> bool:
    first = next((line for line in code.split("\n") if line.strip()), "")
    return bool(_TOP_LEVEL.search(code) or (head and _INDENTED.match(first)))
