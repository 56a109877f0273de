"""A model without its weights, for engines that read the weights themselves, such as vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from layercut.errors import CheckpointError, one_line
from layercut.models.checks import refuse_foreign_tokens, refuse_no_window
from layercut.models.loading import context_length_of, load_tokenizer
from layercut.models.placement import pick_dtype
from layercut.models.sources import ModelSource, describe_source
from layercut.models.structure import Structure
from layercut.models.weights import stored_tensors

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}  # safetensors' names of what models compute in


@dataclass(frozen=True)
class WeightlessModel:
    """A model that is not in memory, and its tokenizer, which is."""

    tokenizer: PreTrainedTokenizerBase
    generation_config: GenerationConfig
    structure: Structure
    source: ModelSource
    model_hash: str  # first 16 hex digits of the checkpoint's fingerprint
    num_layers: int  # decoder layers of the original model
    context_length: int | None  # tokens that the model takes, by its config; None where the config names no limit
    dtype: str  # the dtype to compute in: ``float32``, ``bfloat16`` or ``float16``
    trust_remote_code: bool = False

    @property
    def name(self) -> str:
        """The model as it was named."""
        return self.source.name

    @property
    def has_chat_template(self) -> bool:
        """True if conversations can be rendered for it."""
        return bool(self.tokenizer.chat_template)


def load_without_weights(
    source: ModelSource, *, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> WeightlessModel:
    """Read everything but the weights.

    Args:
        source: what ``resolve`` gave.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: the checkpoint's own, float32 on a CPU; see
            ``pick_dtype``.
        device: where it will be.
        trust_remote_code: let the model's repository run its own code.

    Raises:
        InputError: a dtype or device that is not known, or no decoder.
        CheckpointError: a config or tokenizer that cannot be read.
    """
    from transformers import AutoConfig, GenerationConfig

    dtype = pick_dtype(source.path, dtype, device=device)
    metadata = describe_source(source)
    try:
        config = AutoConfig.from_pretrained(source.path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises all kinds, for reasons that lie in the file
        raise CheckpointError(f"{source.name} cannot be loaded by transformers: {one_line(error)}") from error
    refuse_no_window(config, source.name)
    try:
        generation_config = GenerationConfig.from_pretrained(source.path)
    except OSError:  # not every checkpoint has one; transformers then does the same
        generation_config = GenerationConfig.from_model_config(config)
    tokenizer = load_tokenizer(source, trust_remote_code)
    refuse_foreign_tokens(tokenizer, config.get_text_config(decoder=True).vocab_size, source.name)
    return WeightlessModel(
        tokenizer=tokenizer,
        generation_config=generation_config,
        structure=metadata.structure,
        source=source,
        model_hash=metadata.model_hash,
        num_layers=metadata.num_layers,
        context_length=context_length_of(config),
        dtype=_own_dtype(config, source) if dtype == "auto" else dtype,
        trust_remote_code=trust_remote_code,
    )


def _own_dtype(config: PretrainedConfig, source: ModelSource) -> str:
    """The dtype to run a checkpoint in: as its config says, else as its first floating-point tensor is stored."""
    named = getattr(config.get_text_config(decoder=True), "dtype", None)
    if named is not None:
        return str(named).removeprefix("torch.")
    stored = (tensor.entry.dtype for tensor in stored_tensors(source.path))
    return next((_STORED[dtype] for dtype in stored if dtype in _STORED), "float32")
