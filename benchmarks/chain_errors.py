"""What breaks in a model's chains of steps without each layer: equations, or brackets.

    layercut sweep MODEL --objective gsm8k --data gsm8k=data/gsm8k --limit 32 --out runs/layers
    python benchmarks/chain_errors.py runs/layers/samples/gsm8k.chain.jsonl      # of a study: runs/study/*/samples/...

An equation is a number, one of + - * / (also as LaTeX), a number, an equals sign and a number, with a unit between them
at most; sums of more than two numbers are left out. A quotient may be rounded. Intervals are Wilson's, as if equations
were independent; those of one answer are not, so they are too short. Brackets are unbalanced where an answer that ended
by itself does not close as many curly brackets as it opens.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from layercut.evidence.intervals import proportion_interval
from layercut.runs.records import read_records
from layercut.text import format_layers, with_interval

_NUMBER = r"\\?\$?(\d[\d,]*(?:\.\d+)?)"
_UNIT = r"\s*(?:\\text\{[^}]*\}|[a-z ]{1,12})?\s*"
_SIGNS = {"+": "+", "-": "-", "*": "*", "×": "*", "\\times": "*", "\\cdot": "*", "/": "/", "÷": "/", "\\div": "/"}
_SIGN = "|".join(re.escape(sign) for sign in _SIGNS)
_EQUATION = re.compile(rf"{_NUMBER}{_UNIT}({_SIGN}){_UNIT}{_NUMBER}{_UNIT}={_UNIT}{_NUMBER}")
_FRACTION = re.compile(rf"\\frac\{{{_NUMBER}\}}\{{{_NUMBER}\}}\s*=\s*{_NUMBER}")
_GOES_ON = re.compile(rf"(?:{_SIGN})\s*$")
_ROUNDING = 0.006
"""Share by which a quotient may be off, as two written digits are."""


def equations(text: str) -> Iterator[bool]:
    """Whether each equation of a text is right.

    >>> list(equations("so 15 + 23 = 55, 6 \\\\times 7 = 42, \\\\frac{48}{2} = 45 and 10 / 3 = 3.33; 1 + 2 + 3 = 6"))
    [False, True, True, False]
    """
    for found in _EQUATION.finditer(text):
        if not _GOES_ON.search(text[max(0, found.start() - 8) : found.start()]):
            left, sign, right, given = found.groups()
            yield _is_right(_value(left), _SIGNS[sign], _value(right), _value(given))
    for found in _FRACTION.finditer(text):
        left, right, given = map(_value, found.groups())
        yield _is_right(left, "/", right, given)


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def _is_right(left: float, sign: str, right: float, given: float) -> bool:
    if sign == "/":
        return right != 0 and abs(left / right - given) <= _ROUNDING * max(1, abs(left / right))
    made = {"+": left + right, "-": left - right, "*": left * right}[sign]
    return abs(made - given) < 1e-6 * max(1, abs(made))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, nargs="+", help="samples/TASK.chain.jsonl of a sweep or of runs")
    texts: dict[tuple[str, tuple[int, ...]], list[dict[str, object]]] = defaultdict(list)
    for file in parser.parse_args().answers:
        for record in read_records(file):
            name, removed = file.parents[1].name, ()
            if "key" in record:  # a sweep holds many models
                name, removed = "", tuple(record["key"]["removed"])
            texts[name, removed].append(record)
    print("| model | answers | right | equations | of them right | unbalanced |")
    print("|---|---:|---:|---:|---:|---:|")
    for (run, removed), records in sorted(texts.items(), key=lambda one: one[0][1]):
        name = run or (f"without {format_layers(removed)}" if removed else "uncut")
        found = [right for record in records for right in equations(str(record["completion"]))]
        solved = sum(record["outcome"] == "right" for record in records)
        share = "n/a"
        if found:
            share = with_interval(proportion_interval(sum(found), len(found))) + " %"
        ended = [str(one["completion"]) for one in records if one["finish_reason"] == "stop"]
        unbalanced = sum(text.count("{") != text.count("}") for text in ended)
        print(f"| {name} | {len(records)} | {solved} | {len(found)} | {share} | {unbalanced} of {len(ended)} |")


if __name__ == "__main__":
    main()
