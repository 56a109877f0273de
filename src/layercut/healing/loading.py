"""Load the pruned model for training: float32 where its own weights are trained, 4 bits for qlora."""

from __future__ import annotations

from typing import Any

from layercut.healing.adapters import quantization
from layercut.healing.settings import TrainSettings
from layercut.models.loading import LoadedModel, load_model, load_tokenizer
from layercut.models.placement import pick_device
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import ModelSource, describe_source


def load_for_training(
    source: ModelSource, settings: TrainSettings, *, dtype: str = "auto", device: str = "auto"
) -> LoadedModel:
    """Load a pruned model.

    With ``dtype`` auto it is float32 wherever whole weights learn or are solved for; beside adapters it is what
    ``load_model`` makes of it. qlora reads the weights once, straight
    into 4 bits.

    Raises:
        InputError: qlora where it cannot run, or a model that cannot be loaded.
    """
    if settings.method == "qlora":
        from transformers import AutoModelForCausalLM

        packed_as = quantization()
        metadata = describe_source(source)
        with quiet_transformers():
            packed: Any = AutoModelForCausalLM.from_pretrained(
                source.path, quantization_config=packed_as, device_map={"": 0}
            )
        tokenizer = load_tokenizer(source, False)
        return LoadedModel(packed.eval(), tokenizer, metadata.family, source, metadata.model_hash, metadata.num_layers)
    if settings.method == "seam" and pick_device(device).type == "mps":
        device = "cpu"  # seams are solved in float64, which MPS does not have
    if dtype == "auto" and settings.method != "lora":
        dtype = "float32"
    return load_model(source, dtype=dtype, device=device)
