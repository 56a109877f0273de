"""One writer per run folder, and per name of a folder; and what killed writers left beside it.

The kernel holds the lock, so a killed process leaves none.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TextIO

from layercut.errors import InputError
from layercut.runs.environment import shown_path

LOCK = ".lock"
NAME_LOCK = "layercut-lock"  # the lock of a new folder ``x`` is the file ``.x.layercut-lock`` beside it
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of network disks without locks; there the user must run one process."""
_POLL = 0.2  # seconds between two checks of an awaited lock


def lock_run_folder(path: Path) -> TextIO:
    """Lock the folder for this process until the returned file is closed.

    Raises InputError if another process, or another RunFolder of this one, holds it; OSError if it cannot be written.
    """
    file = (path / LOCK).open("a+", encoding="utf-8")
    try:
        if _try_lock(file) is False:
            raise _is_held(path, file)
        _sign(file)
    except BaseException:
        file.close()
        raise
    return file


@contextmanager
def sole_writer(path: Path, *, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Be the only process that writes something new under a name, inside a ``with`` block.

    Args:
        path: the new file or folder; its parent must exist.
        waiting: called once if another process holds the name, which is then awaited.

    Yields:
        Whether the lock is real; False where this system or disk has none.
    Raises:
        InputError: another process holds it, and ``waiting`` is None.
        OSError: the parent cannot be written.
    """
    lock = path.parent / f".{path.name}.{NAME_LOCK}"
    file, held = _open_locked(lock, path, waiting)
    try:
        _sign(file)
        yield held
    finally:
        with suppress(OSError):
            lock.unlink()  # while it is held, so it is not another process's
        file.close()


def _open_locked(lock: Path, path: Path, waiting: Callable[[], None] | None) -> tuple[TextIO, bool]:
    while True:
        file = lock.open("a+", encoding="utf-8")
        try:
            held = _try_lock(file)
            if held is False and waiting is None:
                raise _is_held(path, file)
            if held is None or (held and _is_still(lock, file)):
                return file, bool(held)
        except BaseException:
            file.close()
            raise
        file.close()
        if held is False and waiting is not None:
            waiting()
            waiting = lambda: None  # noqa: E731
            time.sleep(_POLL)


def is_lock_held(lock: Path) -> bool:
    """True if a process holds this lock file."""
    if sys.platform == "win32" or not lock.exists():
        return False
    import fcntl

    try:
        with lock.open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_held(path: Path, file: TextIO) -> InputError:
    file.seek(0)
    pid = file.read().strip() or "unknown"
    return InputError(
        f"{shown_path(path)} is being written by another layercut process (pid {pid}). "
        "Wait for it, end it, or use another `out`."
    )


def _sign(file: TextIO) -> None:
    file.seek(0)
    file.truncate()
    file.write(f"{os.getpid()}\n")
    file.flush()


def _is_still(lock: Path, file: TextIO) -> bool:
    """True if the locked file still has its name; its last holder may have removed it."""
    try:
        return os.path.samestat(lock.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _try_lock(file: TextIO) -> bool | None:
    """True if the lock was free and is held now; None on systems without locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    for wait in (0.05, 0.05, 0.1, 0.1, None):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if wait is not None:  # is_locked of a `layercut ls` holds the lock for a moment
                time.sleep(wait)
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                return None
            raise
    return False


_PART = re.compile(r"\.(?P<name>.+)\.layercut-[a-z0-9_]{8}")
_LOCK = re.compile(rf"\.(?P<name>.+)\.{NAME_LOCK}")
_FILE_AGE = 600.0  # Seconds. Files have no lock, and writing one takes far less.


class Leftover(NamedTuple):
    """A hidden folder or file whose writer is gone."""

    path: Path
    num_bytes: int


def part_prefix(path: Path) -> str:
    """The beginning of the temporary name of a folder or file."""
    return f".{path.name}.layercut-"


def unfinished_parts_of(path: Path) -> list[Path]:
    """Unfinished folders of the final name ``path``."""
    parts = (part for part in path.parent.iterdir() if part.name.startswith(part_prefix(path)))
    return sorted(part for part in parts if _PART.fullmatch(part.name) and part.is_dir() and not part.is_symlink())


def find_leftovers(root: Path) -> list[Leftover]:
    """Unfinished files and folders of killed processes below a folder, by path; hidden folders are not searched."""
    leftovers = []
    for folder, subfolders, files in os.walk(root):
        for name in (*subfolders, *files):
            match = _PART.fullmatch(name) or _LOCK.fullmatch(name)
            if match and (left := _if_gone(Path(folder, name), Path(folder, f".{match['name']}.{NAME_LOCK}"))):
                leftovers.append(left)
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
    return sorted(leftovers)


def _if_gone(path: Path, lock: Path) -> Leftover | None:
    """The leftover; None where its writer may be running."""
    try:
        if path.is_symlink() or is_lock_held(lock):
            return None
        if not path.is_dir():
            stat = path.stat()
            is_old = path == lock or time.time() - stat.st_mtime > _FILE_AGE
            return Leftover(path, stat.st_size) if is_old else None
        return Leftover(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    except FileNotFoundError:  # it was finished or removed meanwhile
        return None
