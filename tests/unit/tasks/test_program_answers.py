"""Which program is found in an answer, judged by running it; the expectations are what a reader of the answer says.

``evalplus.sanitize`` 0.3.1 agrees with them except where a comment says so.
"""

from __future__ import annotations

import ast
import random
import time

import pytest

from layercut.sandbox import runner as sandbox
from layercut.sandbox.runner import Program, run_programs
from layercut.tasks.program_answers import STOP, _longest, defined_names, find_program, needed_names, undefined_names

DOUBLE = 'def double(x):\n    """Twice x."""'
CYCLIC = (
    "from typing import List\n\n\ndef encode(s: str):\n    return s[1:] + s[0]\n\n\n"
    'def decode(s: str) -> List[str]:\n    """Undo encode, on texts of three letters."""'
)
TESTS = {DOUBLE: "assert double(4) == 8 and double(-1) == -2", CYCLIC: "assert decode('bca') == ['a', 'b', 'c']"}
BODY = "\n    return 2 * x"
ANEW = "def double(x):\n    return x + x"

RIGHT = [
    BODY,
    f"{BODY}\n```",
    "    return 2 * x\n",
    f"\n{ANEW}",
    "\n\tif x:\n\t\treturn 2 * x\n\treturn 0",
    # the model's own tests, examples and prose below a right function
    f"{BODY}\n\nassert double(3) == 5",
    f"{BODY}\n\ndef test():\n    assert double(3) == 7\n\ntest()",
    f"{BODY}\n\nprint(double('a' - 1))",
    f"{BODY}\n\nwhile True:\n    pass",
    f"{BODY}\n\nexit()",
    f"{BODY}\n\ndef main():\n    double(input())\n\nmain()",
    f"{BODY}\n\nimport unittest\nclass Test(unittest.TestCase):\n    pass\nunittest.main()\n",
    f"{BODY}\n\nThis doubles it.",
    f'{BODY}\n\nExplanation:\n- it\'s `x` + `x`\n\n"""\n',
    f"{BODY}\n    y = (",
    f"{BODY}\n\ndouble = double(3)",
    f"{BODY}\n\ndef double(x):\n    return 3 * x",
    f"{BODY}\n\nclass Twice:\n    def double(self, x):\n        return 3 * x",
    f"{BODY}\n\nn = int(input())\nprint(double(n))",  # EvalPlus keeps all assignments to names that a function uses
    f"{BODY.replace('2 * x', 'result')}\n".replace("    ", "    result = 2 * x\n    ")
    + "\nresult = double(None)",  # as do
    f"{BODY}\n\nfrom solution import double\nprint(double(2))",  # EvalPlus keeps imports that nothing uses
    # backticks
    "\n    '''With ```code``` and\n    ```\n    double(1)\n    ```\n    '''\n    return 2 * x",
    f"\nSure, here it is:\n\n```python\n{DOUBLE}{BODY}\n```\nIt works.",
    f"\n```python\n{ANEW}\n```",  # EvalPlus takes the head, which is as long
    f"Here:\n```python\n{ANEW}\n```\n",  # as well
    # what the function needs
    "\n    return twice(x)\n\ndef twice(x):\n    return thrice(x) - x\n\ndef thrice(x):\n    return 3 * x\n\nassert 0",
    "\n    return math.floor(FACTOR * x)\n\nFACTOR = 2\nimport math\nprint(double)\nraise ValueError",
    "\n    return table[x]\n\ntable = {}\nfor i in range(-9, 9):\n    table[i] = 2 * i",  # EvalPlus drops loops,
    "\n    out = [x]\n    twice(out)\n    return out[0]\n\ndef twice(out):\n    out[0] *= 2",  # such helpers,
    "\n    return f(x)\n\nfrom functools import cache\n@cache\ndef f(x):\n    return 2 * x",  # and decorated functions
]
WRONG = [
    *(f"\n    {line}" for line in ("return 3 * x", "pass", "print(2 * x)", "return (2 * x", "return y")),
    "\nreturn 2 * x",
    f"\n    return 3 * x\n\n{ANEW}",
    "\ndef twice(x):\n    return 2 * x",
    "\nclass Twice:\n    def double(self, x):\n        return 2 * x",
]
RIGHT_BELOW_TWO = [
    "\n    return list(encode(encode(s)))\n\nassert decode('abc') == 'abc'",
    "\nSure:\n```python\ndef decode(s: str) -> List[str]:\n    return list(encode(encode(s)))\n```\n",  # no List there
]
NONE = ["", "\n\n", "\nIt is twice x.", "I would rather not.", "Sure!\n```\n\n```"]


def stopped(text: str) -> str:
    return text.split(STOP[0])[0]


@pytest.mark.skipif(bool(sandbox._why_not("bubblewrap")), reason="no sandbox works here")
def test_right_functions_pass_whatever_is_written_around_them_and_wrong_ones_fail():
    answers = [(DOUBLE, one, True) for one in RIGHT] + [(DOUBLE, one, False) for one in WRONG]
    answers += [(CYCLIC, one, True) for one in RIGHT_BELOW_TWO]
    names = {head: (TESTS[head].split()[1].split("(")[0],) for head in TESTS}
    programs = [
        Program(find_program(stopped(text), names[head], head), tests=TESTS[head], names=names[head])
        for head, text, _ in answers
    ]
    results = run_programs(programs)
    assert [(text, one) for (_, text, right), one in zip(answers, results, strict=True) if one.passed != right] == []


@pytest.mark.parametrize("text", NONE)
def test_words_are_no_program(text):
    assert find_program(stopped(text), ("double",), DOUBLE) == ""


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (f"{BODY}\n\nprint(1)", f"{DOUBLE}{BODY}"),
        (f"Here:\n```python\nimport re, ast\nX = 1\n{ANEW}\n```", ANEW),
        ("\n    return 2 *\n\nThis doubles it.", f"{DOUBLE}\n    return 2 *\n\nThis doubles it."),
        ("\ndef other(x):\n    return 1\n```", f"{DOUBLE}\ndef other(x):\n    return 1"),
    ],
)
def test_the_program_is_what_is_needed_or_else_what_was_written(text, program):
    assert find_program(text, ("double",), DOUBLE) == program


def test_without_a_head_and_with_several_names():
    text = "class Pair: pass\n\ndef longest(pairs):\n    return len(pairs)\n\nassert longest([]) == 1"
    assert find_program(text, ("Pair", "longest")) == text.split("\n\nassert")[0].replace("\n\n", "\n")
    assert find_program("f = lambda x: x\nf = f(2)", ("f",)) == "f = lambda x: x"


def test_needed_keeps_imports_first_and_the_rest_in_order():
    source = "x = y\ny = 1\nx.append(2)\nfrom math import *\nz = x\nimport os; import sys\n"
    source += "from __future__ import annotations"
    assert needed_names(source, ["x"]) == (
        "from __future__ import annotations\nfrom math import *\nx = y\ny = 1\nx.append(2)"
    )
    assert needed_names("import a.b as c, d\ndef f(): return c", ["f"]) == "import a.b as c, d\ndef f(): return c"
    assert defined_names("import a.b\nfrom c import *\nx, y = 1, 2\ndef f(): z = 1\nclass K: pass") == set("axyf")
    assert undefined_names("import a\ndef f(x): return a + b + x + len(y)\ny = 1") == {"b", "len"}


def test_the_longest_run_is_found_as_by_trying_all():
    rng = random.Random(0)
    source = f"import re\n\n{CYCLIC}\n    if s:\n        return [s,\n            1]\n    try:\n        s()\n"
    source += "    finally:\n        s"
    broken = ["```", "words are here", "'''", "x = (", ")", "else:", "", "    y = 1", "f(a b)", "try:", "@d", "'"]
    broken += ["  # c"]
    for _ in range(60):
        lines = source.split("\n")
        for _ in range(rng.randint(1, 5)):
            lines.insert(rng.randrange(len(lines)), rng.choice(broken))
            del lines[rng.randrange(len(lines))]
        start, end = _longest(lines, [10**9])
        assert "\n".join(lines[start:end]).strip() == by_trying_all(lines).strip()


def by_trying_all(lines: list[str]) -> str:
    """EvalPlus' ``code_extract``."""
    best, longest = "", 0
    for start in range(len(lines)):
        for end in range(start + 1, len(lines) + 1):
            text = "\n".join(lines[start:end])
            size = sum(1 for line in lines[start:end] if line.strip())
            if size > longest and parses(text):
                best, longest = text, size
    return best


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


@pytest.mark.parametrize(
    "line", ["x = (", "(", "I like it.", "def f():", "    return 1", "'''", "a = 1\n)", "-" * 5000]
)
def test_texts_without_sense_take_seconds_at_most(line):
    start = time.process_time()
    find_program(f"{line}\n" * 512, ("double",), DOUBLE)
    assert time.process_time() - start < 20
