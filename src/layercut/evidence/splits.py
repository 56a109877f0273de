"""Selection items and report items, never both.

Layers that were chosen by the score on some items score well on these items by construction. Reported scores must
come from other items.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Literal

Half = Literal["selection", "report"]


def half_of(item_id: str) -> Half:
    """The half an item belongs to, from its id alone: the last bit of SHA-256(id), 1 for selection.

    Ids are made from the content of an item. So the halves are the same on every machine, whatever the seed, the limit
    or the order, and an item that turns up twice falls on the same side both times.
    """
    return "selection" if hashlib.sha256(item_id.encode()).digest()[-1] & 1 else "report"


def items_hash(ids: Iterable[str]) -> str:
    """SHA-256 of a set of item ids, in hex: the same for the same items, in whatever order they come."""
    return hashlib.sha256(json.dumps(sorted(set(ids))).encode()).hexdigest()
