"""Load a model and its tokenizer, or take them from memory; what transformers would fill in at random is refused.

loaded = load_model("meta-llama/Llama-3.1-8B-Instruct", dtype="bfloat16", device_map="auto")
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layercut.errors import CheckpointError, InputError, one_line
from layercut.models import checks
from layercut.models.cache import cache_dir, hold_entry, trim_cache
from layercut.models.placement import dtype_as_set, pick_torch_dtype, placement_of
from layercut.models.quiet import quiet_transformers
from layercut.models.sources import ModelSource, describe_source, resolve_source, with_weights
from layercut.models.structure import Structure, auto_class, text_config_of
from layercut.models.weights import BOOKKEEPING, num_elements, safetensors_files, stored_tensors
from layercut.runs.atomic import new_directory
from layercut.runs.disk import check_free_space
from layercut.settings import ModelSettings

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' names of what models compute in


@dataclass(frozen=True)
class ReadableModel:
    """A tokenizer and the model that it belongs to, which need not be in memory."""

    tokenizer: PreTrainedTokenizerBase
    """Pads on the left and has a pad token."""
    structure: Structure
    source: ModelSource
    model_hash: str
    """First 16 hex digits of the checkpoint's fingerprint."""
    num_layers: int
    """Decoder layers of the original model; stays so while a bypass shortens the model's config."""

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def has_chat_template(self) -> bool:
        return bool(self.tokenizer.chat_template)


@dataclass(frozen=True)
class LoadedModel(ReadableModel):
    """A causal language model in eval mode without gradients, its tokenizer, and where it came from."""

    model: PreTrainedModel

    @property
    def context_length(self) -> int | None:
        """``max_position_embeddings``; None where the config names no limit."""
        return getattr(text_config_of(self.model), "max_position_embeddings", None)

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")


@dataclass(frozen=True)
class WeightlessModel(ReadableModel):
    """A model for an engine that reads the weights itself, such as vLLM."""

    generation_config: GenerationConfig
    context_length: int | None  # tokens that the model takes, by its config; None where the config names no limit
    dtype: str  # the dtype to compute in: ``float32``, ``bfloat16`` or ``float16``


def load_model(
    source: str | ModelSource,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | Mapping[str, Any] | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer.

    Args:
        source: hub id, local folder, ``.gguf`` file or ``bundled:smollm2-135m``; or what ``resolve_source`` gave.
        revision: branch, tag or commit of a hub model.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: the checkpoint's own, float32 on a CPU; see
            ``pick_torch_dtype``.
        device: ``auto`` (an accelerator if there is one, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        device_map: transformers' way to spread a large model, such as ``auto``; then ``device`` has no effect.

    Raises InputError: a source, dtype or device that is not known or not there, or a model that is no decoder;
    CheckpointError: a damaged or incomplete checkpoint, or one in a format that is not read.
    """
    placement = placement_of(device, device_map)
    if not isinstance(source, ModelSource):
        source = resolve_source(source, revision=revision)
    source = with_weights(source)
    dtype = pick_torch_dtype(source.path, dtype, device=device, device_map=device_map)
    facts = describe_source(source)
    model = _load_weights(source, dtype, placement)
    tokenizer = load_tokenizer(source)
    embeddings: Any = model.get_input_embeddings()
    checks.refuse_foreign_tokens(tokenizer, embeddings.weight.shape[0], source.name)
    return LoadedModel(tokenizer, facts.structure, source, facts.model_hash, facts.num_layers, model)


def _load_weights(source: ModelSource, dtype: str, placement: str | dict[str, Any]) -> PreTrainedModel:
    import torch
    from transformers import AutoConfig

    model: PreTrainedModel
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(source.path)
            checks.refuse_no_window(config, source.name)
            if getattr(config, "quantization_config", None) is None:  # packed weights have fewer elements
                checks.refuse_larger(config, num_elements(source.path), source.name)
            model, info = auto_class(config, source.name).from_pretrained(
                source.path,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                device_map=placement,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported in info, refused below in one line
                output_loading_info=True,
            )
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{source.name} does not fit on the device; try device_map='auto' or dtype='bfloat16'."
        ) from error
    except InputError:
        raise
    except Exception as error:  # transformers and torch raise all kinds, for reasons that lie in the files
        raise CheckpointError(f"{source.name} cannot be loaded by transformers: {one_line(error)}") from error
    checks.refuse_incomplete(info, source.name)
    checks.refuse_nonfinite(model, source.name)
    model.requires_grad_(False)  # from_pretrained has put it in eval mode
    return model


def load_without_weights(source: ModelSource, *, dtype: str = "auto", device: str = "auto") -> WeightlessModel:
    """Everything but the weights of what ``resolve_source`` gave; ``dtype``, ``device`` as in ``load_model``."""
    from transformers import AutoConfig, GenerationConfig

    dtype = pick_torch_dtype(source.path, dtype, device=device)
    facts = describe_source(source)
    try:
        config = AutoConfig.from_pretrained(source.path)
    except Exception as error:  # transformers raises all kinds, for reasons that lie in the file
        raise CheckpointError(f"{source.name} cannot be loaded by transformers: {one_line(error)}") from error
    checks.refuse_no_window(config, source.name)
    try:
        generation_config = GenerationConfig.from_pretrained(source.path)
    except OSError:  # not every checkpoint has one; transformers then does the same
        generation_config = GenerationConfig.from_model_config(config)
    text = config.get_text_config(decoder=True)
    if dtype == "auto":  # as the config says, else as the first floating-point tensor is stored
        named = getattr(text, "dtype", None)
        stored = (_STORED.get(tensor.dtype) for tensor in stored_tensors(source.path))
        dtype = str(named).removeprefix("torch.") if named is not None else next(filter(None, stored), "float32")
    tokenizer = load_tokenizer(source)
    checks.refuse_foreign_tokens(tokenizer, text.vocab_size, source.name)
    return WeightlessModel(
        tokenizer,
        facts.structure,
        source,
        facts.model_hash,
        facts.num_layers,
        generation_config=generation_config,
        context_length=getattr(text, "max_position_embeddings", None),
        dtype=dtype,
    )


def load_as_set(settings: ModelSettings, source: ModelSource) -> LoadedModel:
    """The model that settings name, found at ``source``, with the dtype and on the devices that they name."""
    return load_model(
        source, dtype=dtype_as_set(settings, source.path), device=settings.device, device_map=settings.device_map
    )


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer alone, padding on the left. Raises CheckpointError: the folder has none that can be read."""
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.path, padding_side="left")
    except (ValueError, OSError, KeyError, ImportError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{source.name} has no tokenizer that can be read ({one_line(error)}); add the files of its base model."
        ) from error
    return padding_left(tokenizer)


def padding_left(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer, changed so that it pads on the left, with a token that it has."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:  # in memory only; padding is masked, so which token it is does not matter
        substitutes = (tokenizer.eos_token, tokenizer.bos_token, tokenizer.unk_token)
        tokenizer.pad_token = next(filter(None, substitutes), None) or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


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
        if not hold_entry(folder):
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
            hold_entry(folder)
            trim_cache()
    source = ModelSource(name=str(folder), path=folder, origin={"kind": "folder"})
    metadata = describe_source(source)
    own = copy.deepcopy(tokenizer) if tokenizer is not None else load_tokenizer(source)
    return LoadedModel(padding_left(own), metadata.structure, source, metadata.model_hash, metadata.num_layers, model)


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
