"""Check a written checkpoint without loading it: what needs no arithmetic, and so runs for every format and size."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from layercut.errors import VerificationError
from layercut.models.weights import INDEX_FILE, read_header, safetensors_files

if TYPE_CHECKING:
    from layercut.surgery.shards import Shard


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
