"""Write files and folders atomically: complete or absent, also after kill -9."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.runs.environment import shown_path
from layercut.runs.lock import part_prefix, sole_writer, unfinished_parts_of


def write_text(path: Path, text: str) -> None:
    """Write a file to a temporary name in the same folder, sync it to disk, and rename it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """``write_text`` for bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=part_prefix(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_output(path: Path, text: str, mark: str) -> None:
    """``write_text`` to a file that the caller named; what is there is replaced only if it begins with layercut's mark.

    Args:
        mark: stands among the first 4,096 bytes of ``text``, and of nothing that others write.

    Raises:
        InputError: a folder, a file that layercut did not write, or a place where no file can be.
    """
    try:
        if path.is_dir():
            raise InputError(f"{shown_path(path)} is a folder; name a file in it.")
        if path.exists():
            with path.open("rb") if path.is_file() else nullcontext() as file:
                start = file.read(4096) if file else b"no file"
            if start and mark.encode() not in start:
                raise InputError(f"{shown_path(path)} exists and was not written by layercut; name another file.")
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{shown_path(path)} cannot be written ({error.strerror}); name another file.") from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON, two-space indent, one trailing newline, NaN refused."""
    write_text(path, json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A folder to fill that takes its final name only when the block ends without an error; otherwise it is removed.

    One process at a time writes a folder of that name, and it removes what killed ones left. Missing parents are made,
    and removed again where the block fails. Raises InputError if ``path`` is not an empty folder, or another process
    writes it.
    """
    path = Path(path)
    refuse_used(path)
    with _parents_of(path), sole_writer(path) as is_sole, fill_directory(path, is_sole=is_sole) as folder:
        yield folder


@contextmanager
def fill_directory(path: Path, *, is_sole: bool) -> Iterator[Path]:
    """``new_directory`` inside ``sole_writer``, which gives ``is_sole``; InputError if ``path`` is no empty folder."""
    refuse_used(path)
    for left in (
        unfinished_parts_of(path) if is_sole else ()
    ):  # of killed processes, as running ones would hold the lock
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=part_prefix(path)))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        if path.is_dir():
            path.rmdir()
        temporary.replace(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def write_new_file(path: Path) -> Iterator[Path]:
    """The temporary name of a large file that takes its final name only when the block ends well.

    It has the same suffix, and the guarantees of ``new_directory``: one process writes a file of that name, and removes
    what killed ones left of theirs.

    Raises:
        InputError: ``path`` exists, or another process is writing it.
    """
    path = Path(path)
    refuse_existing(path)
    with _parents_of(path), sole_writer(path) as is_sole:
        for left in unfinished_parts_of(path) if is_sole else ():
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=part_prefix(path)))
        try:
            yield folder / path.name
            (folder / path.name).replace(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Make the missing parents, and remove them where the block fails."""
    new = [parent for parent in path.absolute().parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        with suppress(OSError):  # another process writes there by now
            for parent in new:
                parent.rmdir()
        raise


def nearest_existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    return next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())


def refuse_existing(path: Path) -> None:
    """Raise InputError if something has the name that a new file is to take."""
    refuse_dead_link(path)
    if path.exists():
        raise InputError(f"{shown_path(path)} exists already; choose another `out`.")


def refuse_used(path: Path) -> None:
    """Raise InputError if the path exists and is not an empty folder."""
    refuse_dead_link(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{shown_path(path)} exists already and is not an empty folder; choose another `out`.")


def refuse_dead_link(path: Path) -> None:
    """Raise InputError if the path is a link to nothing."""
    if path.is_symlink() and not path.exists():
        raise InputError(f"{shown_path(path)} is a link that leads nowhere. Remove it, or choose another `out`.")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
