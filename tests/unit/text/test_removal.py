from __future__ import annotations

import pytest

from layercut.surgery.plan import parse_layers
from layercut.text.removal import amount, format_layers, label_of


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
    assert (label_of(layers, mlp), amount(len(layers), mlp)) == (label, words)
