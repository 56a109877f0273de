"""Retention over depth: known slopes, refusals, and coverage."""

from __future__ import annotations

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.depth import depth_slope


def simulated(rng: np.random.Generator, n: int, slope: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depths of 7 to 255 tokens (3 to 8 doublings); kept with 0.9 at the shallowest, changing by the slope."""
    x = rng.uniform(3, 8, n)
    kept = rng.random(n) < 0.9 + slope * (x - 3)
    return 2**x - 1, np.ones(n), kept.astype(float)


def test_finds_the_slope_and_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    for n, slope in ((50, 0.0), (120, 0.0), (50, -0.12), (120, -0.12), (500, -0.12)):
        values, held, given = [], 0, 0
        for _ in range(1000):
            slope_found = depth_slope(*simulated(rng, n, slope)).slope
            if slope_found is None:  # hardly any item lost
                continue
            given += 1
            assert slope_found.low is not None
            assert slope_found.high is not None
            values.append(slope_found.value)
            held += slope_found.low <= slope <= slope_found.high
        assert given > 500
        assert np.mean(values) == pytest.approx(slope, abs=0.005)
        assert 0.93 <= held / given <= 0.975  # the standard error is 0.007 to 0.01


def test_by_hand() -> None:
    # 40 items of depth 1 (one doubling), of which 30 are kept; 40 of depth 7 (three), of which 10 are: -0.5 / 2.
    depths = [1.0] * 40 + [7.0] * 40
    cut = [1.0] * 30 + [0.0] * 10 + [1.0] * 10 + [0.0] * 30
    found = depth_slope(depths, [1.0] * 80, cut)
    assert found.slope is not None
    assert found.slope.value == pytest.approx(-0.25)
    assert found.slope.low < -0.25 < found.slope.high  # type: ignore[operator]
    assert (found.num_solved, found.num_kept, found.median_depth) == (80, 40, 4)
    assert found.kept_at_median == pytest.approx(0.75 - 0.25 * (np.log2(5) - 1))


def test_only_items_that_the_uncut_model_solves_count() -> None:
    rng = np.random.default_rng(1)
    depth, uncut, cut = simulated(rng, 100, -0.1)
    alone = depth_slope(depth, uncut, cut)
    more = depth_slope([*depth, *[500.0] * 50], [*uncut, *[0.0] * 50], [*cut, *[1.0] * 50])
    assert more == alone


def test_the_order_of_the_items_has_no_effect() -> None:
    rng = np.random.default_rng(2)
    depth, uncut, cut = simulated(rng, 60, -0.1)
    order = rng.permutation(60)
    assert depth_slope(depth, uncut, cut) == depth_slope(depth[order], uncut[order], cut[order])


@pytest.mark.parametrize(
    ("depths", "uncut", "cut", "refused"),
    [
        (range(29), [1] * 29, [1, 0] * 14 + [1], "solves 29 items, a slope needs 30"),
        (range(60), [0] * 60, [1] * 60, "solves 0 items"),
        (range(60), [1] * 60, [1] * 56 + [0] * 4, "56 are kept and 4 lost"),
        (range(60), [1] * 60, [0] * 60, "0 are kept and 60 lost"),
        ([12] * 60, [1] * 60, [1, 0] * 30, "same depth of 12 tokens"),
    ],
)
def test_refusals(depths: list[int], uncut: list[int], cut: list[int], refused: str) -> None:
    found = depth_slope(list(depths), uncut, cut)
    assert found.slope is None
    assert refused in found.refused


def test_all_shallow_kept_and_all_deep_lost_still_has_a_slope() -> None:
    """Where a logistic fit runs off to infinity."""
    found = depth_slope([1.0] * 30 + [3.0] * 30, [1.0] * 60, [1.0] * 30 + [0.0] * 30)
    assert found.slope is not None
    assert found.slope.value == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("depths", "uncut", "cut", "message"),
    [
        ([1], [1, 1], [1, 1], "1 depths, 2 uncut and 2 cut"),
        ([-1, 2], [1, 1], [1, 1], "depths start at 0"),
        ([1, 2], [0.5, 1], [1, 1], "needs scores of 0 and 1"),
    ],
)
def test_bad_input(depths: list[float], uncut: list[float], cut: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        depth_slope(depths, uncut, cut)
