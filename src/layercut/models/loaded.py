"""A model in memory and its files: those it was loaded from, if every tensor is the same, else a copy in the cache."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import InputError
from layercut.models.cache import cache_dir
from layercut.models.loading import LoadedModel, load_tokenizer, padding_left
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import ModelSource, describe_source
from layercut.models.weights import BOOKKEEPING, safetensors_files
from layercut.runs.atomic import new_directory
from layercut.runs.disk import check_free_space
from layercut.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def is_loaded(model: object) -> bool:
    """True if it is a transformers model in memory. Does not import transformers: who has one has imported it."""
    kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__}
    return "transformers.modeling_utils.PreTrainedModel" in kinds


def wrap_loaded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> LoadedModel:
    """A loaded model as layercut's own steps take it, unchanged; without ``tokenizer`` that of its folder is taken."""
    if model.training:
        raise InputError("the model is in training mode, where dropout changes its answers; call model.eval() first.")
    if hasattr(model, "peft_config"):
        raise InputError("the model carries adapters; merge them first: model = model.merge_and_unload().")
    origin = _origin(model)
    if origin is not None and _is_same(model, tokenizer, origin):
        folder = origin
    else:
        folder = cache_dir() / "loaded" / loaded_hash(model, tokenizer)
        if not folder.exists():
            if tokenizer is None and origin is None:
                raise InputError(
                    "the model came without its tokenizer; give it as well: layercut.prune(model, tokenizer, ...)."
                )
            source = ModelSource(name=str(origin), path=origin or folder)
            written = tokenizer or load_tokenizer(source)
            say(f"the loaded model is no checkpoint on this disk; writing a copy of it to {folder} ...")
            folder.parent.mkdir(parents=True, exist_ok=True)
            size = sum(tensor.nbytes for tensor in model.state_dict().values())
            check_free_space(folder, size, "set LAYERCUT_CACHE to another disk")
            with new_directory(folder) as part, quiet_transformers():
                model.save_pretrained(part)
                written.save_pretrained(part)
    source = ModelSource(name=str(folder), path=folder, origin={"kind": "folder"})
    metadata = describe_source(source)
    own = copy.deepcopy(tokenizer) if tokenizer is not None else load_tokenizer(source)
    return LoadedModel(padding_left(own), metadata.structure, source, metadata.model_hash, metadata.num_layers, model)


def settings_of(loaded: LoadedModel) -> ModelSettings:
    """Settings that load the same model again."""
    device = str(loaded.model.device)
    return ModelSettings(model=str(loaded.source.path), dtype=loaded.dtype, device=device)


def loaded_hash(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> str:
    """First 16 hex digits of SHA-256 over config, every weight and tokenizer; about a second for each gigabyte."""
    import torch

    digest = hashlib.sha256(b"layercut loaded 1\n")
    digest.update(json.dumps(_config(model.config.to_dict()), sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy())
    if tokenizer is not None:
        digest.update(_describe(tokenizer).encode())
    return digest.hexdigest()[:16]


def _origin(model: PreTrainedModel) -> Path | None:
    """The folder that its config names as its source; None where there is none on this disk."""
    name = str(model.name_or_path or "")
    if not name:
        return None
    if (path := Path(name).expanduser()).is_dir():
        return path
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    with suppress(HFValidationError):
        file = try_to_load_from_cache(name, "config.json", revision=getattr(model.config, "_commit_hash", None))
        return Path(file).parent if isinstance(file, str) else None
    return None


def _is_same(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> bool:
    """True if a folder holds this very model: its config, tokenizer and every weight."""
    from safetensors import safe_open
    from transformers import AutoConfig

    try:
        files = safetensors_files(folder)
        config = AutoConfig.from_pretrained(folder).to_dict()
        theirs = load_tokenizer(ModelSource(name=str(folder), path=folder))
    except (InputError, OSError, ValueError):
        return False
    if _config(config) != _config(model.config.to_dict()):
        return False
    if tokenizer is not None and _describe(tokenizer) != _describe(theirs):
        return False
    tensors = model.state_dict()
    shared = {tensors[name].data_ptr() for name in files if name in tensors}
    if not tensors.keys() >= files.keys() or any(tensor.data_ptr() not in shared for tensor in tensors.values()):
        return False
    for name, file in files.items():
        with safe_open(file, framework="pt") as opened:
            mine, stored = tensors[name].detach().cpu(), opened.get_tensor(name)
            if mine.shape != stored.shape or not bool((stored.to(mine.dtype) == mine).all()):
                return False
    return True


def _config(config: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in BOOKKEEPING}


def _describe(tokenizer: PreTrainedTokenizerBase) -> str:
    """The parts of a tokenizer that decide how texts become tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    core = json.loads(backend.to_str()) if backend is not None else dict(sorted(tokenizer.get_vocab().items()))
    core = json.dumps({name: value for name, value in core.items() if name not in ("padding", "truncation")})
    return json.dumps([core, str(tokenizer.chat_template), str(tokenizer.bos_token), str(tokenizer.eos_token)])
