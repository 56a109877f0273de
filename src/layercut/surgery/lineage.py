"""Lineage: which decoder layers of a parent model another checkpoint still has, found by comparing weights.

    match_layers(Path("Llama-3.1-8B"), Path("Llama-3.1-Minitron-4B-Depth-Base")).layers

Legend: P layers of the parent, O layers of the other model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from layercut.errors import InputError
from layercut.models.sources import describe_source, is_hub_id, resolve
from layercut.models.structure import counted_layers, structure_of
from layercut.models.weights import TensorEntry, read_config, read_header, safetensors_files
from layercut.surgery.plan import parse_layers
from layercut.text.removal import format_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

FLOOR = 0.5
"""Cosine below which a layer counts as new. Layers of separately trained models have cosines near 0, and continued
training on 100B tokens leaves them far above."""
SAME = 0.999997
"""Cosine from which a layer counts as unchanged: rounding to bfloat16 leaves at least 1 - 2^-16 / 6."""
MERGED = 0.25
"""Cosine with a second layer of the parent from which a layer counts as merged: two layers of one model have cosines
near 0."""
_BLOCKS, _BLOCK = 64, 1024
"""A matrix is compared on this many evenly spaced blocks of this many neighbouring values, a small one whole."""
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}

Change = Literal["none", "retrained", "width", "merged", "repeated", "new"]
CHANGES: dict[Change, str] = {
    "none": "unchanged",
    "retrained": "retrained",
    "width": "another width",
    "merged": "merged from several layers",
    "repeated": "repeated or out of order",
    "new": "new",
}
_KEPT = ("none", "retrained", "width")


class LayerMatch(NamedTuple):
    """The origin of a layer of the other model."""

    layer: int
    """Of the other model."""
    parent: int | None
    """The layer of the parent; None for a new layer."""
    similarity: float
    """Cosine with that layer; of a new layer, the highest with any layer of the parent."""
    change: Change
    """``repeated``: the parent's layer is at another place of the other model already, or out of order. ``width``: some
    of its matrices have another shape, and the similarity is that of the others."""

    @property
    def label(self) -> str:
        """The layer's number in the parent, with what a reader must know of it: ``9``, ``9 merged`` or ``new``."""
        where = "" if self.parent is None else str(self.parent)
        return where if self.change in _KEPT else f"{where} {self.change}".lstrip()


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """Every layer of the other model, in order, and the parent's depth."""

    num_parent_layers: int
    matches: tuple[LayerMatch, ...]
    """Empty where the weights cannot be compared; ``why_not`` says why."""
    why_not: str = ""

    @property
    def layers(self) -> tuple[int, ...] | None:
        """The parent's layers that the other model has, ascending; None unless each of its layers is one of them."""
        kept = tuple(match.parent for match in self.matches if match.change in _KEPT and match.parent is not None)
        return kept if kept and len(kept) == len(self.matches) else None

    @property
    def removed(self) -> tuple[int, ...]:
        """The parent's layers of which nothing is left."""
        kept = {match.parent for match in self.matches}
        return tuple(i for i in range(self.num_parent_layers) if i not in kept)

    def describe(self) -> str:
        """One line, such as ``24 of the parent's 30 layers, without 21-26; weights unchanged``."""
        if self.why_not:
            return self.why_not
        kept = [match for match in self.matches if match.change in _KEPT]
        parts = [f"{len(kept)} of the parent's {self.num_parent_layers} layers"]
        if kept:
            parts[0] += f", without {format_layers(self.removed)}" if self.removed else ""
            changed = sum(match.similarity < SAME for match in kept)
            lowest = min(match.similarity for match in kept)
            parts.append(
                f"weights changed in {changed} of them (lowest cosine {lowest:.3f})" if changed else "weights unchanged"
            )
            if resized := sum(match.change == "width" for match in kept):
                parts[-1] += " where shapes agree"
                parts.append(f"another width in {resized} of them")
        for change in ("merged", "repeated", "new"):
            cosines = [match.similarity for match in self.matches if match.change == change]
            if cosines:
                parts.append(f"{len(cosines)} {CHANGES[change]} (highest cosine {max(cosines):.3f})")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "matches": [match._asdict() for match in self.matches]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lineage:
        """The inverse of ``to_dict``."""
        return cls(**{**data, "matches": tuple(LayerMatch(**match) for match in data["matches"])})


class Parent(NamedTuple):
    """The model that another one was made of."""

    model: str
    """As it was named."""
    lineage: Lineage

    def label(self, layer: int) -> str:
        """A layer of the other model with its number in the parent: ``7 (9)``; bare where they cannot be compared."""
        return f"{layer} ({self.lineage.matches[layer].label})" if self.lineage.matches else str(layer)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"model": self.model, "lineage": self.lineage.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any] | None) -> Parent | None:
        """The inverse of ``to_dict``; None where none was named."""
        return None if data is None else cls(data["model"], Lineage.from_dict(data["lineage"]))


def match_recorded(parent: Mapping[str, Any], other: Mapping[str, Any]) -> Lineage | None:
    """``match_layers`` of the models of two runs, by their settings; None where one is not on this disk, or changed."""
    try:
        return match_layers(*map(_folder_of, (parent, other)))
    except (InputError, OSError):
        return None


def _folder_of(settings: Mapping[str, Any]) -> Path:
    name = str(settings.get("model"))
    if is_hub_id(name):
        from huggingface_hub import try_to_load_from_cache

        name = str(Path(str(try_to_load_from_cache(name, "config.json", revision=settings.get("revision")))).parent)
    source = resolve(name, tie=settings.get("tie", True))
    if source.adapter or describe_source(source).model_hash != settings.get("model_hash"):
        raise InputError(f"{name} is not the model of that run.")
    return source.path


def match_layers(parent: Path, other: Path, *, floor: float = FLOOR) -> Lineage:
    """Find which of the parent's decoder layers another checkpoint still has, in the parent's order.

    The similarity of two layers is the cosine of all their matrices, laid end to end: on a fixed sample of values, at
    most 65,536 a matrix. An order-preserving match maximises the sum of (similarity - floor) by dynamic programming
    (Needleman and Wunsch, J. Mol. Biol. 48, 1970, with free gaps). Norms and biases take no part: they resemble each
    other in all models.

    Args:
        parent: folder of the original model.
        other: folder of the other model.
        floor: similarity below which a layer counts as new.

    Raises:
        InputError: a model whose decoder layers are not found.
        CheckpointError: damaged or missing files.
    """
    ours, theirs = _decoder_matrices(parent), _decoder_matrices(other)
    why_not = _why_not(ours, theirs)
    if why_not:
        return Lineage(num_parent_layers=len(ours), matches=(), why_not=why_not)
    similarity_PO = _similarities(ours, theirs)
    pairs = {layer: index for index, layer in best_match(similarity_PO, floor)}
    matches = [_match(layer, similarity_PO[:, layer], pairs.get(layer), floor) for layer in range(len(theirs))]
    return Lineage(num_parent_layers=len(ours), matches=tuple(_with_width(one, ours, theirs) for one in matches))


def _match(layer: int, cosines_P: NDArray[np.float64], parent: int | None, floor: float) -> LayerMatch:
    nearest = int(cosines_P.argmax()) if parent is None else parent
    cosine = float(cosines_P[nearest])
    others = np.delete(cosines_P, nearest)
    if cosine < floor:
        return LayerMatch(layer, None, cosine, "new")
    if others.size and float(np.abs(others).max()) >= MERGED:
        return LayerMatch(layer, nearest, cosine, "merged")
    if parent is None:
        return LayerMatch(layer, nearest, cosine, "repeated")
    return LayerMatch(layer, nearest, cosine, "none" if cosine >= SAME else "retrained")


def _with_width(match: LayerMatch, ours: _Layers, theirs: _Layers) -> LayerMatch:
    if match.parent is None or match.change not in _KEPT:
        return match
    own, other = ours[match.parent], theirs[match.layer]
    resized = any(own[name].entry.shape != other[name].entry.shape for name in own.keys() & other.keys())
    return match._replace(change="width") if resized else match


def given_layers(text: str, num_parent_layers: int, num_layers: int) -> tuple[int, ...]:
    """The parent's layers that the other model has, as the user states them: ``0-15``.

    Raises:
        InputError: no layer list, layers that the parent lacks, not in order, or another number than the model has.
    """
    layers = parse_layers(text)
    if list(layers) != sorted(set(layers)) or layers[-1] >= num_parent_layers:
        raise InputError(
            f"`layers` {text} must name layers of the original model (0-{num_parent_layers - 1}) once each, in order."
        )
    if len(layers) != num_layers:
        raise InputError(f"`layers` {text} names {len(layers)} layers, and the other model has {num_layers}.")
    return layers


def best_match(similarity_PO: NDArray[np.float64], floor: float) -> list[tuple[int, int]]:
    """Pairs (parent's layer, other's layer), both ascending, that maximise the sum of (similarity - floor).

    Args:
        similarity_PO: (P, O) similarities, any unit in which ``floor`` is given as well.
        floor: a pair at or below it is never made.
    """
    num_parent, num_other = similarity_PO.shape
    gain = similarity_PO - floor
    best = np.zeros((num_parent + 1, num_other + 1))
    for i in range(1, num_parent + 1):
        for j in range(1, num_other + 1):
            best[i, j] = max(best[i - 1, j], best[i, j - 1], best[i - 1, j - 1] + gain[i - 1, j - 1])
    pairs = []
    i, j = num_parent, num_other
    while i and j:
        # A pair that gains nothing is left out; of equal matches, the one with the lowest layers is taken.
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]


class _Matrix(NamedTuple):
    entry: TensorEntry
    file: Path
    offset: int
    """First byte, counted from the start of the file."""

    def sample(self) -> NDArray[np.float64]:
        """The values that are compared: the same places for matrices of the same shape, whatever their dtype."""
        count = self.entry.num_parameters
        width = self.entry.num_bytes // count
        starts = range(0, count, _BLOCK) if count <= _BLOCKS * _BLOCK else [
            (count - _BLOCK) * k // (_BLOCKS - 1) for k in range(_BLOCKS)
        ]  # fmt: skip
        pieces = []
        with self.file.open("rb", buffering=0) as file:
            for start in starts:
                file.seek(self.offset + start * width)
                pieces.append(file.read(min(_BLOCK, count - start) * width))
        values = np.frombuffer(b"".join(pieces), dtype=_NUMPY[self.entry.dtype])
        if self.entry.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float64)


_Layers = list[dict[str, _Matrix]]


def _decoder_matrices(folder: Path) -> _Layers:
    """The matrices of every decoder layer by their name within the layer."""
    files, config = safetensors_files(folder), read_config(folder)
    pattern = structure_of(config, str(folder), files).tensor_pattern
    found: dict[int, dict[str, _Matrix]] = {}
    headers = {file: read_header(file) for file in set(files.values())}
    for name, file in files.items():
        entry = headers[file].tensors[name]
        if (match := pattern.match(name)) and len(entry.shape) >= 2:
            matrix = _Matrix(entry, file, headers[file].data_offset + entry.begin)
            found.setdefault(int(match[2]), {})[match[3]] = matrix
    # Layers for multi-token prediction may be stored behind those that the config counts.
    return [found.get(index, {}) for index in range(counted_layers(config) or len(found))]


def _why_not(ours: _Layers, theirs: _Layers) -> str:
    """Reason why the weights of two models cannot be compared; empty where they can."""
    first, second = (_by_name(layers) for layers in (ours, theirs))
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return "another architecture: no matrix of a layer has a name that both models know"
    if not any({one.entry.shape for one in first[name]} & {one.entry.shape for one in second[name]} for name in shared):
        name = shared[0]
        return (
            f"another width: {name.lstrip('.')} is {_shape(first[name][0])} in the parent and "
            f"{_shape(second[name][0])} in the other model, so layers cannot be matched by their weights"
        )
    for found in (first, second):
        if odd := next((name for name in shared if found[name][0].entry.dtype not in _NUMPY), None):
            return (
                f"quantised weights ({odd.lstrip('.')} is {found[odd][0].entry.dtype}): layers cannot be matched by "
                "them"
            )
    return ""


def _by_name(layers: _Layers) -> dict[str, list[_Matrix]]:
    found: dict[str, list[_Matrix]] = {}
    for layer in layers:
        for name, matrix in layer.items():
            found.setdefault(name, []).append(matrix)
    return found


def _shape(matrix: _Matrix) -> str:
    return "x".join(map(str, matrix.entry.shape))


def _similarities(ours: _Layers, theirs: _Layers) -> NDArray[np.float64]:
    """(P, O) cosines over the matrices that two layers have in common by name and shape; 0 where they have none."""
    shape = (len(ours), len(theirs))
    dots, own, other = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for name in sorted({name for layer in ours for name in layer} & {name for layer in theirs for name in layer}):
        for group_P, group_O in _same_shape(_samples(ours, name), _samples(theirs, name)):
            rows, columns = np.ix_(list(group_P), list(group_O))
            left, right = np.stack(list(group_P.values())), np.stack(list(group_O.values()))
            dots[rows, columns] += left @ right.T
            own[rows, columns] += np.square(left).sum(1)[:, None]
            other[rows, columns] += np.square(right).sum(1)[None]
    scale = np.sqrt(own * other)
    return np.divide(dots, scale, out=np.zeros(shape), where=scale > 0)


_Samples = dict[tuple[int, ...], dict[int, "NDArray[np.float64]"]]


def _samples(layers: _Layers, name: str) -> _Samples:
    """By shape, then by layer."""
    found: _Samples = {}
    for index, layer in enumerate(layers):
        if (matrix := layer.get(name)) and matrix.entry.dtype in _NUMPY:
            found.setdefault(matrix.entry.shape, {})[index] = matrix.sample()
    return found


def _same_shape(
    ours: _Samples, theirs: _Samples
) -> list[tuple[Mapping[int, NDArray[np.float64]], Mapping[int, NDArray[np.float64]]]]:
    return [(ours[shape], theirs[shape]) for shape in ours if shape in theirs]


def similarity_rows(lineage: Lineage) -> list[tuple[str, str, str, str]]:
    """Rows for people: layer, the parent's layer, cosine, what happened to it."""
    return [
        (
            str(one.layer),
            "none" if one.parent is None else str(one.parent),
            f"{one.similarity:.4f}",
            CHANGES[one.change],
        )
        for one in lineage.matches
    ]
