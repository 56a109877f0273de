"""Find unfinished files of killed processes: hidden folders and files beside their final names."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from layercut.runs.lock import NAME_LOCK, is_held

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


def parts_of(path: Path) -> list[Path]:
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
        if path.is_symlink() or is_held(lock):
            return None
        if not path.is_dir():
            stat = path.stat()
            is_old = path == lock or time.time() - stat.st_mtime > _FILE_AGE
            return Leftover(path, stat.st_size) if is_old else None
        return Leftover(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    except FileNotFoundError:  # it was finished or removed meanwhile
        return None
