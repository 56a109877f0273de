"""Classes of generated programs: how each one fails, by compile(), a bracket stack and the result of running it.

E4 and E9 of arXiv:2602.01997 class programs by parts of error messages, which change with Python's version.
"""

from __future__ import annotations

import codeop
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

from layercut.evidence.diagnosis import Diagnosis, item_rows

Trouble = Literal["never_closed", "unmatched", "mismatched", "unterminated_string"]
CLOSING = {"(": ")", "[": "]", "{": "}"}
FENCE_LINE = re.compile(r"^[ \t]*```.*\n?", re.MULTILINE)
"""A line that opens or closes a block of code."""
_TOKEN = re.compile(r"#[^\n]*|(?i:\b[rbuft]{1,2})?(?:\"\"\"|'''|\"|')|[()\[\]{}]")
_REST_OF_STRING = {
    **{quote: re.compile(rf"(?:\\.|[^\\\n])*?{quote}", re.DOTALL) for quote in ('"', "'")},
    **{quote: re.compile(rf"(?:\\.|[^\\])*?{quote}", re.DOTALL) for quote in ('"""', "'''")},
}
"""A backslash escapes a quote, in raw strings too; a string in single quotes ends on its line."""
ProgramClass = Literal[
    "passed", "parses", "wrong_answer", "never_closed", "unmatched", "mismatched", "indentation", "unterminated_string",
    "other_syntax", "name", "type", "attribute", "value", "index", "timeout", "memory", "recursion", "other_error",
    "no_code", "cut",
]  # fmt: skip
CLASSES: tuple[ProgramClass, ...] = ProgramClass.__args__  # type: ignore[attr-defined]
BRACKET: tuple[ProgramClass, ...] = ("never_closed", "unmatched", "mismatched")
SYNTAX: tuple[ProgramClass, ...] = (*BRACKET, "indentation", "unterminated_string", "other_syntax")
FINE: tuple[ProgramClass, ...] = ("passed", "parses")
"""``parses`` where a program was not run."""
NOT_PARSED: tuple[ProgramClass, ...] = (*SYNTAX, "no_code", "cut")
EXCEPTIONS: tuple[ProgramClass, ...] = (
    "name", "type", "attribute", "value", "index", "memory", "recursion", "other_error",
)  # fmt: skip
CLASS = "program"
"""Field of a record with the class of its program."""

OUTCOMES: Mapping[str, ProgramClass] = {
    **dict.fromkeys(("", "passed"), "passed"),
    "AssertionError": "wrong_answer",
    **dict.fromkeys(("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError"), "name"),
    "TypeError": "type",
    "AttributeError": "attribute",
    "ValueError": "value",
    **dict.fromkeys(("IndexError", "KeyError"), "index"),
    **dict.fromkeys(("timeout", "TimeoutError"), "timeout"),
    **dict.fromkeys(("memory", "MemoryError"), "memory"),
    "RecursionError": "recursion",
}
"""From the end of a program's run to its class: exception class, ``timeout``, ``memory``; empty if it passed."""


def classify_program(
    source: str, *, head: str = "", finish_reason: str = "stop", outcome: str | None = None
) -> ProgramClass:
    """The class of one program, which begins with ``head``; ``outcome`` says how it ended if it was run.

    A program that does not parse has the class of what goes wrong first in the text. One that was ended by the limit on
    its length is ``cut`` if more text could still make it right; what it did wrong before counts as its own.

    >>> [classify_program(text) for text in ("def f(x):\\n    return (x", "def f(x):\\nreturn x", "def f(x): return x")]
    ['never_closed', 'indentation', 'parses']
    >>> classify_program("def f(x): return y", outcome="NameError")
    'name'
    >>> classify_program("return (", finish_reason="length")
    'cut'
    """
    body = source.removeprefix(head)
    if not any(line.strip() and not line.strip().startswith("#") for line in body.split("\n")):
        return "cut" if finish_reason == "length" and body.strip() else "no_code"
    error = _syntax_error(source)
    if error is None:
        return "parses" if outcome is None else OUTCOMES.get(outcome, "other_error")
    if finish_reason == "length" and _only_cut(source):
        return "cut"
    problem = first_problem(source)
    if problem is not None and problem.line <= (error.lineno or 1):
        return problem.kind
    return "indentation" if isinstance(error, IndentationError) else "other_syntax"


MEASURES: Mapping[str, Collection[str]] = {
    "programs that parse": [name for name in CLASSES if name not in NOT_PARSED],
    "programs with a bracket error": BRACKET,
    "programs with any syntax error": SYNTAX,
    "programs without code": ("no_code",),
    "programs that pass": ("passed",),
    "programs with a wrong result": ("wrong_answer",),
    "programs that raise an exception": EXCEPTIONS,
    "programs that run out of time": ("timeout",),
}
"""A bracket error is the first error. Programs that the length limit ended without an error neither parse nor fail."""
HEADLINES = ("programs that parse", "programs with a bracket error")
_HIGHER = ("programs that parse", "programs that pass")
_BY_TEXT = tuple(MEASURES)[:4]  # measures that need no run


def measure_programs(
    diagnostic: str,
    classes: Mapping[str, Sequence[ProgramClass]],
    *,
    seed: int,
    were_run: bool,
) -> Diagnosis:
    """A row for each of MEASURES and pruned model, and the number of programs by model and class.

    ``classes``: by name of the model, the original one first, the class of each program.
    """
    measures = {name: kinds for name, kinds in MEASURES.items() if were_run or name in _BY_TEXT}
    shares = {
        model: [{name: kind in kinds for name, kinds in measures.items()} for kind in of_model]
        for model, of_model in classes.items()
    }
    counts = {
        model: {kind: of_model.count(kind) for kind in CLASSES if kind in of_model}
        for model, of_model in classes.items()
    }
    rows = item_rows(diagnostic, shares, seed=seed, higher=_HIGHER, headlines=HEADLINES)
    return {"rows": rows, "data": {"classes": counts}, "notes": []}


def _syntax_error(source: str) -> SyntaxError | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" and the like are no errors
            compile(source, "program", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error
    except (ValueError, MemoryError, RecursionError) as error:  # a zero byte; brackets nested too deep for the parser
        return SyntaxError(str(error), ("program", 1, 1, ""))
    return None


def _only_cut(source: str) -> bool:
    """True where more text could still make it right: the lines before the last parse, or begin what does."""
    problem = first_problem(source)
    if problem is not None and problem.kind in ("unmatched", "mismatched"):
        return False
    with warnings.catch_warnings(), suppress(SyntaxError, ValueError, OverflowError, MemoryError, RecursionError):
        warnings.simplefilter("ignore")
        codeop.compile_command(source.rpartition("\n")[0] + "\n", "program", "exec")  # no error for the incomplete
        return True
    return False


class SyntaxProblem(NamedTuple):
    """A kind of error, and the line where it begins."""

    kind: Trouble
    line: int  # from 1: of the bracket that is never closed or does not fit, or of the string's first quote


def first_problem(source: str) -> SyntaxProblem | None:
    """Read a program with a stack of open brackets, past comments and strings; None if all brackets and strings fit.

    Quotes of the same kind inside the braces of an f-string (Python 3.12) are taken for its end, so ask only about
    programs that do not compile.

    >>> first_problem("f(1, [2)")
    SyntaxProblem(kind='mismatched', line=1)
    >>> first_problem("x = (1,\\ny = '(' # )")
    SyntaxProblem(kind='never_closed', line=1)
    """
    stack: list[tuple[str, int]] = []  # what closes each open bracket, and its line
    place = 0
    while token := _TOKEN.search(source, place):
        text, place = token[0], token.end()
        line = source.count("\n", 0, token.start()) + 1
        if text in CLOSING:
            stack.append((CLOSING[text], line))
        elif text in CLOSING.values():
            if not stack:
                return SyntaxProblem("unmatched", line)
            if stack.pop()[0] != text:
                return SyntaxProblem("mismatched", line)
        elif not text.startswith("#"):
            rest = _REST_OF_STRING[text.lstrip("rbuftRBUFT")].match(source, place)
            if rest is None:
                return SyntaxProblem("unterminated_string", line)
            place = rest.end()
    return SyntaxProblem("never_closed", stack[0][1]) if stack else None
