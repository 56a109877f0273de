"""The weight files of a pruned checkpoint: byte ranges of other safetensors files of any dtype, in constant memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from layercut.errors import CheckpointError, InputError, VerificationError
from layercut.models.structure import Structure, stored_names_of
from layercut.models.weights import DTYPE_BITS, INDEX_FILE, SINGLE_FILE, TensorSpan, read_object, stored_tensors
from layercut.surgery.channels import Channels, Vocabulary
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_of, stored_slots


def renamed_tensors(
    pieces: Iterable[TensorSpan], plan: CutPlan, structure: Structure, source: Path, *, has_extra: bool
) -> list[TensorSpan]:
    """The tensors that stay, renumbered; with ``has_extra`` other layers stored behind these move up."""
    new = {old: position for position, old in enumerate(plan.kept)}
    stay, seen = [], set()
    for piece in pieces:
        if (match := structure.tensor_pattern.match(piece.name)) is None:
            stay.append(piece)
            continue
        old = int(match[2])
        seen.add(old)
        if old >= plan.num_layers and not has_extra:
            raise CheckpointError(
                f"{source} holds {piece.name}, and config.json says {plan.num_layers} decoder layers."
            )
        if old in new or old >= plan.num_layers:
            position = new.get(old, old - len(plan.removed))
            stay.append(piece._replace(name=f"{match[1]}{position}{match[3]}"))
    if missing := set(range(plan.num_layers)) - seen:
        raise CheckpointError(
            f"{source} has no weights of layer {min(missing)}; its config.json says {plan.num_layers} decoder layers."
        )
    return stay


def thinned_tensors(
    pieces: list[TensorSpan], channels: Channels, structure: Structure, raw: Mapping[str, Any], source: Path
) -> list[TensorSpan]:
    """The tensors with the MLP channels that stay."""
    mlp = mlp_width_of(raw, str(source))
    mlp.check(channels)
    slots = stored_slots(pieces, mlp, structure, raw, str(source))
    known = {(layer, slot.name) for layer, slot in slots.values()}
    for layer, own in mlp.slots.items():
        for slot in own:
            if (layer, slot.name) not in known:
                raise InputError(f"{source} stores {slot.name} of layer {layer} in an unknown way; remove layers.")
    thin = {
        name: (slot.dim, slot.entries(channels.kept[layer], channels.width)) for name, (layer, slot) in slots.items()
    }
    return [piece.taking(*thin[piece.name]) if piece.name in thin else piece for piece in pieces]


def trimmed_tensors(
    pieces: list[TensorSpan], vocabulary: Vocabulary, structure: Structure, raw: Mapping[str, Any], source: Path
) -> list[TensorSpan]:
    """The tensors with the rows of the tokens that stay."""
    stored = stored_names_of(raw, str(source), [piece.name for piece in pieces])
    tables = {*structure.embeddings, *(f"{name.removesuffix('weight')}bias" for name in structure.embeddings)}
    trimmed = []
    for piece in pieces:
        is_table, rows = stored[piece.name][0] in tables, piece.shape[:1]
        if is_table != (rows == (vocabulary.size,)):
            raise InputError(
                f"{piece.name} of {source} has {rows[0] if rows else 0:,} rows; the {vocabulary.size:,} tokens have "
                "rows in the embeddings and the output head alone, as far as layercut knows; leave vocab: out."
            )
        trimmed.append(piece.taking(0, vocabulary.kept) if is_table else piece)
    return trimmed


def lay_out_shards(pieces: Iterable[TensorSpan], max_shard_bytes: int) -> dict[str, list[TensorSpan]]:
    """Distribute tensors over files of at most ``max_shard_bytes``, in their order; a larger tensor gets its own file,
    and where another source file begins, so does a new file, if the last one is a quarter full.

    Within a file wide dtypes come first, as the safetensors library has it: then every tensor lies at a multiple of its
    element size, which readers need to view the bytes as numbers.
    """
    groups: list[list[TensorSpan]] = [[]]
    size = 0
    for piece in pieces:
        is_next = bool(groups[-1]) and piece.file != groups[-1][-1].file and 4 * size >= max_shard_bytes
        if groups[-1] and (is_next or size + piece.num_bytes > max_shard_bytes):
            groups.append([])
            size = 0
        groups[-1].append(piece)
        size += piece.num_bytes
    names = [SINGLE_FILE]
    if len(groups) > 1:
        names = [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    by_width = [sorted(group, key=lambda piece: -DTYPE_BITS[piece.dtype]) for group in groups]
    return dict(zip(names, by_width, strict=True))


def write_shards(
    shards: Mapping[str, Sequence[TensorSpan]], folder: Path, metadata: Mapping[str, str], num_parameters: int
) -> None:
    """Write the files, and their index if there are several. Not synced one by one, which costs more than copying."""
    total = 0
    for shard, pieces in shards.items():
        content: dict[str, Any] = {"__metadata__": dict(metadata)}
        begin = 0
        for piece in pieces:
            end = begin + piece.num_bytes
            shape = list(piece.shape)
            content[piece.name] = {"dtype": piece.dtype, "shape": shape, "data_offsets": [begin, end]}
            begin = end
        raw = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode()
        raw += b" " * (-len(raw) % 8)  # so that the tensors begin at 8 bytes
        with (folder / shard).open("wb") as target:
            target.write(len(raw).to_bytes(8, "little") + raw)
            for piece in pieces:
                target.writelines(piece.chunks())
        total += begin
    if len(shards) > 1:
        index = {
            "metadata": {"total_parameters": num_parameters, "total_size": total},
            "weight_map": dict(sorted((piece.name, shard) for shard, pieces in shards.items() for piece in pieces)),
        }
        (folder / INDEX_FILE).write_text(json.dumps(index, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def check_written(folder: Path, shards: Mapping[str, Sequence[TensorSpan]]) -> str:
    """Compare the heads of the written files with what was to be written; gives that in words."""
    wanted = {piece.name: (shard, piece.dtype, piece.shape) for shard, pieces in shards.items() for piece in pieces}
    written = {piece.name: (piece.file.name, piece.dtype, piece.shape) for piece in stored_tensors(folder)}
    for name in wanted.keys() | written.keys():
        if wanted.get(name) != written.get(name):
            raise VerificationError(
                f"{folder} holds {name} as {written.get(name)}, and {wanted.get(name)} was to be written."
            )
    if (folder / INDEX_FILE).is_file():
        total = sum(piece.num_bytes for pieces in shards.values() for piece in pieces)
        if (size := read_object(folder / INDEX_FILE)["metadata"]["total_size"]) != total:
            raise VerificationError(f"{folder / INDEX_FILE} counts {size} bytes, not {total}.")
    return f"{len(wanted)} tensors have the names, shapes and dtypes that they should have"
