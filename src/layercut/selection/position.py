"""Criteria that look only at where a layer stands: the baselines every other criterion has to beat."""

from __future__ import annotations

import hashlib

from layercut.errors import InputError


def reverse(num_layers: int, num_remove: int, seed: int = 0) -> tuple[int, ...]:
    """The last ``num_remove`` layers, the very last one first. "Reverse order", arXiv:2602.01997; ``seed`` has no effect.

    >>> reverse(30, 3)
    (29, 28, 27)
    """
    _check(num_layers, num_remove)
    return tuple(range(num_layers - 1, num_layers - 1 - num_remove, -1))


def random(num_layers: int, num_remove: int, seed: int = 0) -> tuple[int, ...]:
    """``num_remove`` layers by chance, the same for the same seed on every machine and Python.

    Layers are ordered by a hash of (seed, layer), so a deeper cut with the same seed contains the shallower one.
    """
    _check(num_layers, num_remove)
    order = sorted(range(num_layers), key=lambda layer: hashlib.sha256(f"{seed}:{layer}".encode()).digest())
    return tuple(order[:num_remove])


def _check(num_layers: int, num_remove: int) -> None:
    if not 0 < num_remove < num_layers:
        raise InputError(f"cannot remove {num_remove} of {num_layers} decoder layers; choose 1 to {num_layers - 1}.")
