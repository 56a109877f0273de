"""Rows of a data set on the hub, streamed: ``hub:NAME``, ``hub:NAME:config`` or ``hub:NAME:config:split``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from layercut.errors import InputError, MissingExtra
from layercut.tasks.data_files import DataRow
from layercut.tasks.hub_reach import hub_or_cache, why_not

HUB = "hub:"
"""Prefix of the name of a data set."""


def hub_rows(source: str, *, extra: str, buffer: int = 0, seed: int = 0) -> Iterator[DataRow]:
    """The rows as they come, so that only as much is fetched as is taken.

    Args:
        source: what is read; the split is ``train`` if left out.
        extra: the optional part that brings the library ``datasets``, for its absence.
        buffer: shuffle through a buffer of this many rows (and in the order of shards); 0 takes rows in their order.
        seed: of the shuffle.

    Raises:
        InputError: a source of another form, or one that cannot be read.
        MissingExtra: ``datasets`` is not installed.
    """
    name, *rest = source.removeprefix(HUB).split(":")
    if not name or len(rest) > 2:
        raise InputError(f"{source!r} names no data set; write hub:NAME, hub:NAME:config or hub:NAME:config:split.")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra(f"reading {source}", extra) from error
    config = (rest[0] or None) if rest else None
    split = rest[1] if len(rest) == 2 else "train"
    return _rows(source, lambda: load_dataset(name, config, split=split, streaming=True), buffer, seed)


def _rows(source: str, load: Callable[[], Any], buffer: int, seed: int) -> Iterator[DataRow]:
    try:
        with hub_or_cache():
            rows = load()
        if buffer:
            rows = rows.shuffle(seed=seed, buffer_size=buffer)
        for number, fields in enumerate(rows, start=1):
            yield DataRow(f"{source}, row {number}", fields)
    except Exception as error:  # its own kinds, and those of the network libraries beneath
        raise InputError(
            f"{source}: no data set can be read here ({why_not(error)}). Check name, config and split, or give "
            "a local file."
        ) from error
