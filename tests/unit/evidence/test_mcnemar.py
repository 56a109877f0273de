"""McNemar's exact test against known values and its own definition."""

from __future__ import annotations

import pytest
from scipy.stats import binom

from layercut.errors import InputError
from layercut.evidence.mcnemar import mcnemar


def outcomes(both: int, lost: int, gained: int, neither: int) -> tuple[list[float], list[float]]:
    uncut = [1.0] * (both + lost) + [0.0] * (gained + neither)
    return uncut, [1.0] * both + [0.0] * lost + [1.0] * gained + [0.0] * neither


def test_published_example() -> None:
    # Fagerland, Lydersen and Laake, "The McNemar test for binary matched-pairs data", BMC Med. Res. Methodol. 13:91
    # (2013): airway hyper-responsiveness before and after a transplant, 1 and 7 discordant of 21; exact p 0.0703.
    found = mcnemar(*outcomes(both=1, lost=1, gained=7, neither=12))
    assert found[:2] == (1, 7)
    assert found.p_value == pytest.approx(0.0703, abs=5e-5)


def test_is_twice_the_smaller_binomial_tail() -> None:
    for lost, gained in [(30, 5), (0, 6), (12, 20)]:
        smaller = min(lost, gained)
        assert mcnemar(*outcomes(3, lost, gained, 9)).p_value == pytest.approx(
            2 * binom.cdf(smaller, lost + gained, 0.5)
        )


def test_concordant_items_do_not_count() -> None:
    assert mcnemar(*outcomes(0, 9, 2, 0)) == mcnemar(*outcomes(500, 9, 2, 300))
    assert mcnemar(*outcomes(5, 0, 0, 5)) == (0, 0, 1.0)
    assert mcnemar(*outcomes(5, 4, 4, 5)).p_value == 1.0


def test_five_discordant_items_cannot_be_significant_and_six_can() -> None:
    assert mcnemar(*outcomes(50, 5, 0, 50)).p_value > 0.05
    assert mcnemar(*outcomes(50, 6, 0, 50)).p_value < 0.05


@pytest.mark.parametrize(
    ("uncut", "cut", "message"),
    [
        ([1, 0], [1], "2 uncut and 1 cut"),
        ([0.5, 1], [0, 1], "takes values of 0 and 1"),
        ([], [], "at least one item"),
    ],
)
def test_bad_input(uncut: list[float], cut: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        mcnemar(uncut, cut)
