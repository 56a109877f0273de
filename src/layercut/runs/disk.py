"""Disks that are full or cannot be written: one line for the user, with the numbers."""

from __future__ import annotations

import errno
import os
import re
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from layercut.errors import InputError
from layercut.runs.environment import hide_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FULL = {errno.ENOSPC, errno.EDQUOT}
BROKEN = {*_FULL, errno.EROFS, errno.EIO}
"""Results that cannot be written stop a run."""
_FORBIDDEN = {
    errno.EROFS,
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EFBIG,
    errno.EIO,
}


def size(num_bytes: int) -> str:
    """Bytes for people: ``1.23 GB``, ``45.6 MB``, ``789 kB`` (powers of ten), ``12 bytes``."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            value = num_bytes / unit
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"
    return f"{num_bytes} bytes"


def check_room(path: Path, num_bytes: int, advice: str) -> None:
    """Raise before the first byte is written if what is to be written to ``path`` does not fit.

    Raises:
        InputError: the disk has less space; the message says how much is missing.
    """
    folder = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise InputError(
            f"{_shown(path)} needs {size(num_bytes)} and its disk has {size(free)} free, {size(num_bytes - free)} too "
            f"little. Free space and run the same command again, or {advice}."
        )


@contextmanager
def writing(path: Path, advice: str) -> Iterator[None]:
    """Have what the disk refuses inside the block be one line that names ``path``.

    Args:
        path: what is being written.
        advice: what else the user can do, such as ``use another --out``.

    Raises:
        InputError: no space, no right to write, a disk that is read-only or fails.
    """

    def refused(error: Exception, code: int) -> str:
        if code in _FULL:
            return (
                f"the disk of {_shown(path)} is full, and nothing of it was left there. Free space and run the same "
                f"command again, or {advice}."
            )
        at = getattr(error, "filename", None)
        where = f" at {_shown(Path(str(at)))}" if at else ""
        return f"{_shown(path)} cannot be written ({os.strerror(code)}{where}); {advice}."

    with _one_line(refused):
        yield


def disk_problem(error: OSError) -> str | None:
    """One line for a disk that is full, read-only or broken while results are written; None for any other error."""
    if error.errno not in BROKEN:
        return None
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    what = "the disk" if path is None else f"the disk of {_shown(path)}"
    kept = "What was finished before is kept; {way} and run the same command again to go on."
    if error.errno in _FULL:
        with suppress(OSError, StopIteration):
            folder = next(one for one in path.absolute().parents if one.exists()) if path else Path()
            what += f" ({size(shutil.disk_usage(folder).free)} free)"
        return f"{what} is full. {kept.format(way='free space')}"
    return f"{what} cannot be written ({error.strerror}). {kept.format(way='mend that, or use another `out`,')}"


@contextmanager
def resumable(path: Path) -> Iterator[None]:
    """Have what the disk refuses inside the block be one line that says what a run folder holds, and how to go on.

    Args:
        path: the run folder, which keeps what is whole in it.

    Raises:
        InputError: no space, no right to write, a disk that is read-only or fails.
    """

    def refused(error: Exception, code: int) -> str:
        from layercut.runs.directory import saved

        here = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
        what = (
            f"the disk of {_shown(path)} is full ({size(shutil.disk_usage(here).free)} free)"
            if code in _FULL
            else f"{_shown(path)} cannot be written ({os.strerror(code)})"
        )
        held = saved(path) or "nothing is saved"
        do = "Free space" if code in _FULL else "Make it writable"
        return f"{what}; {held}. {do} and run the same command to continue, or use another `out`."

    with _one_line(refused):
        yield


@contextmanager
def _one_line(refused: Callable[[Exception, int], str]) -> Iterator[None]:
    """Raise what the disk refuses inside the block as an InputError; ``refused`` gives its text."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        code = _errno_of(error)
        if code is None or code not in _FULL | _FORBIDDEN:
            raise
        raise InputError(refused(error, code)) from error


def _errno_of(error: Exception) -> int | None:
    """What the system answered; safetensors and tokenizers have it in their text alone, torch says no more than that
    writing failed."""
    if isinstance(error, OSError):
        return error.errno
    if isinstance(error, RuntimeError) and re.search(
        r"PytorchStreamWriter|file write failed|iostream error", str(error)
    ):
        return errno.ENOSPC
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None


def _shown(path: Path) -> str:
    return hide_home(str(path))
