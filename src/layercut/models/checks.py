"""Is what was loaded what the checkpoint holds? transformers fills gaps with random numbers and goes on; we refuse.

Not-a-number and infinite weights are looked for in the loaded parameters: they are in memory already, so it costs one
pass over them and no second reading, and it sees what a narrower dtype made infinite. The files are read again only to
name the culprit, or where parameters were put off to disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layercut.errors import CheckpointError
from layercut.models.weights import safetensors_files

if TYPE_CHECKING:
    from torch import Tensor, nn

    from layercut.models.families import Family


class BadTensor(NamedTuple):
    """A tensor that holds a number which is none."""

    file: Path
    tensor: str


def refuse_incomplete(info: Mapping[str, Any], where: str) -> None:
    """Raise if transformers did not find every parameter, given its ``output_loading_info``.

    Tied parameters do not count as missing: transformers takes them off the list itself.

    Raises:
        CheckpointError: parameters missing or of another shape than the config says, or that could not be read.
    """
    if missing := sorted(info.get("missing_keys") or ()):
        raise CheckpointError(
            f"{where} is incomplete: it has no weights for {_some(missing)} of the architecture in config.json. "
            "transformers would go on with random numbers; fetch the checkpoint again."
        )
    if wrong := sorted(info.get("mismatched_keys") or ()):
        name, found, wanted = wrong[0]
        raise CheckpointError(
            f"{where} does not fit its config.json: {name} has shape {list(found)}, the config asks for {list(wanted)}"
            f"{f' ({len(wrong)} such tensors)' if len(wrong) > 1 else ''}."
        )
    errors = [*(info.get("error_msgs") or ()), *(info.get("conversion_errors") or {}).values()]
    if errors:
        raise CheckpointError(f"{where} cannot be loaded: {str(errors[0]).splitlines()[0]}")


def count_layers(tensors: Iterable[str], config: Mapping[str, Any], family: Family, where: str) -> int:
    """Decoder layers in the weights, by the tensors' names, if config.json counts as many.

    A config that counts fewer layers than the weights hold would load without a word, as another model.

    Raises:
        CheckpointError: fewer, more or other layers in the weights than the config counts.
    """
    matches = (family.tensor_pattern.match(name) for name in tensors)
    found = sorted({int(match[2]) for match in matches if match})
    counted = config.get(family.num_layers_field, len(found))
    if not found or found != list(range(counted)):
        held = f"{len(found)} ({found[0]}-{found[-1]})" if found else "none"
        raise CheckpointError(
            f"{where} is inconsistent: config.json counts {counted} decoder layers ({family.num_layers_field}), "
            f"the weights hold {held}. Mend config.json or fetch the checkpoint again."
        )
    return len(found)


def refuse_nonfinite(model: nn.Module, folder: Path) -> None:
    """Raise if a parameter holds NaN or infinity.

    Raises:
        CheckpointError: such a parameter; names file and tensor, or the dtype if the file itself is sound.
    """
    parameters = dict(model.named_parameters())
    bad = next((name for name, tensor in parameters.items() if not tensor.is_meta and not is_finite(tensor)), None)
    if bad is None and not any(tensor.is_meta for tensor in parameters.values()):
        return
    if culprit := find_nonfinite(folder):
        raise CheckpointError(
            f"{culprit.file} holds NaN or infinite numbers in the tensor {culprit.tensor}; nothing can be measured "
            "with it. Fetch the checkpoint again, or save it again where it was made."
        )
    if bad is not None:
        dtype = str(parameters[bad].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{bad} has numbers that {dtype} cannot hold (they become infinite); use dtype bfloat16 or float32."
        )


def find_nonfinite(folder: Path) -> BadTensor | None:
    """The first tensor of a checkpoint folder that holds NaN or infinity, reading one tensor at a time."""
    from safetensors import safe_open

    files = safetensors_files(folder)
    for path in dict.fromkeys(files.values()):
        with safe_open(path, framework="pt") as shard:
            for name in (name for name, file in files.items() if file == path):
                if not is_finite(shard.get_tensor(name)):
                    return BadTensor(path, name)
    return None


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity; tensors of whole numbers have none."""
    import torch

    if not tensor.dtype.is_floating_point or not tensor.numel():
        return True
    if tensor.element_size() == 1:  # float8 has no arithmetic of its own
        tensor = tensor.to(torch.float16)
    if tensor.device.type != "cpu":
        return bool(torch.isfinite(tensor).all())
    lowest, highest = torch.aminmax(tensor.detach())  # NaN goes through it; 40 times as fast as isfinite, no copy
    return bool(torch.isfinite(lowest) & torch.isfinite(highest))


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} parameters (such as {names[0]})"
