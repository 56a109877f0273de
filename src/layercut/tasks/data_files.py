"""Rows of data sets: from local files (JSON lines, a JSON list, CSV, all also gzipped, or Parquet), or from the hub.

Files are read as a stream and unpacked no further than the limits below, so that no file can fill the memory. A damaged
row stops the reading, with its line: a benchmark with silently missing rows is another benchmark. Data sets of the
Hugging Face hub come as a whole, or streamed as ``hub:NAME``, ``hub:NAME:config:split``.
"""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from layercut.errors import InputError, MissingExtra, first_line
from layercut.runs.json_text import parse_json

LONGEST_LINE = 2**26  # bytes of a line of JSON lines or CSV: 64 MiB
LARGEST_WHOLE = 2**29  # bytes of a file that is read as a whole, a JSON list or running text, after unpacking: 512 MiB
LARGEST_LINES = 2**33  # bytes of a file that is read line by line, and of a Parquet file, after unpacking: 8 GiB
_LONGEST_CELL = 2**31 - 1
_KINDS = (".jsonl", ".jsonl.gz", ".json", ".csv", ".parquet")
_FINE = f"Give a {', '.join(_KINDS[:-1])} or {_KINDS[-1]} file, or a folder with train, validation and test files."
_SPLIT_FILE = re.compile(r"(train|validation|valid|val|dev|test)(?:-\d+-of-\d+)?(\.jsonl|\.jsonl\.gz|\.json|\.parquet)")
_SPLIT = {"valid": "validation", "val": "validation"}


class DataRow(NamedTuple):
    """One row and where it stands, for error messages."""

    where: str
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class DataSet:
    """Rows by split: ``train``, ``validation``, ``test``; a single file is one split named ``all``.

    A ``dev`` file is the validation split, unless there is a validation file too.
    """

    splits: Mapping[str, Sequence[DataRow]]

    @cached_property
    def sha256(self) -> str:
        """Hash of all rows, in their order: the same for a gzipped, a plain and a downloaded copy, wherever it lies."""
        digest = hashlib.sha256()
        for split in sorted(self.splits):
            digest.update(f"{split}\n".encode())
            for row in self.splits[split]:
                digest.update(json.dumps(row.fields, sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()


def read_local_data(path: str, published_as: str | None = None) -> DataSet:
    """Read a file, or the train, validation and test files of a folder. Raises InputError.

    ``published_as`` is the name, without its ending, of the one file that is read from a folder without split files.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        files = _split_files(place, published_as)
    elif place.is_file():
        files = {"all": [place]}
    else:
        raise InputError(f"{path}: no such file or folder. {_FINE}")
    splits = {split: [row for part in parts for row in read_rows_of_file(part)] for split, parts in files.items()}
    for split, rows in splits.items():
        if not rows:
            raise InputError(f"{files[split][0]}: no rows in here. {_FINE}")
    return DataSet(splits)


def read_rows_of_file(path: Path) -> Iterator[DataRow]:
    """Rows of one file, whatever its kind. Raises InputError: another kind, nothing there, or a damaged row."""
    readers = {".jsonl": _json_lines, ".json": _json_list, ".csv": _table}
    read = _parquet if path.suffix == ".parquet" else readers.get(Path(path.name.removesuffix(".gz")).suffix)
    if read is None:
        raise InputError(f"{path}: this file type is not supported. {_FINE}")
    return read(path)


def read_text(path: Path, kind: str, fine: str = "") -> str:
    """All of a text file in UTF-8, unpacked if it is gzipped; ``kind`` and ``fine``, other sources, are for messages.

    Raises InputError: it cannot be read, is damaged or larger than 512 MiB, or is not UTF-8.
    """
    with _opened(path, kind, fine) as file:
        data = file.read(LARGEST_WHOLE + 1)
    if len(data) > LARGEST_WHOLE:
        raise InputError(f"{path}: larger than {LARGEST_WHOLE >> 20} MiB, unpacked. Give rows as .jsonl.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: damaged, or not UTF-8 text ({error}). Get the file again.") from error


def text_field(row: DataRow, name: str) -> str:
    """A field that must hold text. Raises InputError: it is missing, empty or something else."""
    value = row.fields.get(name)
    if isinstance(value, str) and value.strip():
        return value
    held = f"no field {name!r}, only {', '.join(map(str, row.fields))}"
    if name in row.fields:
        held = f"the field {name!r} holds {value!r}, but text is needed"
    raise InputError(f"{row.where}: {held}. Mend or remove the row.")


def _split_files(folder: Path, published_as: str | None) -> dict[str, list[Path]]:
    files: dict[str, list[Path]] = {}
    for part in sorted(folder.iterdir()):
        match = _SPLIT_FILE.fullmatch(part.name)
        if match and part.is_file():
            files.setdefault(_SPLIT.get(match[1], match[1]), []).append(part)
    if "dev" in files and "validation" not in files:  # MMLU has both: its dev rows are the worked examples
        files["validation"] = files.pop("dev")
    if not files:
        published = [file for kind in _KINDS if (file := folder / f"{published_as}{kind}").is_file()]
        if published:
            return {"all": published[:1]}
        own = "" if published_as is None else f" and no {published_as}.jsonl"
        raise InputError(f"{folder}: no train, validation or test file{own} in this folder. {_FINE}")
    for split, parts in files.items():
        if len(parts) > 1 and any("-of-" not in part.name for part in parts):
            names = " and ".join(part.name for part in parts)
            raise InputError(f"{folder}: {names} both hold the split {split}. Keep one, or give the file itself.")
    return files


def _json_lines(path: Path) -> Iterator[DataRow]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            try:
                fields = parse_json(line)
            except ValueError as error:  # not JSON, or not UTF-8
                raise InputError(f"{where}: not a JSON object ({error}). Mend or remove the line.") from error
            yield _row(where, fields)


def _json_list(path: Path) -> Iterator[DataRow]:
    text = read_text(path, "rows", _FINE)
    try:
        rows = parse_json(text)
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}). {_FINE}") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: a list of rows was expected, but this is one {type(rows).__name__}. {_FINE}")
    return (_row(f"{path}, row {number}", fields) for number, fields in enumerate(rows, start=1))


def _table(path: Path) -> Iterator[DataRow]:
    """Rows of CSV. Cells are text, and may hold line breaks; one that a row lacks at its end is left out of it."""
    csv.field_size_limit(_LONGEST_CELL)
    text = (line.decode("utf-8-sig" if number == 0 else "utf-8") for number, line in enumerate(_lines(path)))
    rows = csv.DictReader(text, strict=True)
    try:
        for fields in rows:
            where = f"{path}, line {rows.line_num}"
            if None in fields:
                raise InputError(f"{where}: more cells than columns. Put cells that hold commas in quotes.")
            yield DataRow(where, {name: cell for name, cell in fields.items() if cell is not None})
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}, line {rows.line_num + 1}: not CSV in UTF-8 ({error}). Mend the line.") from error


def _parquet(path: Path) -> Iterator[DataRow]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingExtra("reading a Parquet file", "lm-eval") from error
    try:
        with _opened(path, "rows", _FINE) as opened, ParquetFile(opened) as file:
            about = file.metadata
            size = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
            if size > LARGEST_LINES:
                raise InputError(f"{path}: larger than {LARGEST_LINES >> 30} GiB after unpacking. Give a part of it.")
            rows = file.read().to_pylist()
    except ArrowException as error:
        raise InputError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]}). {_FINE}") from error
    return (_row(f"{path}, row {number}", fields) for number, fields in enumerate(rows, start=1))


def _row(where: str, fields: object) -> DataRow:
    if not isinstance(fields, dict):
        raise InputError(f"{where}: a JSON object was expected, but this is {fields!r:.40}. Mend or remove the row.")
    return DataRow(where, fields)


def _lines(path: Path) -> Iterator[bytes]:
    number = size = 0
    with _opened(path, "rows", _FINE) as file:
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            size += len(line)
            if len(line) > LONGEST_LINE or size > LARGEST_LINES:
                raise InputError(
                    f"{path}, line {number}: longer than {LONGEST_LINE >> 20} MiB, or than {LARGEST_LINES >> 30} GiB "
                    "with the lines before, unpacked. Write one row a line, or give a part of the file."
                )
            yield line


@contextmanager
def _opened(path: Path, kind: str, fine: str) -> Iterator[BinaryIO]:
    """The file, unpacked; what fails inside the block is said in one line."""
    try:
        if path.exists() and not path.is_file():  # opening a pipe that nobody writes to never ends
            raise OSError(errno.EINVAL, "it is a folder, pipe or device")
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield cast("BinaryIO", file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the gzip data is damaged ({error}). Get the file again.") from error
    except OSError as error:
        raise InputError(f"{path}: no {kind} can be read here ({error.strerror or error}). {fine}".rstrip()) from error


HUB = "hub:"  # prefix of the name of a data set
TIMEOUT = 8.0  # seconds until the hub counts as out of reach


def read_hub_data(task: str, dataset: str, config: str | None = None, splits: Sequence[str] = ()) -> DataSet:
    """Rows of a data set on the hub: of these splits, or of all. Raises InputError: it cannot be loaded."""
    load = _load_dataset(f"fetching {dataset}", "lm-eval")
    try:
        use_cache_without_hub()
        data = load(dataset, config)
    except Exception as error:  # what a failed download raises differs from version to version of three libraries
        raise InputError(
            f"{task}: the data set {dataset} cannot be loaded ({why_no_data(error)}). With no network give a local "
            f"copy: `data` {task}=PATH."
        ) from error
    return DataSet(
        {
            split: [DataRow(f"{dataset} {split} row {i}", row) for i, row in enumerate(data[split])]
            for split in splits or data
        }
    )


def stream_hub_rows(source: str, *, extra: str, buffer: int = 0, seed: int = 0) -> Iterator[DataRow]:
    """The rows as they come, so that only as much is fetched as is taken; of ``train`` where no split is named.

    Args:
        extra: the optional part that brings the library ``datasets``, for its absence.
        buffer: shuffle by ``seed`` through a buffer of this many rows (and in the order of shards); 0: in their order.
    """
    name, *rest = source.removeprefix(HUB).split(":")
    if not name or len(rest) > 2:
        raise InputError(f"{source!r} names no data set; write hub:NAME, hub:NAME:config or hub:NAME:config:split.")
    load = _load_dataset(f"reading {source}", extra)
    config, split = [*rest, "", ""][:2]

    def rows() -> Iterator[DataRow]:  # of its own, so that what is refused above is refused before the first row
        try:
            use_cache_without_hub()
            data = load(name, config or None, split=split if len(rest) == 2 else "train", streaming=True)
            if buffer:
                data = data.shuffle(seed=seed, buffer_size=buffer)
            for number, fields in enumerate(data, start=1):
                yield DataRow(f"{source}, row {number}", fields)
        except Exception as error:  # its own kinds, and those of the network libraries beneath
            raise InputError(f"{source}: no data set here ({why_no_data(error)}). Check name and split.") from error

    return rows()


def _load_dataset(doing: str, extra: str) -> Callable[..., Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise MissingExtra(doing, extra) from error
    return load_dataset  # type: ignore[no-any-return]


def why_no_data(error: Exception) -> str:
    """Why a data set could not be had, in a few words."""
    if "OfflineModeIsEnabled" in str(error):
        return "the Hugging Face hub is out of reach or switched off, and its cache holds no copy"
    return first_line(error)


def use_cache_without_hub() -> None:
    """Where the hub is out of reach, data sets come from its cache alone, in this process from now on.

    The libraries beneath ask an absent hub six times for every file and write a line for each.
    """
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE and not _is_reachable(constants.ENDPOINT):
        import datasets.config

        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True


@cache
def _is_reachable(endpoint: str) -> bool:
    from huggingface_hub import get_session

    with suppress(Exception):  # no route, refused, timed out: each HTTP library has its own classes for these
        get_session().head(endpoint, timeout=TIMEOUT)
        return True
    return False
