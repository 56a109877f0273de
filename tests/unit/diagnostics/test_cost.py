from __future__ import annotations

import pytest

from layercut.diagnostics.cost import ratio


def test_ratio_of_paired_rounds() -> None:
    assert ratio([2.0, 4.0], [1.0, 2.0])[:3] == (0.5, None, None)
    found = ratio([1.0, 1.0, 1.0, 1.0], [1.1, 1.2, 1.0, 1.1])
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.0977 < found.high
    assert found.value == pytest.approx((1.1 * 1.2 * 1.0 * 1.1) ** 0.25)
