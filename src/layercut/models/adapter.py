"""A LoRA adapter as a model: an adapter of ``heal --keep-adapter`` or PEFT on its base, not merged.

The folder is named as the model; its base is what ``adapter_config.json`` names. LoRA: arXiv:2106.09685.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import CheckpointError, MissingExtra, first_line
from layercut.models.weights import read_header, read_object

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_BOOKKEEPING = ("base_model_name_or_path", "inference_mode", "peft_version", "revision")
"""Keys of the config that do not change what is computed."""


@dataclass(frozen=True)
class Adapter:
    """The files of a LoRA adapter."""

    folder: Path
    base: str
    """The model that it is laid over, as ``adapter_config.json`` names it; found from here or from its own folder."""
    rank: int  # the highest of any module

    def places(self) -> list[str]:
        """Full names of the modules that it changes, as the base model names them."""
        parts = (name.partition(".lora_") for name in read_header(self.folder / WEIGHTS_FILE).tensors)
        return sorted({module.removeprefix("base_model.model.") for module, found, _ in parts if found})

    def hash_with(self, base: str) -> str:
        """SHA-256 (hex) of a model of the fingerprint ``base`` with this adapter: weights, places and scale."""
        config = read_object(self.folder / CONFIG_FILE)
        relevant = {key: value for key, value in sorted(config.items()) if key not in _BOOKKEEPING}
        digest = hashlib.sha256(f"layercut adapter 1\n{base}\n{json.dumps(relevant, sort_keys=True)}\n".encode())
        digest.update((self.folder / WEIGHTS_FILE).read_bytes())
        return digest.hexdigest()


def adapter_in(folder: Path) -> Adapter | None:
    """The adapter that a folder holds in the place of a model; None where it holds none, or a model.
    Raises CheckpointError: an adapter that is damaged, names no base, or is no LoRA.
    """
    folder = Path(folder)
    if (folder / "config.json").exists() or not (folder / CONFIG_FILE).is_file():
        return None
    config = read_object(folder / CONFIG_FILE)
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    if kind != "LORA":
        raise CheckpointError(f"{folder} holds an adapter of the kind {kind}; only LoRA (LORA) is supported.")
    if not isinstance(base, str) or not base:
        raise CheckpointError(f"{folder / CONFIG_FILE} names no base_model_name_or_path; write its base model there.")
    if not (folder / WEIGHTS_FILE).is_file():
        raise CheckpointError(f"{folder} has no {WEIGHTS_FILE}; save the adapter with PEFT, as safetensors.")
    if not Path(base).exists() and (folder / base).is_dir():
        base = str(folder / base)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise CheckpointError(f"{folder / CONFIG_FILE} names no rank (r) that is a whole number.")
    return Adapter(folder, base, max(ranks))


def attach(model: PreTrainedModel, adapter: Adapter) -> PreTrainedModel:
    """The model with the adapter in it, as PEFT computes it: base plus low-rank term, unmerged. ``model`` is changed.
    Raises MissingExtra: PEFT is not installed; CheckpointError: the adapter is not for this model.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MissingExtra("running a model with an adapter", "heal") from error
    from safetensors import SafetensorError

    try:
        wrapped: Any = PeftModel.from_pretrained(model, str(adapter.folder))
        keys = wrapped.load_adapter(str(adapter.folder), "default")  # once more, because only this reports the keys
    except (ValueError, RuntimeError, KeyError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{adapter.folder} is no adapter for {adapter.base} ({first_line(error)}).") from error
    if odd := sorted({*keys.missing_keys, *keys.unexpected_keys}):  # PEFT goes on with what it began with
        raise CheckpointError(
            f"{adapter.folder} is no adapter for {adapter.base}: {odd[0]} is only in one of the two. Name its true "
            f"base in {CONFIG_FILE}."
        )
    bare: PreTrainedModel = wrapped.get_base_model()
    return bare
