"""The damage that a type of weights does to a matrix: the divergence that its rounding adds, forecast in nats a token.

    damage = 1/2 sum over i, j of rows[i] columns[j] (W_q - W)[i, j]^2

The second-order term of the divergence, with the Fisher information of ``statistics``. Rounding is measured on some
rows, which llama.cpp quantises.
"""

# Shapes: O rows of a matrix, I columns, S rows that are measured.

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from layercut.engine.stopping import noise_key
from layercut.errors import InputError
from layercut.models.gguf_file import EMBEDDINGS, HEAD, GgufHead, GgufTensor, block_sizes
from layercut.models.make_gguf import GGML_TYPES, quantised_rows
from layercut.quantising.statistics import LOOKUP, Importance, weight_matrices

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TYPES = tuple(kind for kind in GGML_TYPES if not kind.startswith("IQ1"))
"""ggml types that a tensor may get, where they divide its rows; one bit is too few for rows to stand for others."""
ROWS, MOST_ROWS = 64, 1024  # rows that are measured of a matrix, and of one with a row for each token
_LARGE = 2**15  # rows of a matrix from which on more are measured
_LEAST = 1e-6  # of the mean square of all inputs; quantisers divide by weights


class Matrix(NamedTuple):
    """A weight matrix of a GGUF file with what weighs its errors."""

    tensor: GgufTensor
    importance: tuple[Importance, ...]  # of tied embeddings two: as the output head, and as a table
    weight: torch.Tensor  # the model's, (O, I)
    order: np.ndarray | None  # for each row of the tensor the row of the model's; None where they are the same

    @property
    def name(self) -> str:
        return self.tensor.name

    @property
    def kind(self) -> str:
        """Its ggml type in the file."""
        return type_name(self.tensor.kind)

    @property
    def columns(self) -> np.ndarray:
        """The importance matrix, as llama.cpp takes it: (I,) float32, above zero."""
        columns = self.importance[0].columns
        least = max(_LEAST * float(columns.mean()), float(np.finfo(np.float32).tiny))
        floored: np.ndarray = np.maximum(columns, least).astype(np.float32)
        return floored

    def put(self, values: np.ndarray) -> None:
        """Put other numbers, (O, I) in the order of the tensor, in place of the model's."""
        rows: Any = slice(None) if self.order is None else torch.from_numpy(self.order)
        self.weight[rows] = torch.from_numpy(values).to(self.weight)

    def num_bytes(self, kind: str) -> int:
        """Bytes in a type."""
        block, size = type_sizes(kind)
        return self.tensor.shape[0] * self.tensor.shape[1] // block * size

    def types(self, names: Sequence[str]) -> list[str]:
        """Those of the named types that divide its rows, and its own one, but 32 bits where another fits."""
        fitting = [name for name in names if self.tensor.shape[0] % type_sizes(name)[0] == 0]
        return fitting if self.kind in fitting or (self.kind == "F32" and fitting) else [*fitting, self.kind]


def type_name(number: int) -> str:
    """The name of a ggml type."""
    import gguf

    return gguf.GGMLQuantizationType(number).name


def type_sizes(kind: str) -> tuple[int, int]:
    """Numbers in a block of a ggml type, and its bytes."""
    import gguf

    return block_sizes(gguf.GGMLQuantizationType[kind])


def match_matrices(
    file: Path, head: GgufHead, model: PreTrainedModel, importance: Mapping[str, Importance]
) -> list[Matrix]:
    """The matrices of a GGUF file of a model that have statistics, in the file's order of rows.

    Raises:
        InputError: an architecture that is not known, or a file of another model.
    """
    import gguf

    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    if head.architecture not in known:
        raise InputError(f"the GGUF architecture {head.architecture} has no known names of tensors.")
    names = gguf.get_tensor_name_map(known[head.architecture], head.num_blocks or 0)
    tensors = {tensor.name: tensor for tensor in head.tensors}
    matrices: dict[str, Matrix] = {}
    head_module: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for module, linear in weight_matrices(model):
        name = f"{names.get_name(module)}.weight"
        if linear is head_module:
            name = HEAD if HEAD in tensors else EMBEDDINGS
        if name in tensors and module in importance:
            weight = linear.weight.detach()
            order = _row_order(file, tensors[name], weight)
            columns, rows = importance[module]
            own = Importance(columns, rows if order is None else rows[order])
            matrices[name] = Matrix(tensors[name], (own,), weight, order)
    if LOOKUP in importance and EMBEDDINGS in tensors:
        table: Any = model.get_input_embeddings()
        before = matrices[EMBEDDINGS].importance if EMBEDDINGS in matrices else ()
        matrices[EMBEDDINGS] = Matrix(tensors[EMBEDDINGS], (*before, importance[LOOKUP]), table.weight.detach(), None)
    return [matrices[name] for name in tensors if name in matrices]


def tensor_values(file: Path, tensor: GgufTensor, rows: Sequence[int] | None = None) -> np.ndarray:
    """Rows of a matrix of a GGUF file as numbers, (S, I) float32; all of them by default."""
    import gguf

    width, num_rows = tensor.shape
    stored = np.memmap(file, np.uint8, "r", tensor.offset, (num_rows, tensor.num_bytes // num_rows))
    taken = np.ascontiguousarray(stored if rows is None else stored[list(rows)])
    values = gguf.quants.dequantize(taken, gguf.GGMLQuantizationType(tensor.kind)).reshape(-1, width)
    return np.require(values, requirements="W")


def _row_order(file: Path, tensor: GgufTensor, weight_OI: torch.Tensor) -> np.ndarray | None:
    """For each row of a tensor the row of the model's matrix that it is; None where the order is the same.

    llama.cpp's converter reorders the rows of some matrices, such as queries and keys of Llama.
    """
    mismatch = InputError(f"{tensor.name} of {file.name} is not the matrix of the model that gave the statistics.")
    if tensor.shape != (weight_OI.shape[1], weight_OI.shape[0]):
        raise mismatch

    def keys(values: torch.Tensor) -> list[bytes]:
        return [row.tobytes() for row in values.bfloat16().view(torch.int16).cpu().numpy()]

    some = np.unique(np.linspace(0, len(weight_OI) - 1, ROWS).astype(int))
    if keys(torch.from_numpy(tensor_values(file, tensor, some.tolist()))) == keys(weight_OI[some]):
        return None
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(keys(weight_OI)):
        places.setdefault(key, []).append(place)
    order = []
    for key in keys(torch.from_numpy(tensor_values(file, tensor))):
        if not places.get(key):
            raise mismatch
        order.append(places[key].pop(0))
    return np.array(order)


def measure_damage(file: Path, matrix: Matrix, kinds: Sequence[str], seed: int) -> dict[str, float]:
    """The damage of each type, in nats a token. A type that the tensor has already does none.

    Rows are drawn half by what weighs their errors, half evenly; a ratio estimate stands for all.
    """
    sampled, share = _sample_rows(matrix, seed)
    values_SI = tensor_values(file, matrix.tensor, sampled.tolist())
    damage = {}
    for kind in kinds:
        squares_SI = np.zeros_like(values_SI)
        if kind != matrix.kind:
            squares_SI = np.square(quantised_rows(values_SI, kind, matrix.columns) - values_SI, dtype=np.float64)
        damage[kind] = float(sum(_estimates(matrix, sampled, share, squares_SI)))
    return damage


def _estimates(matrix: Matrix, sampled: np.ndarray, share: np.ndarray, squares_SI: np.ndarray) -> Iterator[float]:
    for columns, rows in matrix.importance:
        weight_S = rows[sampled] / share
        if (total := weight_S.sum()) > 0:
            yield 0.5 * rows.sum() * (weight_S @ (squares_SI @ columns)) / total


def _sample_rows(matrix: Matrix, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, drawn with repetition, and the probability of each."""
    num_rows = matrix.tensor.shape[1]
    weight = sum(rows * columns.mean() for columns, rows in matrix.importance) + np.zeros(num_rows)
    share = np.full(num_rows, 1 / num_rows)
    if weight.sum() > 0:
        share = (share + weight / weight.sum()) / 2
    noise = np.random.default_rng(noise_key(seed, matrix.tensor.name))
    sampled = np.sort(noise.choice(num_rows, MOST_ROWS if num_rows > _LARGE else ROWS, p=share))
    return sampled, share[sampled]
