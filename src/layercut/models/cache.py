"""The cache folder of layercut: converted models, and what follows from the small files of models.

A process holds a shared lock on each folder that it uses, until it ends; what nobody holds can be removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.runs.atomic import fill_directory, write_json
from layercut.runs.disk import size_text, writing_to_disk
from layercut.runs.json_text import load_json
from layercut.runs.lock import part_prefix, sole_writer

logger = logging.getLogger(__name__)

ELSEWHERE = "set LAYERCUT_CACHE to a folder with free space"  # advice for a cache that cannot be written
DEFAULT_GIB = "30"
_MODELS = ("gguf", "bundled", "loaded")  # folders of the cache that hold models; the others hold small files
_held: dict[Path, int] = {}  # locks of this process


def cache_dir() -> Path:
    """``LAYERCUT_CACHE`` if it is set, else ``layercut`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("LAYERCUT_CACHE") or f"{base}/layercut").expanduser().absolute()


@contextmanager
def fill_cache_once(target: Path, is_whole: Callable[[], bool], work: str) -> Iterator[Path | None]:
    """A folder to fill, which becomes ``target`` when the block ends well; None where it is whole."""
    if hold_entry(target) and is_whole():
        yield None
        return
    with writing_to_disk(target, ELSEWHERE):
        target.parent.mkdir(parents=True, exist_ok=True)
        waiting = lambda: logger.info("waiting for another process that %s", work)  # noqa: E731
        with sole_writer(target, waiting=waiting) as is_sole:
            if hold_entry(target) and is_whole():  # another process was quicker
                yield None
                return
            if target.exists():
                shutil.rmtree(target)
            with fill_directory(target, is_sole=is_sole) as folder:
                yield folder
    hold_entry(target)
    trim_cache()


class CacheEntry(NamedTuple):
    """A folder of the cache that holds a model."""

    used: float  # seconds since 1970, when it was last used
    path: Path
    num_bytes: int
    is_in_use: bool


def hold_entry(folder: Path) -> bool:
    """Keep a folder of the cache from removal until this process ends; False where it is not there."""
    handle = _lock(folder, shared=True)
    if handle is None:
        return folder.is_dir()
    if not folder.is_dir() or not os.path.samestat(folder.stat(), os.fstat(handle)):  # removed in this moment
        os.close(handle)
        return False
    if (before := _held.pop(folder, None)) is not None:
        os.close(before)
    _held[folder] = handle
    with suppress(OSError):  # a cache that is only read
        os.utime(folder)
    return True


def _lock(folder: Path, *, shared: bool) -> int | None:
    """A handle that locks a folder; None where it is not there, is locked by others, or the system has no locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def list_cache() -> list[CacheEntry]:
    """The models in the cache, the one that was used longest ago first."""
    entries = []
    for folder in (folder for kind in _MODELS for folder in (cache_dir() / kind).glob("[!.]*")):
        with suppress(FileNotFoundError):  # removed meanwhile
            num_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if (handle := _lock(folder, shared=False)) is not None:
                os.close(handle)
            entries.append(CacheEntry(folder.stat().st_mtime, folder, num_bytes, handle is None))
    return sorted(entries)


def trim_cache(limit: float | None = None) -> list[CacheEntry]:
    """Remove models from the cache until it has at most ``limit`` bytes, those first that were used longest ago.

    ``limit`` is LAYERCUT_CACHE_GIB if it is left out. What a process uses stays.
    """
    said = os.environ.get("LAYERCUT_CACHE_GIB") or DEFAULT_GIB
    try:
        limit = float(said) * 2**30 if limit is None else limit
    except ValueError as error:
        raise InputError(f"LAYERCUT_CACHE_GIB is {said!r:.40}; give a number of GiB, such as 30.") from error
    entries, removed = list_cache(), list[CacheEntry]()
    total = sum(entry.num_bytes for entry in entries)
    for entry in entries:
        if total <= limit:
            break
        if (handle := _lock(entry.path, shared=False)) is not None:
            gone = Path(tempfile.mkdtemp(dir=entry.path.parent, prefix=part_prefix(entry.path)))
            entry.path.rename(gone)  # at once, so that nobody finds half of it
            os.close(handle)
            shutil.rmtree(gone)
            logger.info("removed %s from the cache (%s)", entry.path.name, size_text(entry.num_bytes))
            removed, total = [*removed, entry], total - entry.num_bytes
    return removed


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
