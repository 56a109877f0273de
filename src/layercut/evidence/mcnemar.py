"""McNemar's exact test: do two models differ on the same right-or-wrong items by more than chance?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from scipy.stats import binomtest

from layercut.errors import InputError
from layercut.evidence.intervals import Array, finite_array, is_binary

if TYPE_CHECKING:
    from collections.abc import Sequence


class McNemar(NamedTuple):
    """What the items say on which two models disagree."""

    lost: int
    """Right in the first, wrong in the second model."""
    gained: int
    """Wrong in the first, right in the second model."""
    p_value: float
    """Two-sided, of the hypothesis that either outcome is as likely as the other."""


def mcnemar(uncut: Sequence[float] | Array, cut: Sequence[float] | Array) -> McNemar:
    """McNemar's test in its exact form, from one value of 0 or 1 per item and model.

    Only discordant items speak: with ``lost + gained = m`` the test asks how unusual ``lost`` is for Binomial(m, 1/2).
    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947). Fewer than 6 discordant items cannot give p < 0.05, however they fall.

    Raises:
        InputError: different numbers of values, none, or a value that is neither 0 nor 1.
    """
    if len(uncut) != len(cut):
        raise InputError(
            f"{len(uncut)} uncut and {len(cut)} cut values came; McNemar's test needs one of each per item."
        )
    before, after = finite_array(uncut), finite_array(cut)
    if not (is_binary(before) and is_binary(after)):
        raise InputError("McNemar's test takes values of 0 and 1; for other scores use compare_paired.")
    lost, gained = int((before > after).sum()), int((after > before).sum())
    return McNemar(lost, gained, float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0)


def loss_p_value(lost: int, gained: int) -> float:
    """One-sided p-value, of the hypothesis that the second model loses an item no more often than it gains one.

    >>> loss_p_value(5, 0), loss_p_value(4, 0), loss_p_value(0, 5), loss_p_value(0, 0)
    (0.03125, 0.0625, 1.0, 1.0)
    """
    return float(binomtest(lost, lost + gained, alternative="greater").pvalue) if lost + gained else 1.0
