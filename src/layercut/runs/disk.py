"""Disks that are full or cannot be written: messages of one line with the numbers."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from layercut.errors import InputError
from layercut.runs.atomic import nearest_existing
from layercut.runs.environment import shown_path

_FULL = {errno.ENOSPC, errno.EDQUOT}
BROKEN = {*_FULL, errno.EROFS, errno.EIO, errno.EFBIG}  # errors that stop a run, because its results cannot be written
_FORBIDDEN = {
    errno.EROFS, errno.EEXIST, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.EIO,
}  # fmt: skip


def size_text(num_bytes: int) -> str:
    """Bytes for people: ``1.23 GB``, ``45.6 MB``, ``789 kB`` (powers of ten), ``12 bytes``."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            value = num_bytes / unit
            return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {name}"
    return f"{num_bytes} bytes"


def size_change(before: int, after: int) -> str:
    """``538 MB to 401 MB (-25.5 %)``."""
    return f"{size_text(before)} to {size_text(after)} ({100 * (after / before - 1):+.1f} %)"


def check_free_space(path: Path, num_bytes: int, advice: str) -> None:
    """Raise InputError with the missing bytes, before the first is written, if ``path`` does not fit on its disk."""
    free = _free(path)
    if num_bytes > free:
        raise InputError(
            f"{shown_path(path)} needs {size_text(num_bytes)} and its disk has {size_text(free)} free, "
            f"{size_text(num_bytes - free)} too little. Free space and run the same command again, or {advice}."
        )


@contextmanager
def writing_to_disk(path: Path, advice: str) -> Iterator[None]:
    """Turn disk errors inside the block into an InputError of one line that names ``path`` and ends with ``advice``.

    ``advice``: another way for the user, such as ``use another --out``.
    """

    def refused(error: Exception, code: int) -> str:
        if code in _FULL:
            return (
                f"{_full(path, free='')}, and nothing of it was left there. Free space and run the same command again, "
                f"or {advice}."
            )
        at = getattr(error, "filename", None)
        where = f" at {shown_path(Path(str(at)))}" if at else ""
        return f"{shown_path(path)} cannot be written ({os.strerror(code)}{where}); {advice}."

    with _one_line(refused, path):
        yield


def disk_problem(error: OSError) -> str | None:
    """One line for a disk that is full, read-only or broken while results are written; None for any other error."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    if isinstance(error, PermissionError) and path is not None:
        return f"{shown_path(path)} cannot be read or written ({error.strerror}). Change that, or use another place."
    if error.errno not in BROKEN:
        return None
    kept = "What was finished before is kept; {way} and run the same command again to go on."
    if error.errno in _FULL:
        return f"{_full(path)}. {kept.format(way='free space')}"
    where = "a file" if path is None else shown_path(path)
    if error.errno == errno.EFBIG:
        return f"{where} may not grow further (ulimit -f). {kept.format(way='raise that limit')}"
    way = "mend that, or use another `out`,"
    return f"{_disk_of(path)} cannot be written ({error.strerror}). {kept.format(way=way)}"


@contextmanager
def resumable_writing(path: Path) -> Iterator[None]:
    """Turn disk errors inside the block into an InputError that says what a run folder holds, and how to continue."""

    def refused(error: Exception, code: int) -> str:
        from layercut.runs.directory import describe_saved

        what = _full(path) if code in _FULL else f"{shown_path(path)} cannot be written ({os.strerror(code)})"
        held = describe_saved(path) or "nothing is saved"
        do = "Free space" if code in _FULL else "Make it writable"
        return f"{what}; {held}. {do} and run the same command to continue, or use another `out`."

    with _one_line(refused, path):
        yield


@contextmanager
def _one_line(refused: Callable[[Exception, int], str], path: Path) -> Iterator[None]:
    """Raise disk errors inside the block as an InputError; ``refused`` gives its text.

    A file that is missing is one of them where it is that of ``path``, or one beside or above it.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        code = _errno_of(error)
        at = Path(str(getattr(error, "filename", None) or "/"))
        is_missing = code == errno.ENOENT and (at.parent == path.parent or path.is_relative_to(at))
        if code is None or not (is_missing or code in _FULL | _FORBIDDEN):
            raise
        raise InputError(refused(error, code)) from error


def _free(path: Path) -> int:
    """Free bytes on the disk of a file or folder that may not exist yet."""
    return shutil.disk_usage(nearest_existing(path)).free


def _disk_of(path: Path | None) -> str:
    return "the disk" if path is None else f"the disk of {shown_path(path)}"


def _full(path: Path | None, free: str = " ({} free)") -> str:
    """Name of the full part: the disk, or its table of files."""
    where = _disk_of(path)
    with suppress(OSError, StopIteration, AttributeError):  # no statvfs on Windows
        disk = os.statvfs(nearest_existing(path or Path()))
        if disk.f_files and not disk.f_favail:
            return f"{where} can hold no more files (its {disk.f_files:,} inodes are in use)"
        return f"{where} is full{free.format(size_text(_free(path or Path())))}"
    return f"{where} is full"


def _errno_of(error: Exception) -> int | None:
    """The system's error number. safetensors and tokenizers have it only in their text, torch does not have it."""
    if isinstance(error, OSError):
        return error.errno
    of_torch = r"PytorchStreamWriter|file write failed|iostream error|inline_container.*unexpected pos"
    if isinstance(error, RuntimeError) and re.search(of_torch, str(error)):
        return errno.ENOSPC
    match = re.search(r"\(os error (\d+)\)", str(error))
    return int(match[1]) if match else None
