"""Data sets of the Hugging Face hub: as a whole, or streamed as ``hub:NAME``, ``hub:NAME:config:split``.

Whether the hub is reachable is checked once, so that an offline machine loses seconds, not a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from layercut.errors import InputError, MissingExtra, first_line
from layercut.tasks.data_files import DataRow, DataSet

HUB = "hub:"  # prefix of the name of a data set
TIMEOUT = 8.0  # seconds until the hub counts as out of reach


def read_hub(task: str, dataset: str, config: str | None = None, splits: Sequence[str] = ()) -> DataSet:
    """Rows of a data set on the hub: of these splits, or of all. Raises InputError: it cannot be loaded."""
    load = _load_dataset(f"fetching {dataset}", "lm-eval")
    try:
        with hub_or_cache():
            data = load(dataset, config)
    except Exception as error:  # what a failed download raises differs from version to version of three libraries
        raise InputError(
            f"{task}: the data set {dataset} cannot be loaded ({why_not(error)}). With no network give a local copy: "
            f"`data` {task}=PATH."
        ) from error
    return DataSet(
        {
            split: [DataRow(f"{dataset} {split} row {i}", row) for i, row in enumerate(data[split])]
            for split in splits or data
        }
    )


def hub_rows(source: str, *, extra: str, buffer: int = 0, seed: int = 0) -> Iterator[DataRow]:
    """The rows as they come, so that only as much is fetched as is taken.

    Args:
        source: what is read; the split is ``train`` if left out.
        extra: the optional part that brings the library ``datasets``, for its absence.
        buffer: shuffle through a buffer of this many rows (and in the order of shards); 0 takes rows in their order.
        seed: of the shuffle.
    """
    name, *rest = source.removeprefix(HUB).split(":")
    if not name or len(rest) > 2:
        raise InputError(f"{source!r} names no data set; write hub:NAME, hub:NAME:config or hub:NAME:config:split.")
    load = _load_dataset(f"reading {source}", extra)
    config, split = [*rest, "", ""][:2]

    def rows() -> Iterator[DataRow]:  # of its own, so that what is refused above is refused before the first row
        try:
            with hub_or_cache():
                data = load(name, config or None, split=split if len(rest) == 2 else "train", streaming=True)
            if buffer:
                data = data.shuffle(seed=seed, buffer_size=buffer)
            for number, fields in enumerate(data, start=1):
                yield DataRow(f"{source}, row {number}", fields)
        except Exception as error:  # its own kinds, and those of the network libraries beneath
            raise InputError(
                f"{source}: no data set can be read here ({why_not(error)}). Check name, config and split, or give "
                "a local file."
            ) from error

    return rows()


def _load_dataset(doing: str, extra: str) -> Callable[..., Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra(doing, extra) from error
    return load_dataset  # type: ignore[no-any-return]


@contextmanager
def hub_or_cache() -> Iterator[None]:
    """Inside the block data sets come from the hub, or, where it is out of reach, from its cache alone.

    The libraries beneath ask an absent hub six times for every file and write a line for each.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT):
        yield
        return
    import datasets.config

    both = (constants, datasets.config)
    before = [place.HF_HUB_OFFLINE for place in both]
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for place, value in zip(both, before, strict=True):
            place.HF_HUB_OFFLINE = value


def why_not(error: Exception) -> str:
    """Why a data set could not be had, in a few words."""
    if "OfflineModeIsEnabled" in str(error):
        return "the Hugging Face hub is out of reach or switched off, and its cache holds no copy"
    return first_line(error)


@cache
def _answers(endpoint: str) -> bool:
    """True if anything at all comes back from this address; asked once in a process."""
    from huggingface_hub import get_session

    with suppress(Exception):  # no route, refused, timed out: each HTTP library has its own classes for these
        get_session().head(endpoint, timeout=TIMEOUT)
        return True
    return False
