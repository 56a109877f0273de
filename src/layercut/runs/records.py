"""JSON lines that survive kill -9: appended lines are kept, and a torn last line is removed.

Those of ``samples/`` are answers; ``notes.jsonl`` of a run folder says what was decided, finished or failed, and of a
name the last line holds. Both are all that a command needs to go on where it was stopped.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from layercut.errors import InputError
from layercut.runs.environment import shown_path
from layercut.runs.json_text import parse_json

if TYPE_CHECKING:
    from pandas import DataFrame


class MetricRow(TypedDict):
    """One line of a run's ``metrics.json``: one metric of one task under one readout."""

    task: str
    version: int
    readout: str
    metric: str
    value: float  # mean over the items. Higher is better, for every metric.
    low: float | None
    high: float | None
    n: int
    chance: float | None  # score of guessing; null where there is none
    method: str
    seed: int
    outcomes: dict[str, int]
    """Number of answers that were ``right``, ``wrong``, ``no_answer`` and ``cut`` (by the length limit)."""
    finish: dict[str, int] | None
    """Number of completions that ended by ``stop`` and by ``length``; null where nothing was generated."""
    limit: int | None
    split: NotRequired[str]
    """``full``: items of the whole test set; ``report``: of its rest, because the others chose layers or healed.
    Missing for tasks that make their items."""
    test_set: NotRequired[int]  # number of items of the whole test set


_TEXTS = ("id", "question", "gold", "answer", "outcome", "finish_reason", "completion")
LARGEST_SCORE = 1e100  # above any score; the perplexity of a broken model comes nearest
NO_SHARE = re.compile(r"perplexity|log_?(?:likelihood|prob)|(?:^|_)(?:ppl|nll|bits_per_byte)(?:$|_)")
"""In names of perplexities and log-likelihoods, which have no score of guessing and are never shown in percent."""


class Journal:
    """An append-only file of JSON objects, one a line.

    Opening makes the file and its folders, reads the records and cuts off a torn last line, which a killed process
    leaves. One writer at a time: a RunFolder holds the lock.
    """

    def __init__(self, path: Path) -> None:
        """Open for appending; InputError if a line in the middle of the file is no JSON object."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a buffer would write the rest of a failed write later.
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
        """All records in the order of writing. Not to be changed."""
        return self._records

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add records: on disk when this returns. One write for all, so a kill tears at most one line.

        Raises:
            ValueError: a record holds NaN or infinity; nothing was written.
            OSError: the disk is full or gone. The file is cut back to its complete lines, and ``append`` can be called
                again.
        """
        if not records:
            return
        lines = [_line(record) for record in records]
        data, size, count = b"".join(lines), self._size, len(self._records)
        rest = memoryview(data)
        try:
            self._file.truncate(size)  # after a write that Ctrl-C ended, or that could not be cut back
            while rest:  # a nearly full disk writes a part
                rest = rest[self._file.write(rest) :]
            self._size += len(data)  # from here on Ctrl-C keeps the lines
            self._records.extend(json.loads(line) for line in lines)
            os.fsync(self._file.fileno())
        except OSError as error:
            self._size = size
            del self._records[count:]
            with suppress(OSError):
                self._file.truncate(size)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a journal, without changing the file: it may be growing under another process.

    Raises InputError if the file cannot be read, or a line is no JSON object.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: no records can be read here ({error.strerror})") from error
    return _read(data, Path(path))[0]


def _read(data: bytes, path: Path) -> tuple[list[dict[str, Any]], int]:
    """Records of the complete lines, and the number of bytes of those lines."""
    size = data.rfind(b"\n") + 1
    records = []
    for number, line in enumerate(data[:size].split(b"\n")[:-1], start=1):
        try:
            record = parse_json(line, halves=True)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise InputError(
                f"{path}: line {number} is not a JSON object, so the file is damaged. "
                "Remove that one line, and the command that wrote the file makes it again."
            )
        records.append(record)
        if "metrics" not in record:
            continue
        if not are_numbers(record["metrics"]) or not all(isinstance(record.get(name, ""), str) for name in _TEXTS):
            raise InputError(
                f"{path}: line {number} holds a score that is no number, or no text where one belongs, so the file was "
                "changed. Remove that line, and the command that wrote the file makes it again."
            )
    return records, size


def are_numbers(scores: Any, *, may_lack: bool = False) -> bool:
    """True if these are scores by name, finite and small enough to be squared and added up."""
    return isinstance(scores, dict) and all(
        (value is None and may_lack) or (isinstance(value, int | float) and abs(value) < LARGEST_SCORE)
        for value in scores.values()
    )


def _line(record: Mapping[str, Any]) -> bytes:
    text = json.dumps(dict(record), ensure_ascii=False, allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair, from a data file, which is stored as an escape
        return json.dumps(dict(record), allow_nan=False).encode() + b"\n"


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


def data_frame(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """A data frame with a line for each row, a field within a field as ``kept.low``; InputError without pandas."""
    try:
        import pandas as pd
    except ImportError as error:
        raise InputError("a data frame needs pandas, which is not installed: pip install pandas.") from error
    return pd.json_normalize([dict(row) for row in rows])
