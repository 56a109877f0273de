"""Protected layers: their notation on the command line, and the default of each criterion."""

from __future__ import annotations

import re
from dataclasses import replace

from layercut.errors import InputError
from layercut.selection import CRITERIA
from layercut.selection.base import Context
from layercut.surgery.plan import parse_layers

_EDGE = re.compile(r"^(first|last):(\d{1,9})$")


def parse_protected(text: str, num_layers: int) -> frozenset[int]:
    """The layers that ``text`` protects: ``first:K``, ``last:K``, indices and inclusive ranges; or ``none``.

    ``first:4,last:2`` is the "+" of Mag+ and Taylor+. Kim et al., "Shortened LLaMA", arXiv:2402.02834. Raises
    InputError for any other text, or a layer that the model does not have.

    >>> sorted(parse_protected("first:2,last:1,4-5", 10))
    [0, 1, 4, 5, 9]
    """
    if text.strip() == "none":
        return frozenset()
    protected: set[int] = set()
    for part in text.replace(" ", "").split(","):
        protected.update(_part(part, num_layers))
    return frozenset(protected)


def _part(part: str, num_layers: int) -> range | tuple[int, ...]:
    if edge := _EDGE.match(part):
        count = int(edge[2])
        if count > num_layers:
            raise InputError(f"{part} protects more layers than the model has ({num_layers}).")
        return range(count) if edge[1] == "first" else range(num_layers - count, num_layers)
    try:
        layers = parse_layers(part)
    except InputError as error:
        raise InputError(
            f"{part!r:.60} does not name the layers to protect ({error}); write first:4, last:2, indices and inclusive "
            "ranges such as 0,7-9, or none."
        ) from error
    if layers[-1] >= num_layers:
        raise InputError(
            f"protected layer {layers[-1]} is not in the model, whose decoder layers are 0-{num_layers - 1}."
        )
    return layers


def with_default_protection(context: Context, criterion: str) -> Context:
    """The context with the criterion's default protection, unless it has one.

    Raises InputError if too few candidates are left.
    """
    if context.protect is not None:
        return context
    return replace(context, protect=frozenset({0}) if CRITERIA[criterion].protects_first_layer else frozenset())
