"""Tiny random models of every family and a byte tokenizer: offline, a few hundred kilobytes, seconds to run.

The weights are drawn wide (``SPREAD``), else random models repeat one token and a broken cache goes unseen. Sliding
windows are short and layer kinds are mixed, so that a kind on the wrong layer changes the logits of a short text.
"""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

NUM_LAYERS = 6
SPREAD = 0.15
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|pad|>", "<|bos|>", "<|im_start|>", "<|im_end|>")

_COMMON = {
    "vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": NUM_LAYERS, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": SPREAD,
    "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 259, "tie_word_embeddings": False,
}  # fmt: skip
_MIXED = [f"{kind}_attention" for kind in ("sliding", "full", "full", "sliding", "sliding", "full")]
_WINDOW = {"sliding_window": 8, "layer_types": _MIXED}
_MOE = {"num_experts_per_tok": 2}

CONFIGS: dict[str, dict[str, object]] = {
    "llama": _COMMON | {"tie_word_embeddings": True},
    "mistral": _COMMON | {"sliding_window": 8},
    "qwen2": _COMMON | _WINDOW | {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3": _COMMON | _WINDOW | {"use_sliding_window": True, "max_window_layers": 3},
    "gemma2": _COMMON | _WINDOW | {"query_pre_attn_scalar": 8},
    "gemma3_text": _COMMON | _WINDOW | {"query_pre_attn_scalar": 8},
    "olmo2": _COMMON,
    "olmo3": _COMMON | _WINDOW,
    "phi3": _COMMON | {"sliding_window": 8},
    "gpt_neox": _COMMON,
    "gpt2": {
        "vocab_size": 260, "n_embd": 32, "n_inner": 48, "n_layer": NUM_LAYERS, "n_head": 4, "n_positions": 512,
        "initializer_range": SPREAD, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 259,
    },
    "mixtral": _COMMON | _MOE | {"num_local_experts": 4},
    "qwen3_moe": _COMMON
    | _MOE
    | {"num_experts": 4, "moe_intermediate_size": 16, "decoder_sparse_step": 2, "mlp_only_layers": [3]},
}  # fmt: skip


@cache
def byte_tokenizer(*, joins: bool = False) -> PreTrainedTokenizerFast:
    """One token a byte (ids 0-255 in the byte-level alphabet's order), four special tokens, a ChatML template.

    Args:
        joins: a quote and a line break are one token, as in the tokenizer of Qwen2.5; it takes the id of
            a byte that no text has.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate([*alphabet, *SPECIAL])}
    if joins:
        vocab['"\u010a'] = vocab.pop(alphabet[-1])
    core = Tokenizer(models.BPE(vocab=vocab, merges=[('"', "\u010a")] if joins else []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    pad, bos, _, end = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, bos_token=bos, eos_token=end, additional_special_tokens=[SPECIAL[2]]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


def tiny_model(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model in eval mode; the same weights for the same seed."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **CONFIGS[model_type])
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:  # they start at one or zero; move them, so that each layer has its own
                parameter.add_(torch.randn_like(parameter) * SPREAD)
            elif "embed" in name or "wte" in name or "wpe" in name:
                parameter.normal_(std=SPREAD)  # narrow: the layers, not the last token, decide the next one
            else:
                parameter.normal_(std=3 * SPREAD)
    return model


def save_tiny(model_type: str, path: Path, seed: int = 0, max_shard_size: str = "50GB") -> Path:
    """Write a tiny model with its tokenizer as an ordinary checkpoint."""
    tiny_model(model_type, seed).save_pretrained(path, max_shard_size=max_shard_size)
    byte_tokenizer().save_pretrained(path)
    return path
