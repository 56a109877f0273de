"""Tiny random models of several architectures, written as GGUF files the way llama.cpp's converter does."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.support.tiny import CHATML
from tests.unit.models.gguf_maker import BOS, END, MERGES, PAD, TOKENS

WINDOW, HEADS, HEADS_KV, SIZE = 8, 4, 2, 32
COMMON: dict[str, Any] = {
    "vocab_size": len(TOKENS) + len(MERGES), "hidden_size": HEADS * SIZE, "intermediate_size": 96, "head_dim": SIZE,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS_KV, "max_position_embeddings": 512,
    "initializer_range": 0.15, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 259,
    "tie_word_embeddings": True,
}  # fmt: skip
IN_WINDOW = {"sliding_window": WINDOW}
KEPT_WINDOW = {"attention.sliding_window": WINDOW}


class Tiny(NamedTuple):
    model_type: str
    config: dict[str, Any]
    keys: dict[str, Any]
    """Metadata of this architecture alone."""
    depth: int
    fine: tuple[str, ...]
    """Plans that are accepted."""
    wrong: str
    """A plan that is refused, and that llama.cpp would compute otherwise; empty where there is none."""
    permuted: bool = False
    """Queries and keys are stored with their rotary halves interleaved."""


TINY = {
    "llama": Tiny("llama", {}, {}, 4, ("1", "0,2"), "", permuted=True),
    "qwen2": Tiny("qwen2", {}, {}, 4, ("1",), ""),
    "qwen3": Tiny("qwen3", {}, {}, 4, ("0", "1,3"), ""),
    "gemma2": Tiny(
        "gemma2", IN_WINDOW | {"query_pre_attn_scalar": SIZE},
        KEPT_WINDOW | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}, 6, ("5", "2-3", "1-2"), "2",
    ),
    "gemma3": Tiny(
        "gemma3_text", IN_WINDOW | {"query_pre_attn_scalar": SIZE}, KEPT_WINDOW | {"rope.freq_base": 1e6}, 14,
        ("0-5", "12", "11-13"), "1",
    ),
    "cohere2": Tiny(
        "cohere2", IN_WINDOW | {"logit_scale": 0.25},
        KEPT_WINDOW | {"logit_scale": 0.25, "attention.layer_norm_epsilon": 1e-5}, 9, ("8", "0-3"), "3",
    ),
    "olmo2": Tiny("olmo3", IN_WINDOW | {"tie_word_embeddings": False}, KEPT_WINDOW, 8, ("0-3", "6-7"), "3"),
    "smollm3": Tiny("smollm3", {}, {}, 8, ("0-3", "6-7"), "1", permuted=True),
}  # fmt: skip


def build(tiny: Tiny, **more: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(tiny.model_type, **{**COMMON, "num_hidden_layers": tiny.depth, **tiny.config, **more})
    model = AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1) if "norm" not in name else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def rope_theta(model: PreTrainedModel) -> float:
    """Of the layers without a window, where there are two."""
    found: dict[str, Any] = model.config.rope_parameters
    return float(found.get("full_attention", found)["rope_theta"])


def write(
    model: PreTrainedModel, name: str, tiny: Tiny, path: Path, kinds: Mapping[str, gguf.GGMLQuantizationType] = {}
) -> Path:
    """The model as llama.cpp's converter writes it, in float32 or with some tensors, by the end of their names, of
    another type.
    """
    writer = gguf.GGUFWriter(path, name)
    own = {
        "context_length": 512,
        "embedding_length": model.config.hidden_size,
        "block_count": model.config.num_hidden_layers,
        "feed_forward_length": model.config.intermediate_size,
        "attention.head_count": model.config.num_attention_heads,
        "attention.head_count_kv": model.config.num_key_value_heads,
        "attention.key_length": SIZE,
        "attention.value_length": SIZE,
        "attention.layer_norm_rms_epsilon": float(getattr(model.config, "rms_norm_eps", 1e-6)),
        "rope.freq_base": rope_theta(model),
        "rope.dimension_count": SIZE,
        "vocab_size": COMMON["vocab_size"],
        **tiny.keys,
    }
    for key, value in own.items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(f"{name}.{key}", value)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*TOKENS, *("".join(pair) for pair in MERGES)])
    writer.add_token_types([1] * 256 + [3] * 4 + [1] * 2)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_chat_template(CHATML)
    for key, token in (("bos", BOS), ("eos", END), ("padding", PAD)):
        writer.add_uint32(f"tokenizer.ggml.{key}_token_id", token)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    architecture = next(arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name)
    names = gguf.get_tensor_name_map(architecture, tiny.depth)
    for old, tensor in model.state_dict().items():
        if old == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        new = names.get_name(old, try_suffixes=(".weight", ".bias"))
        assert new is not None, old
        values = tensor.numpy()
        if "norm" in old and name in ("gemma2", "gemma3"):
            values = values + 1
        if tiny.permuted and re.search(r"[qk]_proj\.weight$", old):
            rows = values.reshape(len(values) // SIZE, 2, -1, values.shape[1])
            values = rows.swapaxes(1, 2).reshape(values.shape)
        values = np.ascontiguousarray(values)
        kind = next((kind for end, kind in kinds.items() if new.endswith(end)), None)
        writer.add_tensor(new, values if kind is None else gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
