"""What a checkpoint's files say of the model, found out without loading it or importing torch."""

from __future__ import annotations

from typing import NamedTuple

from layercut.models.checks import count_layers
from layercut.models.families import Family, family_of
from layercut.models.sources import ModelSource
from layercut.models.weights import HASH_LENGTH, fingerprint, read_config, safetensors_files


class ModelFacts(NamedTuple):
    """Family, depth and identity of a model."""

    family: Family
    num_layers: int
    """Decoder layers of the uncut model."""
    model_hash: str
    """First hex digits of the checkpoint's fingerprint, as LoadedModel has it."""


def facts(source: ModelSource) -> ModelFacts:
    """Read config and weight headers.

    Raises:
        InputError: the family is not known.
        CheckpointError: files are missing or damaged, or the config counts other layers than the weights hold.
    """
    config = read_config(source.path)
    family = family_of(config.get("model_type"), source.name)
    num_layers = count_layers(safetensors_files(source.path), config, family, source.name)
    return ModelFacts(family, num_layers, fingerprint(source.path)[:HASH_LENGTH])
