"""One writer per run folder. The kernel holds the lock, so a killed process leaves none behind."""

from __future__ import annotations

import errno
import os
import sys
import time
from typing import TYPE_CHECKING, TextIO

from layercut.errors import InputError
from layercut.runs.environment import hide_home

if TYPE_CHECKING:
    from pathlib import Path

LOCK = ".lock"
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What network disks that have no locks answer; there the user sees to it that one process writes."""


def take_lock(path: Path) -> TextIO:
    """Take the folder for this process until the file that is given back is closed.

    Raises:
        InputError: another process, or another RunFolder of this one, holds it.
        OSError: the folder cannot be written.
    """
    file = (path / LOCK).open("a+", encoding="utf-8")
    try:
        if not _try_lock(file):
            file.seek(0)
            pid = file.read().strip() or "unknown"
            raise InputError(
                f"{hide_home(str(path))} is being written by another layercut process (pid {pid}). "
                "Wait for it, end it, or use another --out."
            )
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def is_locked(path: Path) -> bool:
    """Whether a process is writing the run in this folder."""
    if sys.platform == "win32" or not (path / LOCK).exists():
        return False
    import fcntl

    try:
        with (path / LOCK).open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _try_lock(file: TextIO) -> bool:
    if sys.platform == "win32":
        return True
    import fcntl

    for wait in (0.05, 0.05, 0.1, 0.1, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if wait is not None:  # is_locked of some `layercut ls` holds the lock for a moment
                time.sleep(wait)
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                return True
            raise
    return False
