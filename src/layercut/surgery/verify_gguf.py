"""Verify a pruned GGUF file: what transformers reads from its header, and the tensors that are not copied whole.

Tensors that are copied whole were compared byte by byte, so nothing is computed with them: a model with the same
config, tensors and bytes is the same model. What could still be wrong is the header, of which the config is made, and
the choice of rows and columns. Both are compared with code that wrote neither: that of Hugging Face folders, and NumPy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layercut.errors import CheckpointError, InputError, VerificationError
from layercut.models.convert import empty_model
from layercut.models.gguf_file import SLACK, GgufTensor, dequantised_rows, read_gguf_head
from layercut.models.gguf_weights import ALIKE, spans_of_gguf
from layercut.models.structure import config_of
from layercut.models.weights import BOOKKEEPING, TensorSpan, read_config
from layercut.surgery.checkpoint import pruned_model
from layercut.surgery.config_fields import FIRST_COUNTS
from layercut.surgery.gguf_metadata import block_tensor
from layercut.surgery.gguf_parts import LAST
from layercut.surgery.kinds import check_kinds
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import thin_config

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROWS = 512  # of a matrix that are dequantised at a time


def compare_header(part: Path, original: Path, plan: CutPlan) -> str:
    """Compare the model that transformers reads from a new file with the pruned one of the ``original``'s folder.

    Returns:
        What was compared, for people.
    Raises:
        VerificationError: another config, another tensor, or a header that transformers does not read.
        InputError: transformers knows no such pruned model.
    """
    try:
        expected, tensors = pruned_model(original, plan)
    except InputError as error:
        raise type(error)(f"{error} To cut the file all the same, say `verify=false`.") from error
    head = read_gguf_head(part)
    try:
        model = empty_model(part, head)
        spans = spans_of_gguf(part, model, head, None) if head.architecture in ALIKE else None
    except CheckpointError as error:
        raise VerificationError(f"{part} is not the model that was asked for: {error}") from error
    wanted, held = (_plain(config, str(part)) for config in (expected, model.config.to_dict()))
    for name in sorted((wanted.keys() | held.keys()) - FIRST_COUNTS):  # which no header names; layers have their kinds
        if wanted.get(name) != held.get(name):
            raise VerificationError(
                f"{part} is not the model that was asked for: transformers reads {name} = {held.get(name)} from it, "
                f"but it should be {wanted.get(name)}."
            )
    try:
        whole = {**thin_config(read_config(original), plan.channels), "vocab_size": wanted["vocab_size"]}
        check_kinds(config_of(whole, str(original)), model.config, plan.depth_only)
    except InputError as error:
        raise VerificationError(f"{part} is not the model that was asked for: {error}") from error
    compared = f"transformers reads from it the config of the original with {len(plan.kept)} layers"
    if spans is None:
        return compared
    shapes, others = ({span.name: list(span.shape) for span in each} for each in (tensors, spans))
    if shapes != others:
        name = min(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))
        raise VerificationError(
            f"{part} is not the model that was asked for: {name} has the shape {others.get(name)}, but should have "
            f"{shapes.get(name)}."
        )
    return f"{compared}, and the names and shapes of its {len(spans)} tensors"


def _plain(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A config as transformers reads it from JSON, without what does not change the model."""
    read = config_of(json.loads(json.dumps(config, default=str)), where).to_dict()
    return {name: value for name, value in read.items() if name not in BOOKKEEPING}


def compare_changed(
    file: Path,
    part: Path,
    pairs: Iterable[tuple[GgufTensor, GgufTensor]],
    plan: CutPlan,
    healed: Mapping[int, TensorSpan],
) -> str:
    """Compare the tensors of a new file that are not whole ones of the old file with the rows and columns of the plan.

    Rows must have the same bytes; columns that are quantised again differ by no more than their type rounds. Matrices
    of ``healed`` layers are compared with those of the checkpoint. ``pairs``: old and new tensors in their files.

    Returns:
        What was compared, for people; empty where all tensors are whole.
    Raises:
        VerificationError: other rows or columns.
    """
    num_rows_taken, changes = 0, []
    for old, new in pairs:
        block, name = block_tensor(old.name) or (-1, "")
        if name == LAST and (block in healed or old[1:3] != new[1:3]):
            changes.append(_compare_columns(file, part, old, new, plan, healed.get(block)))
        elif old.shape != new.shape:
            size = old.shape[-1]
            if plan.vocabulary is not None and block < 0:
                kept = np.array(plan.vocabulary.kept)
            else:  # MLP channels, with gate and up in one tensor maybe
                assert plan.channels is not None
                kept = np.array(plan.channels.kept[block])
                kept = np.concatenate([half + kept for half in range(0, size, plan.channels.width)])
            whole, taken = (_raw(path, tensor) for path, tensor in ((file, old), (part, new)))
            if not np.array_equal(whole[kept], taken):
                raise VerificationError(f"{part}: {new.name} has other rows than the plan keeps of {old.name}.")
            num_rows_taken += 1
    said = [f"{num_rows_taken} tensors hold the rows that the plan keeps"] if num_rows_taken else []
    said += [f"{len(changes)} last matrices differ by at most {max(changes):.2%} by rounding"] if changes else []
    return "; ".join(said)


def _raw(path: Path, tensor: GgufTensor) -> NDArray[np.uint8]:
    """The bytes of a tensor, by entries of its last dimension."""
    return np.memmap(path, np.uint8, "r", tensor.offset, (tensor.shape[-1], tensor.num_bytes // tensor.shape[-1]))


def _compare_columns(
    file: Path, part: Path, old: GgufTensor, new: GgufTensor, plan: CutPlan, healed: TensorSpan | None
) -> float:
    """Relative distance of a last matrix from the kept columns of the old one, or from the healed matrix."""
    import gguf
    from safetensors import safe_open

    block = (block_tensor(old.name) or (-1, ""))[0]
    channels = None if plan.channels is None else plan.channels.kept.get(block)
    kept = slice(None) if channels is None else np.array(channels)
    distance = rounding = size = 0.0
    for first in range(0, old.shape[1], _ROWS):
        if healed is None:
            raw = np.array(_raw(file, old)[first : first + _ROWS])
            wanted = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(old.kind))[:, kept]
        else:
            with safe_open(healed.file, framework="pt") as opened:  # type: ignore[no-untyped-call]
                wanted = opened.get_slice(healed.name)[first : first + _ROWS].float().numpy()
        held, errors = dequantised_rows(part, new, first, len(wanted))
        distance += float(np.square(held - wanted).sum())
        rounding, size = rounding + float(errors.sum()), size + float(np.square(wanted).sum())
    change = (distance / size) ** 0.5 if size else distance
    if not distance <= SLACK**2 * rounding:
        of = "the original model" if healed is None else "the healed checkpoint"
        raise VerificationError(f"{part}: {new.name} differs from that of {of} by {change:.1%}.")
    return change
