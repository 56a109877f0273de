"""Removed layers and channels, in words and as people write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layercut.text.counting import counted


def label_of(removed: Sequence[int], mlp: float) -> str:
    """Removed layers and channels, as people write them.

    >>> label_of([6, 9, 10, 11], 0.1004), label_of([], 0.28)
    ('6,9-11 mlp:0.1', 'mlp:0.28')
    """
    return " ".join(filter(None, (format_layers(removed), f"mlp:{mlp:.3g}" if mlp else "")))


def amount(depth: int, mlp: float) -> str:
    """How much goes, in words.

    >>> amount(3, 0), amount(1, 0.1), amount(0, 0.279)
    ('3 layers', '1 layer and 10 % of the MLP channels', '27.9 % of the MLP channels')
    """
    parts = [counted(depth, "layer")] if depth or not mlp else []
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
        return label_of(self.removed, self.mlp)

    @property
    def amount(self) -> str:
        """Number of removed layers and share of removed channels, in words."""
        return amount(len(self.removed), self.mlp)
