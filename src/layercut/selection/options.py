"""A criterion's own settings: named choices; the first of each is the default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layercut.errors import InputError, unknown


def choose(criterion: str, settings: Mapping[str, Any], **choices: tuple[str, ...]) -> dict[str, str]:
    """Every setting of a criterion with the choice that was made, or its default.

    >>> choose("magnitude", {}, norm=("l1", "l2"))
    {'norm': 'l1'}

    Raises:
        InputError: a setting that the criterion does not have, or a value that is not among the choices.
    """
    for name in settings:
        if not choices:
            raise InputError(f"{criterion} has no settings, but {name!r} was given; leave it out.")
        if name not in choices:
            raise unknown(f"setting of {criterion}", name, choices)
    chosen = {name: str(settings.get(name, values[0])) for name, values in choices.items()}
    for name, value in chosen.items():
        if value not in choices[name]:
            raise unknown(f"{name} of {criterion}", value, choices[name])
    return chosen
