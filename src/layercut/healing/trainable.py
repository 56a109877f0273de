"""Choose the trainable weights of a pruned model: adapters, all weights, or the head and the last layers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch

from layercut.errors import InputError, unknown
from layercut.healing.adapters import add_adapters, quantization
from layercut.healing.settings import METHODS
from layercut.models.loading import LoadedModel, load_model, load_tokenizer
from layercut.models.placement import pick_device
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import ModelSource, describe_source
from layercut.surgery.remove import decoder_layers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from layercut.healing.settings import TrainSettings

logger = logging.getLogger(__name__)


def make_trainable(model: PreTrainedModel, settings: TrainSettings) -> Any:
    """The model with gradients where ``settings.method`` wants them; adapters wrap it, the others change it in place.

    Raises:
        InputError: last-k of more layers than there are, or whole weights in another dtype than `weights`.
        MissingExtra: PEFT is not installed.
    """
    method = settings.method
    if method in ("lora", "qlora"):
        return add_adapters(model, settings)
    if model.dtype != getattr(torch, settings.weights):
        raise InputError(
            f"{method} trains weights in {settings.weights}, not {str(model.dtype).removeprefix('torch.')}; leave out "
            "`dtype`, or say the same in `weights`."
        )
    if method == "full":
        model.requires_grad_(True)
        return model
    if method != "last-k":
        raise unknown("method", method, METHODS)
    layers = decoder_layers(model)
    if settings.last_k > len(layers):
        raise InputError(f"last-k of {settings.last_k} layers, but the pruned model has {len(layers)}; take fewer.")
    model.requires_grad_(False)
    for layer in list(layers)[-settings.last_k :]:
        layer.requires_grad_(True)
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    head.requires_grad_(True)
    if head.weight is model.get_input_embeddings().weight:
        logger.info("the head shares its weights with the embeddings, so last-k trains those too")
    return model


def bare(model: Any) -> Any:
    """The transformers model without its adapters' wrapper."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def num_trainable(model: Any) -> int:
    """Parameters with gradients."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def load_for_training(
    source: ModelSource, settings: TrainSettings, *, dtype: str = "auto", device: str = "auto"
) -> LoadedModel:
    """Load a pruned model; InputError where qlora cannot run, or the model cannot be loaded.

    With ``dtype`` auto it is ``weights`` where whole weights are trained or solved for; with adapters it is that of
    ``load_model``. qlora reads the weights once, straight into 4 bits.
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
        return LoadedModel(
            packed.eval(), tokenizer, metadata.structure, source, metadata.model_hash, metadata.num_layers
        )
    if settings.method == "seam" and pick_device(device).type == "mps":
        device = "cpu"  # seams are solved in float64, which MPS does not have
    if dtype == "auto" and settings.method != "lora":
        dtype = settings.weights
    return load_model(source, dtype=dtype, device=device)
