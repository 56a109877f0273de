"""The depth of a model, from its config alone: no weights are fetched or converted, and torch is not needed."""

from __future__ import annotations

import os
from pathlib import Path

from layercut.models.adapter import adapter_in
from layercut.models.bundled import PREFIX, bundled_file, bundled_model
from layercut.models.gguf_file import read_gguf_head
from layercut.models.hub import download, refusals
from layercut.models.sources import is_hub_id
from layercut.models.structure import counted_layers
from layercut.models.weights import read_config


def depth_of(source: str, revision: str | None = None) -> int | None:
    """Decoder layers as the config counts them; None where it does not say, or where there is no such model.

    Whether the weights hold as many is seen when they are read. Of a hub model that is not in the cache, all but the
    weights is fetched.

    Args:
        source: as ``layercut.models.sources.resolve`` takes it.
        revision: branch, tag or commit, for a hub id.

    Raises:
        InputError: an unknown bundled model, or a hub that does not give it.
        CheckpointError: a damaged config or GGUF file.
    """
    source = os.fspath(source)
    path = Path(source).expanduser()
    if source.startswith(PREFIX):
        path = bundled_file(bundled_model(source))
    if path.is_dir():
        adapter = adapter_in(path)
        return counted_layers(read_config(path)) if adapter is None else depth_of(adapter.base)
    if path.is_file():
        return read_gguf_head(path).num_layers
    return counted_layers(read_config(_snapshot(source, revision))) if is_hub_id(source) else None


def _snapshot(repo: str, revision: str | None) -> Path:
    """A hub model's folder without its weights, from the cache where it holds it."""
    from huggingface_hub import try_to_load_from_cache

    with refusals(repo, revision):
        found = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else download(repo, revision=revision, with_weights=False).path
