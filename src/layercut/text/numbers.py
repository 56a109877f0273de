"""Format numbers: shares in percent, an interval after every value, n/a where there is none."""

from __future__ import annotations

import math
from typing import Protocol


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


def number(value: float, *, share: bool = True, digits: int = 0, sign: bool = False) -> str:
    """A value: shares in percent without the sign, anything else with three significant digits.

    >>> number(0.578), number(0.578, digits=1), number(-0.21, sign=True), number(3.14159, share=False)
    ('58', '57.8', '-21', '3.14')
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
    return number(math.floor(100 * share + 1e-9) / 100)


def with_interval(estimate: HasInterval, *, share: bool = True, digits: int = 0, sign: bool = False) -> str:
    """A value and its interval: ``58 [45, 69]``; ``58 [n/a]`` where the items say nothing about the spread."""
    if estimate.low is None or estimate.high is None:
        return f"{number(estimate.value, share=share, digits=digits, sign=sign)} [n/a]"
    value, low, high = (
        number(x, share=share, digits=digits, sign=sign) for x in (estimate.value, estimate.low, estimate.high)
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


def parameters(count: int) -> str:
    """A number of parameters: ``134.5M``, ``8.03B``."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.{2 if unit == 'B' else 1}f}{unit}"
    return str(count)
