"""prune.json: what a run of prune has decided so far and how long each stage took, so that it goes on after a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layercut.runs.atomic import write_json
from layercut.runs.settings import FORMAT_VERSION, read_format

STATE = "prune.json"


class PruneState:
    """The decisions of one run folder. What was decided is never decided again."""

    def __init__(self, folder: Path) -> None:
        """Read what is there. Raises InputError: the file is damaged, or of another format."""
        self._file = folder / STATE
        self._data: dict[str, Any] = {"format_version": FORMAT_VERSION, "seconds": {}}
        if self._file.is_file():
            self._data = read_format(self._file, "the state of layercut prune")
        self._stage, self._since = "", 0.0

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def __getitem__(self, name: str) -> Any:
        return self._data[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self._data.get(name, default)

    def put(self, name: str, value: Any) -> None:
        """Decide: on disk when this returns."""
        self._data[name] = value
        self.save()

    def save(self) -> None:
        """Write, with the time of the present stage."""
        self._count()
        write_json(self._file, self._data)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under a stage, also where the block ends early; a killed one counts up to its
        last decision."""
        self._stage, self._since = name, time.monotonic()
        try:
            yield
        finally:
            self.save()
            self._stage = ""

    @property
    def seconds(self) -> dict[str, float]:
        """Time used so far, by stage."""
        self._count()
        return {name: round(value, 1) for name, value in self._data["seconds"].items()}

    @property
    def used(self) -> float:
        """Time used so far in all."""
        return sum(self.seconds.values())

    def _count(self) -> None:
        if self._stage:
            now = time.monotonic()
            seconds = self._data["seconds"]
            seconds[self._stage] = seconds.get(self._stage, 0.0) + now - self._since
            self._since = now
