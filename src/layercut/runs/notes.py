"""notes.jsonl of a run folder: what was decided, finished or failed, a line each. Of a name, the last line holds.

With the answers in ``samples/``, it is all that a command needs to go on where it was stopped. A line is on disk when
``put`` returns; a line that a killed process left torn is removed by the next one.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from layercut.errors import InputError
from layercut.runs.environment import shown_path
from layercut.runs.records import Journal, read_records

NOTES = "notes.jsonl"


class Notes(Mapping[str, Any]):
    """The notes of one run folder by name, and the time that its stages took."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; the file is made by the first ``put``, for which a RunFolder should hold the lock.

        Raises:
            InputError: a line is damaged.
        """
        self._file = Path(folder) / NOTES
        self._journal: Journal | None = None
        self._stage, self._since = "", 0.0
        self._take(read_records(self._file) if self._file.is_file() else ())

    def _take(self, lines: Sequence[Mapping[str, Any]]) -> None:
        self._values: dict[str, Any] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        for number, line in enumerate(lines, start=1):
            took = line.get("seconds", 0.0)
            if not isinstance(line.get("name"), str) or "value" not in line or not isinstance(took, int | float):
                raise InputError(f"{shown_path(self._file)}: line {number} is no note of layercut; remove that line.")
            self._values[line["name"]] = line["value"]
            self._seconds[str(line.get("stage", ""))] += took

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def put(self, name: str, value: Any) -> None:
        """Note a value that JSON can hold, with the time of the present stage: on disk when this returns.

        Outside of a stage, a value that is noted already makes no line.
        """
        if self._journal is None:
            self._journal = Journal(self._file)
            self._take(self._journal.records)
        if not self._stage and name in self and self[name] == value:
            return
        line = {"name": name, "value": value}
        if self._stage:
            now = time.monotonic()
            line |= {"stage": self._stage, "seconds": round(now - self._since, 3)}
            self._since = now
        self._journal.append([line])
        self._values[name] = value
        self._seconds[self._stage] += line.get("seconds", 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time of the block under a stage, also where the block fails; a killed one counts up to its last
        note.
        """
        self._stage, self._since = name, time.monotonic()
        try:
            yield
        finally:
            self.put(f"stage {name}", "ended")
            self._stage = ""

    @property
    def seconds(self) -> dict[str, float]:
        """Time used so far, by stage."""
        running = {self._stage: time.monotonic() - self._since} if self._stage else {}
        used = {**self._seconds, **{name: self._seconds[name] + more for name, more in running.items()}}
        return {name: round(took, 1) for name, took in used.items() if name}

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None
