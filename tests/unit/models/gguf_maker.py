"""Write the tiny Llama as a GGUF file, the way llama.cpp's converter does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers import pre_tokenizers

from tests.support.tiny import CHATML, CONFIGS, SPECIAL, tiny_model

_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers": "blk",
}  # fmt: skip
MERGES = (("Ġ", "Ġ"), ("Ċ", "Ġ"))
TOKENS = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *SPECIAL]
PAD, BOS, START, END = range(256, 260)


def write_gguf(
    path: Path,
    *,
    leave_out: str | None = None,
    kept: Sequence[int] = range(6),
    alignment: int = 32,
    size_label: str | None = None,
    **metadata: Any,
) -> Path:
    """The tiny Llama with two merges, of which only some layers are kept.

    ``metadata`` sets keys that begin with ``tokenizer.ggml.``, or leaves them out where None.
    """
    config = CONFIGS["llama"]
    writer = gguf.GGUFWriter(path, "llama")
    if alignment != 32:
        writer.add_custom_alignment(alignment)
    writer.add_name("Tiny")
    if size_label is not None:
        writer.add_size_label(size_label)
    writer.add_license("apache-2.0")
    sizes = {"context_length": 512, "embedding_length": 32, "block_count": len(kept), "feed_forward_length": 48}
    sizes |= {"head_count": 4, "head_count_kv": 2, "layer_norm_rms_eps": 1e-6, "rope_freq_base": 10000.0}
    for key, value in (sizes | {"rope_dimension_count": 8, "vocab_size": 262}).items():
        getattr(writer, f"add_{key}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*TOKENS, *("".join(pair) for pair in MERGES)])
    writer.add_token_types([1] * 256 + [3] * 4 + [1] * 2)
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_chat_template(CHATML)
    defaults = {"pre": "smollm", "bos_token_id": BOS, "eos_token_id": END, "padding_token_id": PAD}
    defaults["add_bos_token"] = False
    for key, value in {**defaults, **metadata}.items():
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, type(None): lambda *_: None}
        add[type(value)](f"tokenizer.ggml.{key}" if key != "split_count" else "split.count", value)
    for name, tensor in tiny_weights().items():
        layer = re.search(r"layers\.(\d+)\.", name)
        if name in ("lm_head.weight", leave_out) or (layer and int(layer[1]) not in kept):
            continue
        if layer:
            name = name.replace(layer[0], f"layers.{list(kept).index(int(layer[1]))}.")
        if "q_proj" in name:
            tensor = _permuted(tensor, int(str(config["num_attention_heads"])))
        if "k_proj" in name:
            tensor = _permuted(tensor, int(str(config["num_key_value_heads"])))
        for old, new in _NAMES.items():
            name = name.replace(old, new)
        if name.endswith("ffn_gate.weight"):  # one kind of tensor is quantised, as in real files
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_weights() -> dict[str, np.ndarray]:
    """The tiny Llama's weights with rows for the two merged tokens."""
    weights = {name: tensor.detach().float().numpy() for name, tensor in tiny_model("llama").state_dict().items()}
    table = weights["model.embed_tokens.weight"]
    weights["model.embed_tokens.weight"] = np.concatenate([table, 0.5 * table[:2]])
    return weights


def _permuted(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """Llama's rotary halves interleaved, as ggml wants them."""
    rows = weights.reshape(num_heads, 2, -1, weights.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(weights.shape))
