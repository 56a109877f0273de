"""Fields of config.json by their older names, for programs that do not know those of transformers 5.

transformers 5 writes the base of rotary positions into ``rope_parameters`` alone. mlx-lm 0.32 reads ``rope_theta`` for
most families, takes its own default where that is missing, and writes other text without a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_older_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with ``rope_theta``, and ``rope_scaling`` where positions are scaled, also in ``text_config``.

    >>> with_older_fields({"rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}})["rope_theta"]
    100000.0
    """
    found = dict(config)
    if isinstance(inner := found.get("text_config"), dict):
        found["text_config"] = with_older_fields(inner)
    rope = found.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:
        return found  # none, or one for each kind of layer, which older fields cannot say
    found.setdefault("rope_theta", rope["rope_theta"])
    if rope.get("rope_type", "default") != "default":
        found.setdefault("rope_scaling", rope)
    return found
