"""Checkpoints as others publish them: layers renumbered in plain files, and no plan of layercut beside."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

_PLAIN = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def passthrough(parent: Path, slices: Sequence[tuple[int, int]], folder: Path, noise: float = 0.0) -> Path:
    """What a passthrough merge of mergekit makes of ranges of layers, their ends left out; in two shards.

    ``noise`` is added to all weights, as a share of the spread of each: a training that touched everything.
    """
    order = [layer for first, end in slices for layer in range(first, end)]
    whole = load_file(parent / "model.safetensors")
    tensors = {name: tensor for name, tensor in whole.items() if ".layers." not in name}
    for index, layer in enumerate(order):
        own = f".layers.{layer}."
        tensors |= {
            name.replace(own, f".layers.{index}."): tensor.clone() for name, tensor in whole.items() if own in name
        }
    torch.manual_seed(1)
    if noise:
        tensors = {name: one + noise * one.std() * torch.randn_like(one) for name, one in tensors.items()}
    published(parent, folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"})
    places = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": len(order)}
    (folder / "config.json").write_text(json.dumps(config))
    sources = [f"- sources:\n  - layer_range: [{first}, {end}]\n    model: {parent.name}\n" for first, end in slices]
    (folder / "mergekit_config.yml").write_text(
        f"dtype: float32\nmerge_method: passthrough\nslices:\n{''.join(sources)}"
    )
    return folder


def published(checkpoint: Path, folder: Path) -> Path:
    """A checkpoint without what layercut writes beside it: weights, config and tokenizer alone."""
    folder.mkdir(parents=True)
    for file in checkpoint.iterdir():
        if file.name in _PLAIN or ".safetensors" in file.name:
            shutil.copy(file, folder)
    return folder
