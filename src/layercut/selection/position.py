"""Criteria that use only the position of a layer: the baselines for every other criterion."""

from __future__ import annotations

import hashlib

from layercut.selection.base import Context, Selection, choose


def reverse(context: Context) -> Selection:
    """The last layers, the very last one first. "Reverse order", arXiv:2602.01997. No settings; the seed has no effect.

    >>> reverse(Context(num_layers=30, num_remove=3)).removed
    (29, 28, 27)
    """
    choose("reverse", context.settings)
    return Selection(context.candidates[::-1][: context.num_remove])


def random(context: Context) -> Selection:
    """Random layers, the same for the same seed on every machine and Python. No settings.

    Layers are ordered by a hash of (seed, layer), so a deeper cut with the same seed contains the shallower one.
    """
    choose("random", context.settings)
    order = sorted(context.candidates, key=lambda layer: hashlib.sha256(f"{context.seed}:{layer}".encode()).digest())
    return Selection(tuple(order[: context.num_remove]))
