"""An output head that is a copy of the embeddings: the same bytes, or another quantisation of the same matrix.

The latter is measured: rounding to steps of size s moves a value by s / sqrt(12) in the root mean square; rows of one
matrix differ by no more than the steps of both types explain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.models.gguf_file import GgufTensor, read_gguf_head
from layercut.models.structure import Structure, stored_as
from layercut.models.weights import TensorSpan, samples_of

if TYPE_CHECKING:
    import numpy as np

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"  # their names in GGUF files
_STEPS: Mapping[str, tuple[int, int]] = {
    "Q4_0": (32, 16), "Q4_1": (32, 16), "Q5_0": (32, 32), "Q5_1": (32, 32), "Q8_0": (32, 255), "Q2_K": (16, 4),
    "Q3_K": (16, 8), "Q4_K": (32, 16), "Q5_K": (32, 32), "Q6_K": (16, 64),
}  # fmt: skip
"""Of ggml types: weights that share a scale, and the levels of that scale."""
_MANTISSA = {"F32": 23, "F16": 10, "BF16": 7}  # bits of the mantissa of float types
SLACK = 1.25
"""Distance of two rows, as a multiple of what rounding explains, up to which they count as one. Of the 151,936 rows of
Qwen2.5-Coder-1.5B-Instruct in Q4_K and Q6_K the largest is 0.96.
"""
MOST_OTHERS = 0.001  # share of the rows that may differ by more
_CHUNK = 4096


class Copy(NamedTuple):
    """A matrix of a GGUF file that is left out, because another one holds the same, as finely or more finely."""

    left_out: GgufTensor
    kept: GgufTensor

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``layercut_source.json``."""
        return {
            "left_out": f"{self.left_out.name} ({_kind(self.left_out)})",
            "kept": f"{self.kept.name} ({_kind(self.kept)})",
            "bytes": self.left_out.num_bytes,
            "parameters": self.left_out.shape[0] * self.left_out.shape[1],
        }


def find_copy(path: Path) -> Copy | None:
    """The coarser of a GGUF file's head and embeddings, where both are one matrix; None where they are not.

    Reads both matrices, once for each file: ten seconds for two of 233 million values.

    Raises CheckpointError: as ``read_gguf_head``.
    """
    return _find_copy(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=4)
def _find_copy(path: Path, changed: int, size: int) -> Copy | None:
    import numpy as np

    head = read_gguf_head(path)
    tensors = {tensor.name: tensor for tensor in head.tensors}
    embeddings, output = tensors.get(EMBEDDINGS), tensors.get(HEAD)
    if embeddings is None or output is None or embeddings.shape != output.shape:
        return None
    if not {_kind(embeddings), _kind(output)} <= {*_STEPS, *_MANTISSA}:
        return None
    num_rows, num_others, num_zero = embeddings.shape[1], 0, 0
    for begin in range(0, num_rows, _CHUNK):
        count = min(_CHUNK, num_rows - begin)
        (a_ND, a_N), (b_ND, b_N) = (_rows(path, tensor, begin, count) for tensor in (embeddings, output))
        # Rows that differ by more than rounding explains, and rows of zeros in both.
        is_other_N = np.linalg.norm(a_ND - b_ND, axis=1) > SLACK * np.sqrt(a_N + b_N)
        num_others += int(is_other_N.sum())
        num_zero += int((~a_ND.any(axis=1) & ~b_ND.any(axis=1)).sum())
        if num_others > MOST_OTHERS * num_rows:
            return None
    if num_zero == num_rows or num_others > MOST_OTHERS * (num_rows - num_zero):
        return None
    finer, coarser = (embeddings, output) if embeddings.num_bytes > output.num_bytes else (output, embeddings)
    return Copy(left_out=coarser, kept=finer)


def _rows(path: Path, tensor: GgufTensor, begin: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, D) in float32, and the sum over each of the expected squared error of rounding, (N,)."""
    import gguf
    import numpy as np

    size = tensor.num_bytes // tensor.shape[1]
    data = np.memmap(path, np.uint8, "r", tensor.offset + begin * size, (count, size))
    rows_ND = gguf.dequantize(np.array(data), gguf.GGMLQuantizationType(tensor.kind)).astype(np.float32)
    kind = _kind(tensor)
    if kind in _MANTISSA:
        return rows_ND, np.square(rows_ND).sum(axis=1) * 2.0 ** (-2 * _MANTISSA[kind]) / 12
    group, levels = _STEPS[kind]
    grouped = rows_ND.reshape(count, -1, group)
    # The larger of the range and twice the largest value over the levels: types with and without a minimum.
    step = np.maximum(grouped.max(-1) - grouped.min(-1), 2 * np.abs(grouped).max(-1)) / (levels - 1)
    return rows_ND, group * np.square(step).sum(axis=1) / 12


def _kind(tensor: GgufTensor) -> str:
    import gguf

    return gguf.GGMLQuantizationType(tensor.kind).name


def find_equal_head(
    tensors: Iterable[TensorSpan], structure: Structure, config: Mapping[str, Any], name: str
) -> TensorSpan | None:
    """The head of a checkpoint, where it is stored and equals the embeddings bit by bit; None otherwise."""
    by_name = {tensor.name: tensor for tensor in tensors}
    by_parameter = {
        parameter: by_name[stored] for stored, (parameter, _) in stored_as(config, name, [*by_name]).items()
    }
    embeddings, head = (by_parameter.get(parameter) for parameter in structure.embeddings or ("", ""))
    if embeddings is None or head is None:
        return None
    if [*samples_of(embeddings)][1:] != [*samples_of(head)][1:]:  # all but the name
        return None
    return head if _equal_bytes(embeddings, head, head.file.stat().st_mtime_ns) else None


@lru_cache(maxsize=4)
def _equal_bytes(left: TensorSpan, right: TensorSpan, changed: int) -> bool:
    return all(ours == theirs for ours, theirs in zip(left.chunks(), right.chunks(), strict=True))


def describe_copy(copy: Mapping[str, Any]) -> str:
    """The copy that the loading of a GGUF file leaves out, in words."""
    return (
        f"{copy['left_out']} and {copy['kept']} are one matrix: {copy['kept']} is used for both, and parameters and "
        f"bytes are counted without the copy of {copy['bytes'] / 1e6:.0f} MB (`tie=false` keeps two)."
    )
