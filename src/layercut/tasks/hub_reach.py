"""Check once whether the Hugging Face hub is reachable, so that an offline machine loses seconds, not a minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache

from layercut.errors import first_line

TIMEOUT = 8.0
"""Seconds until the hub counts as out of reach."""


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
