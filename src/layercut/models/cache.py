"""The cache folder of layercut: models converted from other formats."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ELSEWHERE = "set LAYERCUT_CACHE to a folder with free space"  # advice for a cache that cannot be written


def cache_dir() -> Path:
    """``LAYERCUT_CACHE`` if it is set, else a folder of our own in the platform's place for caches."""
    if chosen := os.environ.get("LAYERCUT_CACHE"):
        return Path(chosen).expanduser().absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).expanduser().absolute() / "layercut"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "layercut"
    if sys.platform == "win32" and (base := os.environ.get("LOCALAPPDATA")):
        return Path(base) / "layercut" / "Cache"
    return Path.home() / ".cache" / "layercut"
