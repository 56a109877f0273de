"""The bytes of each tensor of a GGUF file that stay, where MLP channels or tokens go, and the metadata that follow."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import CheckpointError, InputError, VerificationError
from layercut.models.gguf_file import EMBEDDINGS, HEAD, GgufHead, GgufTensor, block_sizes
from layercut.models.sources import ModelSource, describe_source
from layercut.models.weights import CHUNK, TensorSpan, entry_bytes, read_config, stored_tensors
from layercut.surgery.channels import Channels, Vocabulary
from layercut.surgery.checkpoint import pruned_model, recorded_plans_of
from layercut.surgery.gguf_metadata import block_tensor
from layercut.surgery.plan import CutPlan
from layercut.surgery.trimming import TokenTable, is_byte_token, merges_within, ranks_of_merges
from layercut.surgery.width import mlp_width_of

LAST = "ffn_down.weight"
FIRST = frozenset({"ffn_gate.weight", "ffn_gate.bias", "ffn_up.weight", "ffn_up.bias"})
_AGAIN = {**{kind: kind for kind in ("Q4_1", "Q5_0", "Q5_1", "Q8_0")}, "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""Type of a last matrix that is quantised again; Q4_0 for all others. The library gguf writes no K-quants; in their
place come the types that llama.cpp takes where a row is not made of whole blocks of 256, but Q4_0 for its IQ4_NL."""
_BLOCK = 32  # entries of a block of all these types; rows that are not made of whole blocks become F16
_PREFIX = "tokenizer.ggml."
_TOKENS, _MERGES = f"{_PREFIX}tokens", f"{_PREFIX}merges"
_KINDS = ("gpt2", "llama")  # byte-level merges by rank, and SentencePiece's by score
_NORMAL, _UNUSED = 1, 5  # types of tokens that may go; unknown, control, user-defined and byte tokens stay
_TABLES = frozenset({EMBEDDINGS, HEAD, "output.bias"})


class Taken(NamedTuple):
    """Some entries of each row, whose bytes are copied."""

    num_rows: int
    size: int  # entries of a row
    item_bytes: int
    entries: tuple[int, ...]

    def chunks(self, file: Path, offset: int) -> Iterator[bytes]:
        return entry_bytes(file, offset, self[:3], self.entries)


class Requantised(NamedTuple):
    """Some entries of each row, decoded and quantised again."""

    num_rows: int
    row_bytes: int
    entries: tuple[int, ...]
    before: int  # number of the ggml type of the rows
    after: int  # number of the type that is written

    def chunks(self, file: Path, offset: int) -> Iterator[bytes]:
        import gguf
        import numpy as np

        at_once, kind = max(1, CHUNK // self.row_bytes), gguf.GGMLQuantizationType(self.before)
        rows = np.memmap(file, np.uint8, "r", offset, (self.num_rows, self.row_bytes))
        for row in range(0, self.num_rows, at_once):
            values = gguf.quants.dequantize(np.array(rows[row : row + at_once]), kind)
            yield _quantised(values[:, list(self.entries)], self.after)


class FromCheckpoint(NamedTuple):
    """A matrix of a checkpoint in place of the original's, quantised."""

    file: Path  # safetensors
    name: str
    after: int  # number of the type that is written

    def chunks(self, file: Path, offset: int) -> Iterator[bytes]:
        from safetensors import safe_open

        with safe_open(self.file, framework="pt") as opened:  # type: ignore[no-untyped-call]
            matrix = opened.get_slice(self.name)
            num_rows, width = matrix.get_shape()
            at_once = max(1, CHUNK // (4 * width))
            for row in range(0, num_rows, at_once):
                yield _quantised(matrix[row : row + at_once].float().numpy(), self.after)


Part = Taken | Requantised | FromCheckpoint
"""What is written of a tensor: ``chunks`` gives its bytes, from the original file and the tensor's first byte there."""


def _quantised(values: Any, kind: int) -> bytes:
    import gguf
    import numpy as np

    written: Any = gguf.quants.quantize(np.ascontiguousarray(values), gguf.GGMLQuantizationType(kind))
    return bytes(written.tobytes())


def check_channels(head: GgufHead, channels: Channels) -> None:
    """Raise InputError where a file does not hold the channels of a plan, or holds them in a way that is not known."""
    if max(channels.mlps.values()) > 1:
        raise InputError("the plan thins experts, and layercut thins those of folders; cut the folder and convert it.")
    wanted = dict.fromkeys(channels.kept, channels.width)
    named = [(*(block_tensor(tensor.name) or (-1, "")), tensor.shape) for tensor in head.tensors]
    widths = {block: shape[0] for block, name, shape in named if name == LAST}
    if widths != wanted:
        raise InputError(
            f"the plan names MLP channels of {len(wanted)} layers with {channels.width} each, and this file has "
            f"{len(widths)} such MLPs, of {', '.join(map(str, sorted(set(widths.values())))) or 'no'} channels. Use a "
            "plan made for this very model."
        )
    for block, name, shape in named:
        has_channels = shape[-1] in (channels.width, 2 * channels.width)
        if block in wanted and name != LAST and name.startswith("ffn_") and has_channels != (name in FIRST):
            raise InputError(
                f"blk.{block}.{name} {list(shape)} holds MLP channels in an unknown way; cut the model's folder."
            )


def thin_tensor(tensor: GgufTensor, channels: Channels | None) -> tuple[GgufTensor, Part | None]:
    """A tensor without the channels that a plan removes, and where its bytes come from; None where all of it stays."""
    block, name = block_tensor(tensor.name) or (-1, "")
    kept = () if channels is None else channels.kept.get(block, ())
    if channels is None or not kept or name not in {LAST, *FIRST}:
        return tensor, None
    if name in FIRST:
        size = tensor.shape[-1]
        entries = tuple(half + channel for half in range(0, size, channels.width) for channel in kept)
        new = tensor._replace(shape=(*tensor.shape[:-1], len(entries)))
        return new, Taken(1, size, tensor.num_bytes // size, entries)
    width, num_rows = tensor.shape
    kind, (block_size, item_bytes) = _kind_again(tensor.kind, len(kept)), block_sizes(tensor.kind)
    part: Part = Requantised(num_rows, tensor.num_bytes // num_rows, kept, tensor.kind, kind)
    if block_size == 1:  # floats: nothing is rounded
        part = Taken(num_rows, width, item_bytes, kept)
    return tensor._replace(shape=(len(kept), num_rows), kind=kind), part


def trim_tensor(tensor: GgufTensor, vocabulary: Vocabulary | None) -> tuple[GgufTensor, Part | None]:
    """A table of tokens without the rows that go, and where its bytes come from; None where all of it stays."""
    if vocabulary is None or (tensor.name not in _TABLES and tensor.shape[-1] != vocabulary.size):
        return tensor, None
    if tensor.name not in _TABLES or tensor.shape[-1] != vocabulary.size:
        raise InputError(
            f"{tensor.name} has {tensor.shape[-1]:,} rows; the {vocabulary.size:,} tokens have rows in the embeddings "
            "and the output head alone, as far as layercut knows; leave vocab: out."
        )
    new = tensor._replace(shape=(*tensor.shape[:-1], len(vocabulary.kept)))
    return new, Taken(1, vocabulary.size, tensor.num_bytes // vocabulary.size, vocabulary.kept)


def replace_matrix(tensor: GgufTensor, new: TensorSpan) -> tuple[GgufTensor, Part]:
    """A last matrix with the numbers of a checkpoint, in 8 bits or more: solved ones bear rounding badly."""
    import gguf

    is_float, width = block_sizes(tensor.kind)[0] == 1, new.shape[1]
    kind = _kind_again(tensor.kind if is_float else int(gguf.GGMLQuantizationType.Q8_0), width)
    return tensor._replace(shape=(width, tensor.shape[1]), kind=kind), FromCheckpoint(new.file, new.name, kind)


def _kind_again(kind: int, width: int) -> int:
    """Type of a last matrix that is written again, with rows of this many numbers."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    if block_sizes(kind)[0] == 1:
        return kind
    return int(kinds[_AGAIN.get(kinds(kind).name, "Q4_0")] if width % _BLOCK == 0 else kinds.F16)


def describe_requantised(pairs: Iterable[tuple[int, int]]) -> str:
    """A line for people on last matrices by their ggml types before and after; empty where there are none."""
    import gguf

    names = [" to ".join(gguf.GGMLQuantizationType(kind).name for kind in pair) for pair in pairs]
    of_types = ", ".join(f"{count} from {types}" for types, count in sorted(Counter(names).items()))
    return of_types and f"the last matrices of {len(names)} MLPs are quantised again: {of_types}"


def trim_metadata(head: GgufHead, vocabulary: Vocabulary) -> dict[str, Any]:
    """Keys whose values change under a vocabulary, with the new values; tuples are arrays."""
    size, new = num_rows_of_gguf(head), vocabulary.new_ids
    if vocabulary.size != size:
        raise InputError(f"the plan is for a vocabulary of {vocabulary.size:,} rows, and this file has {size:,}.")
    changes: dict[str, Any] = {}
    for key in (_TOKENS, f"{_PREFIX}scores", f"{_PREFIX}token_type"):
        if values := head.arrays.get(key):
            changes[key] = tuple(values[old] for old in vocabulary.kept if old < len(values))
    if _MERGES in head.arrays:
        changes[_MERGES] = tuple(merges_within(head.arrays[_MERGES], set(changes[_TOKENS])))
    for key, value in head.metadata.items():
        if key.startswith(_PREFIX) and key.endswith("_token_id") and value < size:
            if value not in new:
                raise InputError(f"{key} is {value}, a token that the plan removes; make the plan again.")
            changes[key] = new[value]
        elif key == f"{head.architecture}.vocab_size":
            changes[key] = len(vocabulary.kept)
    return changes


def tokens_of_gguf(head: GgufHead) -> TokenTable:
    """The vocabulary of a GGUF file; kinds that cannot be trimmed are refused."""
    kind = head.metadata.get(f"{_PREFIX}model")
    if kind not in _KINDS or _TOKENS not in head.arrays:
        raise InputError(
            f"its vocabulary is {kind!r:.40}, and only byte pairs ({', '.join(_KINDS)}) are trimmed; leave vocab: out."
        )
    tokens, scores = head.arrays[_TOKENS], head.arrays.get(f"{_PREFIX}scores", ())
    types = head.arrays.get(f"{_PREFIX}token_type") or (_NORMAL,) * len(tokens)
    if len(types) != len(tokens):
        raise CheckpointError(f"the file has {len(tokens):,} tokens and {len(types):,} types of tokens.")
    is_byte_level = kind == "gpt2"
    texts = {token: text for token, text in enumerate(tokens) if types[token] == _NORMAL}
    always = {token for token, type_ in enumerate(types) if type_ not in (_NORMAL, _UNUSED)}
    always |= {token for token, text in texts.items() if is_byte_token(text, is_byte_level)}
    ranks = ranks_of_merges(head.arrays.get(_MERGES, ())) if is_byte_level else None
    ranked = None if is_byte_level else {text: scores[token] for token, text in texts.items()}
    return TokenTable(texts=texts, always=frozenset(always), ranks=ranks, scores=ranked, is_byte_level=is_byte_level)


def ids_of_gguf(head: GgufHead) -> set[int]:
    """Token ids that the metadata name, such as the end of a turn."""
    return {int(value) for key, value in head.metadata.items() if key.startswith(_PREFIX) and key.endswith("_token_id")}


def num_rows_of_gguf(head: GgufHead) -> int:
    """Rows of the embedding table. Raises CheckpointError: it has none."""
    for tensor in head.tensors:
        if tensor.name == EMBEDDINGS:
            return tensor.shape[1]
    raise CheckpointError(f"the file has no tensor {EMBEDDINGS}.")


class HealedCut(NamedTuple):
    """What a healed checkpoint adds to the plan that it was cut by."""

    healing: tuple[Mapping[str, Any], ...]  # entries of its plan.json
    matrices: Mapping[int, TensorSpan]  # last matrices that healing changed, by layer of the original model


def read_healed_cut(folder: Path, original: Path, plan: CutPlan) -> HealedCut:
    """Compare a healed checkpoint with the original's folder; one of another plan, or healed otherwise, is refused.

    An original that was cut before, such as one without tokens, has its earlier plans in both folders.
    """
    earlier, plans = recorded_plans_of(original), recorded_plans_of(folder)
    last = plans[-1] if plans else {}
    if plans != [*earlier, last] or CutPlan.from_dict(last).key != plan.key:
        raise InputError(f"{folder} was not cut by this plan in one step, so its matrices do not fit the file.")
    methods = {str(entry.get("method")) for entry in last.get("healing", ())}
    if methods != {"seam"}:
        raise InputError(
            f"{folder} was healed by {', '.join(sorted(methods)) or 'nothing'}, and `healed` takes what `heal` "
            "`method` seam solved for; convert the folder with llama.cpp's convert_hf_to_gguf.py."
        )

    before, after = _last_matrices(original), _last_matrices(folder)
    _, expected = pruned_model(original, plan)
    held = {span.name: span for span in stored_tensors(folder)}
    solved = {span.name for span in after.values()}
    for span in expected:
        if span.name not in held or (span.name not in solved and _digest(span) != _digest(held[span.name])):
            raise VerificationError(
                f"{folder} is not the model that was asked for: after its healing, {span.name} differs from that of "
                "the original model, and `method` seam changes the last matrices of MLPs alone."
            )
    changed = {
        old: after[new]
        for new, old in enumerate(plan.kept)
        if old in before and _digest(after[new]) != _digest(before[old])
    }
    return HealedCut(tuple(last["healing"]), changed)


def _digest(span: TensorSpan) -> bytes:
    digest = hashlib.sha256()
    for chunk in span.chunks():
        digest.update(chunk)
    return digest.digest()


def _last_matrices(folder: Path) -> dict[int, TensorSpan]:
    """The last matrix of the MLP of each layer in a folder."""
    tensors, name = {tensor.name: tensor for tensor in stored_tensors(folder)}, str(folder)
    layers = describe_source(ModelSource(name=name, path=folder)).structure.layers
    mlp = mlp_width_of(read_config(folder), name)
    readers = {layer: mlp.readers(layer) for layer in mlp.slots}
    if any(len(slots) != 1 or slots[0].dim != 1 or slots[0].is_stacked for slots in readers.values()):
        raise InputError(
            f"{folder} has experts, or keeps its matrices the other way round; convert it with llama.cpp's script."
        )
    return {layer: tensors[f"{layers}.{layer}.{slot.name}"] for layer, (slot,) in readers.items()}
