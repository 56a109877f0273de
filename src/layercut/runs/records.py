"""JSON lines that survive kill -9: appended lines are kept, and a torn last line is removed.

The shape of the records of an evaluation is written down here as well, because tasks write them and reports read them.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from layercut.errors import InputError
from layercut.runs.json_text import parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType


class MetricRow(TypedDict):
    """One line of a run's ``metrics.json``: one metric of one task under one readout."""

    task: str
    version: int
    readout: str
    metric: str
    value: float
    """Mean over the items. Higher is better, for every metric."""
    low: float | None
    high: float | None
    n: int
    chance: float | None
    """Score of guessing; null where there is none."""
    method: str
    """How the interval was made."""
    seed: int
    outcomes: dict[str, int]
    """Number of answers that were ``right``, ``wrong``, ``no_answer`` and ``cut`` (by the length limit)."""
    finish: dict[str, int] | None
    """Number of completions that ended by ``stop`` and by ``length``; null where nothing was generated."""
    selection_items: NotRequired[int]
    """How many of the items the plan was selected on: more than 0 only where the user allowed it."""
    over_items: NotRequired[dict[str, float]]
    """Of a task of lm-eval, on its headline: lm-eval's own numbers that are no means over items, such as word
    perplexity, on lm-eval's scale."""
    limit: int | None
    """The --limit of the run, if there was one."""


class Journal:
    """An append-only file of JSON objects, one a line.

    Opening makes the file and its folders, reads what is there and cuts off a torn last line, which is what a killed
    process leaves behind. One writer at a time: a RunFolder holds the lock.
    """

    def __init__(self, path: Path) -> None:
        """Open for appending.

        Raises:
            InputError: a line in the middle of the file is not a JSON object.
        """
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Without a buffer: the rest of a write that failed would be kept in it, and land in the file later.
        self._file = self.path.open("a+b", buffering=0)
        try:
            self._file.seek(0)
            self._records, self._size = _read(self._file.readall(), self.path)
            self._file.truncate(self._size)
        except BaseException:
            self._file.close()
            raise

    @property
    def records(self) -> list[dict[str, Any]]:
        """All records in the order in which they were written. Not to be changed."""
        return self._records

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records: on disk when this returns. They are written at once, so that a kill tears at most one line.

        Raises:
            ValueError: a record holds NaN or infinity; nothing was written.
            OSError: the disk is full or gone. Whatever fails, the file is cut back to the whole lines that it held, and
                ``append`` can be called again.
        """
        if not records:
            return
        lines = [_line(record) for record in records]
        data = b"".join(lines)
        try:
            self._file.truncate(self._size)  # should cutting back have failed before
            rest = memoryview(data)
            while rest:  # a disk that is nearly full takes a part
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except BaseException as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, str(self.path)) from error
            raise
        self._size += len(data)
        self._records.extend(json.loads(line) for line in lines)

    def close(self) -> None:
        """Close the file; the records stay readable."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal, without touching the file: it may be growing under another process.

    Raises:
        InputError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no records can be read here ({error.strerror})") from error
    return _read(data, Path(path))[0]


def _read(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """Records of the whole lines, and how many bytes those lines have."""
    size = data.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(data[:size].split(b"\n")[:-1], start=1):
        try:
            record = parse(line, halves=True)
        except ValueError as error:
            raise _damaged(path, number) from error
        if not isinstance(record, dict):
            raise _damaged(path, number)
        records.append(record)
    return records, size


def _damaged(path: Path, number: int) -> InputError:
    return InputError(
        f"{path}: line {number} is not a JSON object, so the file is damaged. "
        "Remove that one line, and the command that wrote the file makes it again."
    )


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, from a data file: as an escape it can be stored
        return json.dumps(dict(record), allow_nan=False).encode() + b"\n"
