"""Retention over answer depth: does a pruned model lose long answers more often?

The depth of an item is the number of tokens that the *original* model wrote before its answer. Cutting cannot change
that, so the long answers of a rambling pruned model do not count as deeper items.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import linregress, t

from layercut.errors import InputError
from layercut.evidence.intervals import Array, Estimate, finite_array, is_binary

if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIDENCE = 0.95
FEWEST_SOLVED = 30
"""Items that the original model solves, below which no slope is given."""
FEWEST_OF_EACH = 5
"""Least number of these that are kept, and of those that are lost: a slope needs both."""


class DepthSlope(NamedTuple):
    """Change with depth of the share of solved items that stay solved."""

    slope: Estimate | None
    """Change of the kept share for each doubling of 1 + depth: -0.1 is ten points less. None where ``refused``."""
    kept_at_median: float | None
    """Kept share at the median depth, on the fitted line."""
    num_solved: int
    """Items that the original model solves: all that the fit rests on."""
    num_kept: int
    """Number of these that the pruned model solves too."""
    median_depth: float | None
    """Median of the solved items, in tokens."""
    refused: str
    """Reason, in words, for which there is no slope; empty where there is one."""


def depth_slope(
    depths: Sequence[float] | Array, uncut: Sequence[float] | Array, cut: Sequence[float] | Array
) -> DepthSlope:
    """Least-squares slope of "still right" on log2(1 + depth), over the items that the original model gets right.

    A linear probability model: its slope is in points per doubling of the length, and it exists where a logistic fit
    does not (all deep items lost and all shallow ones kept). Its errors are not of equal size, so the interval is that
    of the standard error HC3 with Student's t: MacKinnon and White, "Some heteroskedasticity-consistent covariance
    matrix estimators with improved finite sample properties", J. Econometrics 29 (1985). In simulation it held its
    level where a bootstrap over items (BCa) covered 82 to 90 % (few items lost; docs/experiments/log.md).

    Args:
        depths: tokens before the answer in the original model's own run, one per item.
        uncut: 0 or 1 per item.
        cut: 0 or 1 per item, in the same order.

    Raises:
        InputError: different numbers of values, a negative depth, or scores other than 0 and 1.
    """
    if not len(depths) == len(uncut) == len(cut):
        raise InputError(f"{len(depths)} depths, {len(uncut)} uncut and {len(cut)} cut values came; give one per item.")
    depth, before, after = finite_array(depths), finite_array(uncut), finite_array(cut)
    if not (is_binary(before) and is_binary(after)):
        raise InputError("retention over depth needs scores of 0 and 1; this metric has others.")
    if depth.min() < 0:
        raise InputError(f"a depth of {depth.min():g} tokens cannot be; depths start at 0.")
    solved = before == 1
    # Summed in a fixed order, so that floating point does not make the result depend on the order of the items.
    order = np.lexsort((after[solved], depth[solved]))
    depth, kept = depth[solved][order], after[solved][order]
    n, num_kept = len(kept), int(kept.sum())
    median = float(np.median(depth)) if n else None
    refused = _refusal(n, num_kept, depth)
    if refused:
        return DepthSlope(None, None, n, num_kept, median, refused)
    x = np.log2(1 + depth)
    slope, mean, reach = _fit(x, kept)
    return DepthSlope(
        Estimate(slope, slope - reach, slope + reach, n, "hc3"),
        mean + slope * float(np.log2(1 + np.median(depth)) - x.mean()),
        n,
        num_kept,
        median,
        "",
    )


def _refusal(n: int, num_kept: int, depth: Array) -> str:
    if n < FEWEST_SOLVED:
        return f"the original model solves {n} items, a slope needs {FEWEST_SOLVED}"
    if num_kept < FEWEST_OF_EACH or n - num_kept < FEWEST_OF_EACH:
        return (
            f"of {n} solved items {num_kept} are kept and {n - num_kept} lost, a slope needs {FEWEST_OF_EACH} of each"
        )
    if np.ptp(depth) == 0:
        return f"all {n} solved items have the same depth of {depth[0]:g} tokens"
    return ""


def _fit(x: Array, y: Array) -> tuple[float, float, float]:
    """Slope, mean of y, and half of its 95 % interval, from the HC3 standard error."""
    n = len(x)
    centred = x - x.mean()
    squares = float((centred**2).sum())
    slope = float(linregress(x, y).slope)
    leverage = 1 / n + centred**2 / squares
    residuals = (y - y.mean() - slope * centred) / np.maximum(1 - leverage, 1e-9)
    error = float(np.sqrt(((centred * residuals) ** 2).sum())) / squares
    return slope, float(y.mean()), float(t.ppf((1 + CONFIDENCE) / 2, n - 2)) * error
