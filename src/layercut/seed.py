"""Random seeds: what one may be, declared once for flags, study files and Python."""

from __future__ import annotations

import operator

from layercut.errors import InputError

LARGEST = 2**32 - 1
"""Largest seed that every library below takes: transformers hands it to NumPy's legacy generator, which has 32 bits."""


def check_seed(seed: object, name: str = "seed") -> int:
    """The seed as an int.

    Args:
        seed: what was given.
        name: of the setting, for the message.

    Raises:
        InputError: not a whole number from 0 to ``LARGEST``.
    """
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number <= LARGEST:
        raise InputError(f"{name} {seed!r} is not a random seed; write a whole number from 0 to {LARGEST}, such as 0.")
    return number
