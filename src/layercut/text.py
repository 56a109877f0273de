"""Numbers, removed layers, Markdown and tables, as readers see them; foreign text is escaped."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PURPOSE = (
    "finds the smallest or fastest version of your model that is shown to do your task: fewer layers, MLP channels, "
    "tokens or bits"
)
"""What layercut does: a sentence without its subject and full stop."""


def count_of(n: int, what: str) -> str:
    """``1 item``, ``2 items``, ``1,234 items``."""
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"


def of_test_set(num_items: int, test_set: int | None, split: str) -> str:
    """The part of a benchmark's test set that was asked.

    Args:
        num_items: that were asked.
        test_set: items of the whole test set; None where there is none.
        split: ``report`` where other items of the test set chose layers or healed.

    >>> of_test_set(164, 164, "full"), of_test_set(50, 1319, "full"), of_test_set(64, None, "")
    ('full test set, 164', 'part of the test set, 50 of 1,319', '')
    >>> of_test_set(76, 164, "report")
    'rest of the test set, 76 of 164'
    """
    if test_set is None:
        return ""
    if num_items >= test_set:
        return f"full test set, {test_set:,}"
    return f"{'rest' if split == 'report' else 'part'} of the test set, {num_items:,} of {test_set:,}"


class HasInterval(Protocol):
    """A value with its interval, such as ``layercut.evidence.intervals.Estimate``."""

    @property
    def value(self) -> float:
        """The value."""
        ...

    @property
    def low(self) -> float | None:
        """Lower end; None where it is not known."""
        ...

    @property
    def high(self) -> float | None:
        """Upper end; None where it is not known."""
        ...


def number_text(value: float, *, share: bool = True, digits: int = 0, sign: bool = False) -> str:
    """A value: shares in percent without the sign, anything else with three significant digits.

    >>> number_text(0.578), number_text(0.578, digits=1), number_text(-0.21, sign=True)
    ('58', '57.8', '-21')
    >>> number_text(3.14159, share=False)
    '3.14'
    """
    if not share:
        return f"{value:+.3g}" if sign else f"{value:.3g}"
    text = f"{100 * value:.{digits}f}"
    if float(text) == 0:
        return text.lstrip("-")
    return f"+{text}" if sign and value > 0 else text


def at_least(share: float) -> str:
    """A lower bound in percent, rounded down: 89.6 % at least is not 90 % at least.

    >>> at_least(0.896), at_least(0.29)
    ('89', '29')
    """
    return number_text(math.floor(100 * share + 1e-9) / 100)


def with_interval(estimate: HasInterval, *, share: bool = True, digits: int = 0, sign: bool = False) -> str:
    """A value and its interval: ``58 [45, 69]``; ``58 [n/a]`` where the items say nothing about the spread."""
    if estimate.low is None or estimate.high is None:
        return f"{number_text(estimate.value, share=share, digits=digits, sign=sign)} [n/a]"
    value, low, high = (
        number_text(x, share=share, digits=digits, sign=sign) for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def two_decimals(estimate: HasInterval) -> str:
    """A value and its interval with two decimals each: ``0.55 [0.20, 0.78]``, ``1.67 [n/a]``."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:z.2f} [n/a]"
    return f"{estimate.value:z.2f} [{estimate.low:z.2f}, {estimate.high:z.2f}]"


def p_value(p: float) -> str:
    """A p-value with two digits, never rounded to zero."""
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def parameters_text(count: int) -> str:
    """A number of parameters: ``134.5M``, ``8.03B``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.{2 if unit == 'B' else 1}f}{unit}"
    return str(count)


def label_of_removal(removed: Sequence[int], mlp: float) -> str:
    """Removed layers and channels, as people write them.

    >>> label_of_removal([6, 9, 10, 11], 0.1004), label_of_removal([], 0.28)
    ('6,9-11 mlp:0.1', 'mlp:0.28')
    """
    return " ".join(filter(None, (format_layers(removed), f"mlp:{mlp:.3g}" if mlp else "")))


def amount_text(depth: int, mlp: float) -> str:
    """How much goes, in words.

    >>> amount_text(3, 0), amount_text(1, 0.1), amount_text(0, 0.279)
    ('3 layers', '1 layer and 10 % of the MLP channels', '27.9 % of the MLP channels')
    """
    parts = [count_of(depth, "layer")] if depth or not mlp else []
    return " and ".join([*parts, *([f"{100 * mlp:.3g} % of the MLP channels"] if mlp else [])])


def format_layers(layers: Sequence[int]) -> str:
    """The inverse of parse_layers for a sorted list: runs of three and more become ranges.

    >>> format_layers([3, 8, 21, 22, 23, 24])
    '3,8,21-24'
    """
    runs: list[list[int]] = []
    for index in sorted(layers):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs)


class Removal:
    """Base of what records removed layers and the removed share of the MLP channels."""

    if TYPE_CHECKING:

        @property
        def removed(self) -> tuple[int, ...]: ...

        @property
        def mlp(self) -> float: ...

    @property
    def label(self) -> str:
        """The removed layers and channels as people write them: ``6,9 mlp:0.1``."""
        return label_of_removal(self.removed, self.mlp)

    @property
    def amount(self) -> str:
        """Number of removed layers and share of removed channels, in words."""
        return amount_text(len(self.removed), self.mlp)


PATH_CHARACTERS = 4096  # most of a path: those that people copy are shown whole
UNSEEN = r"\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""For a class of characters: control characters that JSON leaves as they are, ends of lines, marks that turn the
direction of text, and halves of surrogate pairs."""
_INTERVAL = re.compile(r"\\\[([-+\d., ]+|n/a)\\\](?![\[(])|\\(?=<[\d.])")
"""Escapes that no Markdown needs: brackets around numbers, and a sign before a number."""


def code_span(text: str, most: int = 80) -> str:
    """Text on one line as code inside a table cell, cut after ``most`` characters."""
    line = on_one_line(text, most)
    if not line:
        return "(empty)"
    ticks = "`" * (1 + _longest_run(line))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{space}{line}{space}{ticks}".replace("|", "\\|")


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], numeric: Collection[int] = ()) -> list[str]:
    """Lines of a table whose cells are Markdown already; columns of ``numeric`` are set to the right.

    >>> markdown_table(["", "n"], [["a", "1"]], {1})
    ['| | n |', '|---|---:|', '| a | 1 |']
    """
    first = "".join(f" {cell} |" if cell else " |" for cell in head)
    rule = "".join("---:|" if place in numeric else "---|" for place in range(len(head)))
    return [f"|{first}", f"|{rule}", *("| " + " | ".join(row) + " |" for row in rows)]


def on_one_line(text: str, most: int = 80) -> str:
    """Text on one line, cut after ``most`` characters."""
    line = " ".join(printable_text(text).split())
    return line if len(line) <= most else line[: most - 3] + "..."


def escape_inline(text: str) -> str:
    """A name inside a sentence or a table cell."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def escaped_markdown(text: str) -> str:
    """Plain text in Markdown, without escapes that no Markdown needs."""
    return _INTERVAL.sub(lambda match: f"[{match[1]}]" if match[1] else "", escape_inline(text))


def printable_text(text: str) -> str:
    """Characters that are not seen but change what is, which a broken model may well write, as visible escapes."""
    return re.sub(rf"[\x00-\x08\x0b-\x1f{UNSEEN}]", lambda match: f"\\x{ord(match[0]):02x}", text)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


_SHORT = reprlib.Repr()
_SHORT.maxother = _SHORT.maxstring = 60
_HTML = '<pre style="line-height:normal;overflow-x:auto">{code}</pre>'


def make_bare_table() -> Table:
    """A table with a line under its head and no other."""
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")


class Printed:
    """Base of results: ``print`` and notebooks show what a terminal shows, where a verb gave the result."""

    def __str__(self) -> str:
        if (draw := vars(self).get("_draw")) is not None:
            return str(draw(None).export_text().rstrip())
        return str(self.describe()) if hasattr(self, "describe") else repr(self)

    def _repr_html_(self) -> str | None:
        draw = vars(self).get("_draw")
        return draw and draw(120).export_html(code_format=_HTML, inline_styles=True)

    def __repr__(self) -> str:
        if isinstance(self, list):
            return _SHORT.repr([*self])
        names = getattr(self, "_fields", None) or [name for name in vars(self) if name != "_draw"]
        return f"{type(self).__name__}({', '.join(f'{name}={_SHORT.repr(getattr(self, name))}' for name in names)})"


def printed_result(result: Any, draw: Callable[[int | None], Console]) -> Any:
    """A result that prints what ``draw`` records at a width; a tuple or list becomes an equal one of a subclass."""
    if isinstance(result, tuple | list):
        kind = _printed_kind(type(result))
        result = kind(result) if isinstance(result, list) else kind(*result)
    parts = result if isinstance(result, tuple) else vars(result).values() if isinstance(result, Printed) else ()
    for part in (result, *parts):
        if isinstance(part, Printed):
            object.__setattr__(part, "_draw", draw)
    return result


@cache
def _printed_kind(kind: Any) -> Any:
    space = {"__doc__": kind.__doc__, "__reduce__": lambda self: (kind, ([*self],) if kind is list else tuple(self))}
    return type(kind.__name__, (Printed, kind), space)
