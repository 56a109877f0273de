"""Files of a model under types that were chosen: written by llama.cpp, checked, and measured on held-out answers."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from layercut.engine.handle import ModelHandle
from layercut.errors import InputError
from layercut.evidence.paired import ratio_of_sums
from layercut.models.gguf_file import GgufTensor, read_gguf_head
from layercut.models.make_gguf import GGUF_TYPES, WITH_MATRIX, quantise_gguf, types_of_plain_file
from layercut.progress.bars import RunProgress
from layercut.quantising import QuantiseSettings, size_in_bytes
from layercut.quantising.choose import choose_types
from layercut.quantising.damage import TYPES, Matrix, measure_damage, type_name, type_sizes
from layercut.quantising.imatrix import read_types, type_lines
from layercut.quantising.measure import keep_reference, measure_divergence, use_weights
from layercut.quantising.statistics import Text
from layercut.runs.atomic import write_text
from layercut.runs.directory import RunFolder
from layercut.runs.disk import check_free_space
from layercut.runs.prune import as_estimated
from layercut.runs.quantise import MeasuredFile
from layercut.runs.settings import settings_hash

_HEADER = 2**14  # bytes by which a file's metadata may grow
_NAMES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}  # of types of files, where tensors' have others
_FLOATS = ("F32", "F16", "BF16")
Damages = Mapping[str, Mapping[str, float]]
"""By tensor and type, in nats a token."""


class QuantiseRun(NamedTuple):
    """What was measured of a model, from which files are made."""

    run: RunFolder
    base: ModelHandle
    whole: Path  # the GGUF file of the model before it is quantised
    matrices: Sequence[Matrix]
    held_out: Sequence[Text]
    seed: int
    progress: RunProgress

    @property
    def importance(self) -> dict[str, np.ndarray]:
        """The importance matrix, as llama.cpp takes it."""
        return {own.name: own.columns for own in self.matrices}


class Layout:
    """Bytes of a file by the types of its tensors."""

    def __init__(self, whole: Path, matrices: Sequence[Matrix]) -> None:
        self._file_bytes, self._tensors = whole.stat().st_size, read_gguf_head(whole).tensors
        self.sizes = {own.name: {kind: own.num_bytes(kind) for kind in own.types(TYPES)} for own in matrices}
        self.finest = {name: max(sizes, key=lambda kind: sizes[kind]) for name, sizes in self.sizes.items()}
        self.num_weights = sum(math.prod(own.tensor.shape) for own in matrices)

    @cached_property
    def others(self) -> dict[str, str]:
        """Types of quantisable tensors without statistics: eight bits for floats, else their own."""
        return {
            tensor.name: _eight_bits(tensor)
            for tensor in self._tensors
            if tensor.name not in self.sizes and len(tensor.shape) > 1 and type_name(tensor.kind) != "F32"
        }

    @property
    def fixed(self) -> int:
        """Bytes of a file beside those of its matrices."""
        others = self.others
        total = self._file_bytes - sum(tensor.num_bytes for tensor in self._tensors) + _HEADER
        for tensor in self._tensors:
            if tensor.name not in self.sizes:
                block, size = type_sizes(others.get(tensor.name, type_name(tensor.kind)))
                total += math.prod(tensor.shape) // block * size
        return total

    def by_type(self, types: Mapping[str, str]) -> Counter[str]:
        """Bytes of the matrices in each type."""
        in_bytes: Counter[str] = Counter()
        for name, kind in types.items():
            in_bytes[kind] += self.sizes[name][kind]
        return in_bytes

    def budget(self, settings: QuantiseSettings) -> int:
        """Bytes that the settings leave for the matrices."""
        if settings.size is None:
            return int((settings.bits or 0) / 8 * self.num_weights)
        return size_in_bytes(settings.size, self._file_bytes) - self.fixed


def _eight_bits(tensor: GgufTensor) -> str:
    kind = type_name(tensor.kind)
    return "Q8_0" if kind in _FLOATS and tensor.shape[0] % 32 == 0 else kind


def measure_damages(run: QuantiseRun) -> dict[str, dict[str, float]]:
    """The damage of each type that fits, tensor by tensor; those that are noted are not measured again."""
    damages = {}
    for place, own in enumerate(run.matrices):
        run.progress("tensors", place, len(run.matrices))
        note = f"damage {own.name}"
        known = dict(run.run.notes.get(note, {}))
        if missing := [kind for kind in own.types(TYPES) if kind not in known]:
            known |= measure_damage(run.whole, own, missing, run.seed)
            run.run.notes.put(note, known)
        damages[own.name] = known
    return damages


def decide_types(settings: QuantiseSettings, layout: Layout, damages: Damages) -> dict[str, str]:
    """The types of a recipe, or those with the least damage in the bytes that the settings give.

    A tensor that none of the allowed types fits may have any.
    """
    if settings.recipe is not None:
        lines = settings.recipe.read_text(encoding="utf-8").splitlines()
        types = layout.finest | read_types(lines, [*layout.finest])
        if wrong := [name for name, kind in types.items() if kind not in layout.sizes[name]]:
            raise InputError(f"{settings.recipe} gives {wrong[0]} a type that its rows do not fit.")
        return types
    allowed = {}
    for name, known in damages.items():
        named = {kind: value for kind, value in known.items() if kind in settings.types}
        allowed[name] = named or dict(known)
    return choose_types(allowed, layout.sizes, layout.budget(settings))


def write_file(run: QuantiseRun, layout: Layout, types: Mapping[str, str], file: Path) -> None:
    """Write the file, and check that its tensors have these types. Raises InputError: another file has its name."""
    wanted = {**types, **layout.others}
    if not file.exists():
        by_type = layout.by_type(types)
        check_free_space(file, by_type.total() + layout.fixed, "use another `out`")
        common = by_type.most_common(1)[0][0]
        kind, quiet = _NAMES.get(common, common), run.importance
        quantise_gguf(run.whole, file, kind, types=wanted, importance=quiet, progress=run.progress)
    for tensor in read_gguf_head(file).tensors:
        if wanted.get(tensor.name, type_name(tensor.kind)) != type_name(tensor.kind):
            raise InputError(
                f"{file} has {tensor.name} in {type_name(tensor.kind)}, and {wanted[tensor.name]} was chosen: it was "
                "made in another way. Use another `out`."
            )
    write_text(run.run.path / f"{file.stem}.types.txt", "\n".join(type_lines(types)) + "\n")


def compare_files(
    run: QuantiseRun, layout: Layout, types: Mapping[str, str], file: Path, damages: Damages, *, plain: bool
) -> list[MeasuredFile]:
    """The forecast and the measured divergence of the file, and of the plain type of the nearest size."""
    wanted: list[tuple[str, Mapping[str, str]]] = [(file.stem, types)]
    if plain and (nearest := _nearest_plain(run, layout, types, damages)):
        wanted.append(nearest)
    reference, names = run.run.path / "reference", [f"{label}-{settings_hash(own)[:8]}" for label, own in wanted]
    if not all(name in run.run.notes for name in names):
        keep_reference(run.base.loaded, run.held_out, reference, run.progress)  # before other weights take their place
    measured = []
    for name, (label, own) in zip(names, wanted, strict=True):
        written = file if label == file.stem else run.run.path / f"{label}.gguf"
        if name not in run.run.notes:
            if not written.exists():
                run.progress.begin("divergence", f"writing {label}")
                quantise_gguf(run.whole, written, label, importance=run.importance, progress=run.progress)
            run.progress.begin("divergence", f"reading answers with the weights of {label}")
            use_weights(written, run.matrices)
            with run.run.journal(name, "divergence") as journal:
                measure_divergence(run.base.loaded, run.held_out, reference, journal, run.progress)
            run.run.notes.put(name, written.stat().st_size)
        if written != file:
            written.unlink(missing_ok=True)
        measured.append(_describe(run, label, name, sum(damages[tensor][kind] for tensor, kind in own.items())))
    shutil.rmtree(reference, ignore_errors=True)
    return measured


def _describe(run: QuantiseRun, label: str, name: str, forecast: float) -> MeasuredFile:
    records = run.run.records(name, "divergence")

    def share(values: Sequence[Any]) -> Any:
        tokens = np.array([float(len(record["nats"])) for record in records])
        return as_estimated(ratio_of_sums(np.array(values, dtype=float), tokens, run.seed))

    return MeasuredFile(
        label=label,
        num_bytes=run.run.notes[name],
        forecast=forecast,
        measured=share([sum(record["nats"]) for record in records]),
        same=share([record["same"].count("1") for record in records]),
        worst=float(np.quantile([value for record in records for value in record["nats"]], 0.99)),
    )


def _nearest_plain(
    run: QuantiseRun, layout: Layout, types: Mapping[str, str], damages: Damages
) -> tuple[str, dict[str, str]] | None:
    """The type of plain files that is nearest in size, and what it gives to the matrices; None where none fits."""
    run.progress.begin("divergence", "sizes of plain types")
    wanted, nearest = layout.by_type(types).total(), []
    for kind in (*GGUF_TYPES, *WITH_MATRIX):
        plain = types_of_plain_file(run.whole, kind, run.importance)
        own = {name: plain[name] for name in types}
        if all(own[name] in damages[name] for name in own):
            nearest.append((abs(layout.by_type(own).total() - wanted), kind, own))
    return min(nearest)[1:] if nearest else None
