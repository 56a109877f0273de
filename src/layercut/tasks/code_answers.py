"""From what a model wrote to the program that is run: rules that the code tasks share.

The conversation ends in an answer that is begun for the model: an opened code block, with the head of the function in
it where there is one. The model goes on from there, and its text ends where the block is closed.
"""

from __future__ import annotations

import re
import warnings

FENCE = "```"
OPENED = f"{FENCE}python\n"
"""What the answer is begun with."""
STOP = (f"\n{FENCE}",)
"""What ends it."""

_TOP_LEVEL = re.compile(r"^(?:(?:async\s+)?def|class|import|from|@|\w+\s*(?::[^=\n]+)?=[^=])", re.MULTILINE)
_INDENTED = re.compile(r"[ \t]+\S")


def find_program(text: str, head: str = "") -> str:
    """The program of a completion, or an empty text where there is none.

    Args:
        text: what the model wrote.
        head: what the code block was begun with; the program begins with it.

    A body is put below the head; a function written anew, signature and all, takes the place of the head's:

    >>> head = 'def double(x):\\n    \\"\\"\\"Twice x.\\"\\"\\"'
    >>> print(find_program("\\n    return 2 * x", head))
    def double(x):
        \"\"\"Twice x.\"\"\"
        return 2 * x
    >>> find_program("def double(y):\\n    return y + y", head).endswith("\\ndef double(y):\\n    return y + y")
    True

    A block that the model opens itself counts, whatever is said around it; words after the code are left out if the
    code is whole without them. Words alone are no program:

    >>> find_program("Sure!\\n```python\\ndef f():\\n    return 1\\n```\\nIt returns 1.")
    'def f():\\n    return 1'
    >>> find_program("def f():\\n    return 1\\n\\nThis returns 1.")
    'def f():\\n    return 1'
    >>> find_program("I cannot do that.")
    ''
    """
    code = _own_block(text).rstrip()
    if not _is_code(code, head):
        return ""
    joined = head if not head or code.startswith("\n") else f"{head}\n"
    return joined + _without_words(code if head else code.strip("\n"), joined)


def _own_block(text: str) -> str:
    """The first block that the text opens itself, or else what stands before the end of the one begun for it."""
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if line.lstrip().startswith(FENCE)]
    opening = next((n for n in fences if lines[n].strip() != FENCE or _is_prose(lines[:n])), None)
    if opening is not None and not (fences[0] < opening and not _is_prose(lines[: fences[0]])):
        closing = next((number for number in fences if number > opening), len(lines))
        return "\n".join(lines[opening + 1 : closing])
    return "\n".join(lines[: fences[0]] if fences else lines)


def _is_prose(lines: list[str]) -> bool:
    """Whether lines before a fence hold no code, so that the fence opens a block and does not close one."""
    return not any(_TOP_LEVEL.match(line) or _INDENTED.match(line) for line in lines)


def _is_code(code: str, head: str) -> bool:
    if _TOP_LEVEL.search(code):
        return True
    first = next((line for line in code.split("\n") if line.strip()), "")
    return bool(head and _INDENTED.match(first))


def _without_words(code: str, head: str) -> str:
    """Without what stands at the left margin after the code, if only so it can be compiled."""
    if _compiles(head + code):
        return code
    lines = code.split("\n")
    for number in range(len(lines) - 1, 0, -1):
        at_margin = lines[number].strip() and not lines[number][0].isspace()
        kept = "\n".join(lines[:number]).rstrip()
        if at_margin and kept.strip() and _compiles(head + kept):
            return kept
    return code


def _compiles(source: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "program", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True
