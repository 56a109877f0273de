"""Numbers, layers and channels as people read them."""

from __future__ import annotations

import pytest

from layercut.evidence.intervals import Estimate
from layercut.surgery.plan import parse_layers
from layercut.text import amount_text, format_layers, label_of_removal, p_value, parameters_text, with_interval


@pytest.mark.parametrize(
    ("estimate", "options", "text"),
    [
        (Estimate(0.578, 0.455, 0.692, 64, "wilson"), {}, "58 [46, 69]"),
        (Estimate(0.578, 0.455, 0.692, 64, "wilson"), {"digits": 1}, "57.8 [45.5, 69.2]"),
        (Estimate(-0.21, -0.3, 0.004, 64, "bootstrap"), {"sign": True}, "-21 [-30, 0]"),
        (Estimate(0.5, None, None, 1, "none"), {}, "50 [n/a]"),
        (Estimate(-0.001, -0.004, 0.012, 9, "bootstrap"), {"sign": True}, "0 [0, +1]"),
        (Estimate(12.345, 10.0, 15.0, 9, "bca"), {"share": False}, "12.3 [10, 15]"),
    ],
)
def test_values_with_intervals(estimate, options, text):
    assert with_interval(estimate, **options) == text


@pytest.mark.parametrize(("p", "text"), [(1e-9, "<0.001"), (0.0149, "0.015"), (0.5, "0.50"), (1.0, "1.00")])
def test_p_values(p, text):
    assert p_value(p) == text


@pytest.mark.parametrize(
    ("count", "text"), [(134_515_008, "134.5M"), (8_030_261_248, "8.03B"), (999, "999"), (12_345, "12.3k")]
)
def test_parameters(count, text):
    assert parameters_text(count) == text


@pytest.mark.parametrize("layers", [(), (3,), (1, 2), (1, 2, 3), (0, 4, 5, 6, 9, 11, 12)])
def test_layers_are_written_as_they_are_read(layers: tuple[int, ...]) -> None:
    assert layers == () or parse_layers(format_layers(layers)) == layers


@pytest.mark.parametrize(
    ("layers", "mlp", "label", "words"),
    [
        ((), 0.0, "", "0 layers"),
        ((4,), 0.0, "4", "1 layer"),
        ((9, 6, 10), 0.1004, "6,9,10 mlp:0.1", "3 layers and 10 % of the MLP channels"),
        ((), 0.2857, "mlp:0.286", "28.6 % of the MLP channels"),
    ],
)
def test_layers_and_channels_stand_side_by_side(layers: tuple[int, ...], mlp: float, label: str, words: str) -> None:
    assert (label_of_removal(layers, mlp), amount_text(len(layers), mlp)) == (label, words)
