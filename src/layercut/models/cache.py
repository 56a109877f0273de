"""The cache folder of layercut: converted models, and what follows from the small files of models."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from layercut.runs.atomic import fill_directory, write_json
from layercut.runs.disk import writing_to_disk
from layercut.runs.json_text import load_json
from layercut.runs.lock import sole_writer

logger = logging.getLogger(__name__)

ELSEWHERE = "set LAYERCUT_CACHE to a folder with free space"  # advice for a cache that cannot be written


def cache_dir() -> Path:
    """``LAYERCUT_CACHE`` if it is set, else ``layercut`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LAYERCUT_CACHE") or f"{base}/layercut").expanduser().absolute()


@contextmanager
def fill_cache_once(target: Path, is_whole: Callable[[], bool], work: str) -> Iterator[Path | None]:
    """A folder to fill, which becomes ``target`` when the block ends well; None where it is whole."""
    if is_whole():
        yield None
        return
    with writing_to_disk(target, ELSEWHERE):
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = lambda: logger.info("waiting for another process that %s", work)  # noqa: E731
        with sole_writer(target, waiting=waiting) as is_sole:
            if is_whole():  # another process was quicker
                yield None
                return
            if target.exists():
                shutil.rmtree(target)
            with fill_directory(target, is_sole=is_sole) as folder:
                yield folder


def remembered_value(kind: str, inputs: Any, compute: Callable[[], Any]) -> Any:
    """``compute()`` as JSON, kept on disk by ``kind``, ``inputs``, layercut's code and transformers: it loads torch."""
    key = hashlib.sha256(json.dumps([inputs, _code()], sort_keys=True).encode()).hexdigest()[:32]
    file = cache_dir() / kind / f"{key}.json"
    try:
        return load_json(file)
    except (OSError, ValueError):  # not there, or not whole
        made = compute()
    with suppress(OSError, ValueError):  # it only saves time
        write_json(file, made)
    return json.loads(json.dumps(made))


@cache
def _code() -> list[str]:
    sources = sorted(Path(__file__).parents[1].glob("*/*.py"))
    return [hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest(), version("transformers")]
