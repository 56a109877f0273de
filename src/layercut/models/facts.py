"""What a checkpoint's files say of the model, found out without loading it."""

from __future__ import annotations

from typing import NamedTuple

from layercut.errors import CheckpointError
from layercut.models.families import Family, family_of
from layercut.models.sources import ModelSource
from layercut.models.weights import HASH_LENGTH, fingerprint, read_config


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
        CheckpointError: files are missing or damaged.
    """
    config = read_config(source.path)
    family = family_of(config.get("model_type"), source.name)
    num_layers = config.get(family.num_layers_field)
    if not isinstance(num_layers, int) or num_layers < 1:
        raise CheckpointError(
            f"{source.path / 'config.json'} does not say how many decoder layers there are "
            f"({family.num_layers_field}: {num_layers!r})."
        )
    return ModelFacts(family, num_layers, fingerprint(source.path)[:HASH_LENGTH])
