"""Numbers, layers and channels as people read them."""

import pytest

from layercut.evidence.intervals import Estimate
from layercut.surgery.plan import parse_layers
from layercut.text import amount_text, format_layers, label_of_removal, p_value, parameters_text, with_interval

SHARE = Estimate(0.578, 0.455, 0.692, 64, "wilson")


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (with_interval(SHARE), "58 [46, 69]"),
        (with_interval(SHARE, digits=1), "57.8 [45.5, 69.2]"),
        (with_interval(Estimate(-0.21, -0.3, 0.004, 64, "bootstrap"), sign=True), "-21 [-30, 0]"),
        (with_interval(Estimate(0.5, None, None, 1, "none")), "50 [n/a]"),
        (with_interval(Estimate(-0.001, -0.004, 0.012, 9, "bootstrap"), sign=True), "0 [0, +1]"),
        (with_interval(Estimate(12.345, 10.0, 15.0, 9, "bca"), share=False), "12.3 [10, 15]"),
        *((p_value(p), text) for p, text in ((1e-9, "<0.001"), (0.0149, "0.015"), (0.5, "0.50"), (1.0, "1.00"))),
        (parameters_text(134_515_008), "134.5M"),
        (parameters_text(8_030_261_248), "8.03B"),
        (parameters_text(999), "999"),
        (parameters_text(12_345), "12.3k"),
        (label_of_removal((), 0.0), ""),
        (label_of_removal((4,), 0.0), "4"),
        (label_of_removal((9, 6, 10), 0.1004), "6,9,10 mlp:0.1"),
        (label_of_removal((), 0.2857), "mlp:0.286"),
        (amount_text(0, 0.0), "0 layers"),
        (amount_text(1, 0.0), "1 layer"),
        (amount_text(3, 0.1004), "3 layers and 10 % of the MLP channels"),
        (amount_text(0, 0.2857), "28.6 % of the MLP channels"),
    ],
)
def test_values_tests_parameters_and_removals_are_shown_short(shown, text):
    assert shown == text


@pytest.mark.parametrize("layers", [(), (3,), (1, 2), (1, 2, 3), (0, 4, 5, 6, 9, 11, 12)])
def test_layers_are_written_as_they_are_read(layers):
    assert layers == () or parse_layers(format_layers(layers)) == layers
