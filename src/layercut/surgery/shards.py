"""Safetensors files written from byte ranges of other safetensors files, in constant memory.

No tensor is ever decoded: a new header is computed first, then the bytes are copied behind it, by the kernel where it
can. So every dtype works, fp8 and packed integers too, and a checkpoint far larger than the memory is written at about
the speed of a file copy. Bytes keep their place within a block of the disk as far as files and tensors allow: whole
pages are copied then, at half of the cost, and file systems with shared blocks (btrfs, xfs) may share them without a
copy.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import CheckpointError, VerificationError
from layercut.models.weights import DTYPE_BITS, INDEX_FILE, SINGLE_FILE, TensorSpan, read_header, safetensors_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

CHUNK = 16 * 2**20
"""Bytes copied at a time."""
BLOCK = 4096
"""Bytes of a page, and of a block of nearly every file system."""
_CANNOT = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
"""Errors of copy_file_range on file systems or kernels that cannot do it."""


@dataclass(frozen=True)
class Shard:
    """One safetensors file to be written."""

    name: str
    pieces: tuple[TensorSpan, ...]
    metadata: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        """Size of the tensors, without the header."""
        return sum(piece.entry.num_bytes for piece in self.pieces)

    def header(self) -> bytes:
        """Length and header as they stand at the start of the file, padded so that the tensors begin at 8 bytes.

        They begin where their first byte lies within a block now, if that is at 8 bytes too.
        """
        content: dict[str, Any] = {"__metadata__": dict(self.metadata)}
        begin = 0
        for piece in self.pieces:
            end = begin + piece.entry.num_bytes
            content[piece.name] = {
                "dtype": piece.entry.dtype,
                "shape": list(piece.entry.shape),
                "data_offsets": [begin, end],
            }
            begin = end
        raw = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        offset = self.pieces[0].offset if self.pieces else 0
        wanted, unit = (offset, BLOCK) if offset % 8 == 0 else (0, 8)
        raw += b" " * ((wanted - 8 - len(raw)) % unit)
        return len(raw).to_bytes(8, "little") + raw


def lay_out(pieces: Iterable[TensorSpan], max_shard_bytes: int, metadata: Mapping[str, str]) -> tuple[Shard, ...]:
    """Distribute tensors over files of at most ``max_shard_bytes``, in their order; a larger tensor gets its own file.

    Where the tensors of another source file begin, so does a new file, if the last one is a quarter full: tensors of
    two files hardly ever lie at the same place within a block.

    Within a file wide dtypes come first, as the safetensors library has it: then every tensor lies at a multiple of its
    element size, which readers need to view the bytes as numbers.
    """
    groups: list[list[TensorSpan]] = [[]]
    size = 0
    for piece in pieces:
        is_next = bool(groups[-1]) and piece.file != groups[-1][-1].file and 4 * size >= max_shard_bytes
        if groups[-1] and (is_next or size + piece.entry.num_bytes > max_shard_bytes):
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.entry.num_bytes
    names = [SINGLE_FILE]
    if len(groups) > 1:
        names = [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    return tuple(
        Shard(name, tuple(sorted(group, key=lambda piece: -DTYPE_BITS[piece.entry.dtype])), metadata)
        for name, group in zip(names, groups, strict=True)
    )


def write_shards(
    shards: Iterable[Shard], folder: Path, num_parameters: int, progress: Callable[[int], None] = lambda count: None
) -> None:
    """Write the files, and their index if there are several. ``progress`` gets the bytes of each copied chunk.

    The files are not synced to disk one by one: that would cost more than the copying.
    """
    shards = tuple(shards)
    for shard in shards:
        with (folder / shard.name).open("wb", buffering=0) as target:
            target.write(shard.header())
            for run in _ranges(shard.pieces):
                if isinstance(run, TensorSpan):
                    data = run.read()
                    target.write(data)
                    progress(len(data))
                    continue
                file, offset, count = run
                with file.open("rb", buffering=0) as source:
                    copy_range(source.fileno(), offset, count, target.fileno(), file, progress)
    if len(shards) > 1:
        index = {
            "metadata": {"total_parameters": num_parameters, "total_size": sum(shard.num_bytes for shard in shards)},
            "weight_map": dict(sorted((piece.name, shard.name) for shard in shards for piece in shard.pieces)),
        }
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _ranges(pieces: Iterable[TensorSpan]) -> Iterator[tuple[Path, int, int] | TensorSpan]:
    """Byte ranges to be copied one after the other; neighbours in the same file become one. Parts of tensors come as
    they are.
    """
    file, begin, end = None, 0, 0
    for piece in pieces:
        if piece.part is not None:
            if file is not None:
                yield file, begin, end - begin
            file = None
            yield piece
            continue
        if piece.file == file and piece.offset == end:
            end += piece.entry.num_bytes
            continue
        if file is not None:
            yield file, begin, end - begin
        file, begin, end = piece.file, piece.offset, piece.offset + piece.entry.num_bytes
    if file is not None:
        yield file, begin, end - begin


def copy_range(source: int, offset: int, count: int, target: int, file: Path, progress: Callable[[int], None]) -> None:
    """Append ``count`` bytes of ``source`` from ``offset`` to ``target``, both open files; ``file`` is for messages."""
    in_kernel = getattr(os, "copy_file_range", None)  # Linux
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(source, offset, count, os.POSIX_FADV_SEQUENTIAL)  # reads farther ahead, as cp does
    while count:
        wanted = min(count, CHUNK - offset % min(BLOCK, CHUNK))  # all but the first chunk begin with a block
        try:
            done = in_kernel(source, target, wanted, offset) if in_kernel else _by_hand(source, offset, wanted, target)
        except OSError as error:
            if in_kernel is None or error.errno not in _CANNOT:
                raise
            in_kernel = None
            continue
        if done == 0:
            raise CheckpointError(
                f"{file} became shorter while it was read; leave the model alone until the cut is done."
            )
        offset += done
        count -= done
        progress(done)


def _by_hand(source: int, offset: int, count: int, target: int) -> int:
    data = memoryview(os.pread(source, count, offset))
    done = 0
    while done < len(data):
        done += os.write(target, data[done:])
    return done


def check_written(folder: Path, shards: Iterable[Shard]) -> str:
    """Read the heads of the weight files again and compare them with what was to be written; gives that in words.

    Raises:
        VerificationError: a tensor is missing, of another shape or dtype, or not where the index says.
    """
    wanted = {piece.name: (shard.name, piece.entry) for shard in shards for piece in shard.pieces}
    for name, path in safetensors_files(folder).items():
        if name not in wanted or wanted[name][0] != path.name:
            raise VerificationError(f"{folder}: {path.name} is said to hold {name}, which was not to be written there.")
    num_tensors = 0
    for shard in {file for file, _ in wanted.values()}:
        for name, entry in read_header(folder / shard).tensors.items():
            file, planned = wanted.get(name, (None, None))
            if file != shard or planned is None or (entry.dtype, entry.shape) != (planned.dtype, planned.shape):
                raise VerificationError(
                    f"{folder}: {shard} holds {name} as {entry.dtype} {list(entry.shape)}, which was not to be written."
                )
            num_tensors += 1
    if num_tensors != len(wanted):
        raise VerificationError(f"{folder} holds {num_tensors} tensors, and {len(wanted)} were to be written.")
    if (folder / INDEX_FILE).is_file():
        index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        total = sum(entry.num_bytes for _, entry in wanted.values())
        if index["metadata"]["total_size"] != total:
            raise VerificationError(
                f"{folder / INDEX_FILE} counts {index['metadata']['total_size']} bytes, not {total}."
            )
    return f"{num_tensors} tensors have the names, shapes and dtypes that they should have"
