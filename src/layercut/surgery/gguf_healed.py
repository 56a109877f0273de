"""Last matrices of a checkpoint that was healed in closed form, for the GGUF file of its plan.

``heal --method seam`` changes the last matrices of MLPs alone. So the GGUF file of the original model has all other
tensors of the healed one already, quantised.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from layercut.errors import InputError
from layercut.models.sources import ModelSource, describe_source
from layercut.models.weights import read_config, safetensors_files
from layercut.surgery.checkpoint import read_plans
from layercut.surgery.plan import CutPlan
from layercut.surgery.width import mlp_width_of

_SCALE = "scale"  # the seam of `heal` that changes norms


class HealedCut(NamedTuple):
    """What a healed checkpoint adds to the plan that it was cut by."""

    healing: tuple[Mapping[str, Any], ...]  # entries of its plan.json
    matrices: Mapping[int, tuple[Path, str, int]]
    """By layer of the original model, the last matrix of an MLP that healing changed: its safetensors file, its name
    there, and the numbers of a row."""

    @classmethod
    def read(cls, folder: Path, original: Path, plan: CutPlan) -> HealedCut:
        """Compare a healed checkpoint with the original model's folder.

        Raises:
            InputError: it was cut by another plan, in several steps, or healed otherwise.
        """
        plans = read_plans(folder)
        healed = [entry for one in plans for entry in one.get("healing", ())]
        methods = {str(entry.get("method")) for entry in healed}
        if len(plans) != 1 or CutPlan.from_dict(plans[0]).key != plan.key:
            raise InputError(f"{folder} was not cut by this plan in one step, so its matrices do not fit the file.")
        if methods != {"seam"}:
            raise InputError(
                f"{folder} was healed by {', '.join(sorted(methods)) or 'nothing'}, and `healed` takes what `heal` "
                "`method` seam solved for; convert the folder with llama.cpp's convert_hf_to_gguf.py."
            )
        if any(entry.get("seam_map") == _SCALE for entry in healed):
            raise InputError(
                f"{folder} was healed by `seam` {_SCALE}, which changes norms, and `healed` takes last matrices; "
                "convert the folder with llama.cpp's convert_hf_to_gguf.py."
            )
        before, after = _Matrices(original), _Matrices(folder)
        changed = {
            old: (after.file(new), after.name(new), after.mlp.width)
            for new, old in enumerate(plan.kept)
            if old in before.mlp.slots and not after.equals(new, before, old)
        }
        return cls(tuple(plans[0]["healing"]), changed)


class _Matrices:
    """The last matrices of the MLPs of a folder."""

    def __init__(self, folder: Path) -> None:
        source = ModelSource(name=str(folder), path=folder)
        self._files = safetensors_files(folder)
        self._layers = describe_source(source).structure.layers
        self.mlp = mlp_width_of(read_config(folder), source.name)
        readers = [slot for layer in self.mlp.slots for slot in self.mlp.readers(layer)]
        if len(readers) != len(self.mlp.slots) or any(slot.dim != 1 or slot.is_stacked for slot in readers):
            raise InputError(
                f"{folder} has experts, or keeps its matrices the other way round; convert it with llama.cpp's script."
            )

    def name(self, layer: int) -> str:
        return f"{self._layers}.{layer}.{self.mlp.readers(layer)[0].name}"

    def file(self, layer: int) -> Path:
        return self._files[self.name(layer)]

    def equals(self, layer: int, other: _Matrices, its: int) -> bool:
        import torch

        mine, theirs = self._tensor(layer), other._tensor(its)
        return mine.shape == theirs.shape and torch.equal(mine, theirs)

    def _tensor(self, layer: int) -> Any:
        from safetensors import safe_open

        with safe_open(self.file(layer), framework="pt") as opened:  # type: ignore[no-untyped-call]
            return opened.get_tensor(self.name(layer))
