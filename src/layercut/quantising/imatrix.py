"""Importance matrices of llama.cpp: the mean square of what each column of a matrix is multiplied by.

Written as ``imatrix.gguf``, and read in that form and in the older ``.dat``, which ik_llama.cpp takes. Two tables in
each file: sums of squares, and tokens that were counted.
"""

# Shapes: I columns of a matrix, M matrices of one tensor, such as experts.

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from layercut.errors import InputError
from layercut.models.gguf_file import MAGIC
from layercut.runs.atomic import write_new_file

_SUMS, _COUNTS = ".in_sum2", ".counts"
_CHUNK = 512  # tokens of a chunk, by llama.cpp's default; only its counts of chunks depend on it


class ImportanceMatrix(NamedTuple):
    """An importance matrix."""

    columns: dict[str, np.ndarray]  # by tensor, mean squares, (M * I,) float32
    tokens: int  # that were read
    datasets: tuple[str, ...] = ()  # what was read, in words


def write_imatrix(file: Path, matrix: ImportanceMatrix) -> None:
    """Write ``imatrix.gguf``, or the older form where the name ends in ``.dat``."""
    with write_new_file(file) as part:
        (_write_dat if file.suffix == ".dat" else _write_gguf)(part, matrix)


def read_imatrix(file: Path) -> ImportanceMatrix:
    """Read either form. Raises InputError: neither, or numbers that are none."""
    try:
        with file.open("rb") as opened:
            is_gguf = opened.read(4) == MAGIC
        matrix = (_read_gguf if is_gguf else _read_dat)(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, KeyError, IndexError, struct.error) as error:
        raise InputError(f"{file} is no importance matrix: neither imatrix.gguf nor the older .dat.") from error
    if wrong := [name for name, values in matrix.columns.items() if not np.isfinite(values).all() or values.min() < 0]:
        raise InputError(f"{file} holds numbers below zero, or none, for {wrong[0]}; make it again.")
    return matrix


def check_imatrix(file: Path, matrix: ImportanceMatrix, widths: Mapping[str, int]) -> None:
    """Refuse the importance matrix of another model: ``widths`` are the columns of its tensors. Raises InputError."""
    known = [name for name in widths if name in matrix.columns]
    if not known:
        raise InputError(f"{file} names none of the model's tensors, such as {next(iter(widths))}.")
    for name in known:
        if len(matrix.columns[name]) != widths[name]:
            raise InputError(
                f"{file} has {len(matrix.columns[name]):,} columns for {name}, and the model has {widths[name]:,}: it "
                "belongs to another model."
            )


def _write_gguf(file: Path, matrix: ImportanceMatrix) -> None:
    import gguf

    class Writer(gguf.GGUFWriter):
        def add_architecture(self) -> None:
            """An importance matrix has none."""

    writer = Writer(file, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [*matrix.datasets] or ["unknown"])
    writer.add_uint32("imatrix.chunk_count", _chunks(matrix))
    writer.add_uint32("imatrix.chunk_size", _CHUNK)
    for name in sorted(matrix.columns):
        sums = (matrix.columns[name] * matrix.tokens).astype(np.float32)
        writer.add_tensor(f"{name}{_COUNTS}", np.array([[matrix.tokens]], np.float32))
        writer.add_tensor(f"{name}{_SUMS}", sums.reshape(1, -1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(file: Path) -> ImportanceMatrix:
    import gguf

    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    columns, most = {}, 0.0
    for name in (name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)):
        counts = np.array(tensors[f"{name}{_COUNTS}"], np.float64).reshape(-1, 1)
        sums = np.array(tensors[f"{name}{_SUMS}"], np.float64).reshape(len(counts), -1)
        columns[name] = (sums / np.maximum(counts, 1)).astype(np.float32).reshape(-1)
        most = max(most, float(counts.max()))
    if not columns:
        raise ValueError(file)
    return ImportanceMatrix(columns, int(most))


def _write_dat(file: Path, matrix: ImportanceMatrix) -> None:
    with file.open("wb") as opened:
        opened.write(struct.pack("<i", len(matrix.columns)))
        for name in sorted(matrix.columns):
            values = (matrix.columns[name] * _chunks(matrix)).astype("<f4")
            opened.write(_text(name) + struct.pack("<ii", _chunks(matrix), len(values)) + values.tobytes())
        opened.write(struct.pack("<i", _chunks(matrix)) + _text(", ".join(matrix.datasets)))


def _read_dat(file: Path) -> ImportanceMatrix:
    data, place = file.read_bytes(), 0

    def number() -> int:
        nonlocal place
        place += 4
        return int(struct.unpack_from("<i", data, place - 4)[0])

    def take(count: int) -> bytes:
        nonlocal place
        if count < 0 or place + count > len(data):
            raise ValueError(file)
        place += count
        return data[place - count : place]

    columns, chunks = {}, 0
    for _ in range(number()):
        name = take(number()).decode()
        calls, size = number(), number()
        columns[name] = np.frombuffer(take(4 * size), "<f4").astype(np.float32) / max(1, calls)
        chunks = max(chunks, calls)
    if not columns:
        raise ValueError(file)
    return ImportanceMatrix(columns, chunks * _CHUNK)


def _chunks(matrix: ImportanceMatrix) -> int:
    return max(1, -(-matrix.tokens // _CHUNK))


def _text(text: str) -> bytes:
    return struct.pack("<i", len(text.encode())) + text.encode()


def type_lines(types: Mapping[str, str]) -> list[str]:
    """Lines for llama-quantize's ``--tensor-type-file``: an anchored pattern and the type of each tensor."""
    return [f"^{name.replace('.', '[.]')}$={kind.lower()}" for name, kind in sorted(types.items())]


def read_types(lines: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """The types that such lines give to tensors; a later line wins, as in llama.cpp. Raises InputError: other lines."""
    import gguf

    types: dict[str, str] = {}
    for line in filter(None, (line.strip() for line in lines)):
        pattern, equals, kind = line.rpartition("=")
        if not equals or kind.upper() not in gguf.GGMLQuantizationType.__members__:
            raise InputError(f"{line!r:.60} is no line of a file of types; write blk.0.ffn_down.weight=q4_k.")
        try:
            types |= {name: kind.upper() for name in names if re.search(pattern, name)}
        except re.error as error:
            raise InputError(f"{pattern!r:.60} is no regular expression ({error}).") from error
    return types
