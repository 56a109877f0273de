"""Tiny random models of several architectures, cut as GGUF files and run by llama.cpp: the layers keep their kinds.

    pip install xllamacpp
    python -m pytest --runslow tests/behaviour/test_gguf_architectures.py

llama.cpp takes the kind of a layer from its position. Where layercut accepts a plan, llama.cpp has to compute what
transformers computes under it, on a text longer than the window.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from layercut.errors import InputError
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings
from layercut.surgery import gguf_metadata
from layercut.surgery.gguf import cut_gguf
from tests.unit.models.gguf_maker import MERGES, TOKENS

pytestmark = pytest.mark.slow
WINDOW, HEADS, HEADS_KV, SIZE = 8, 4, 2, 32
ROUNDING = 0.02
"""llama.cpp keeps keys and values in float16."""
TEXT = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(0))
COMMON: dict[str, Any] = {
    "vocab_size": len(TOKENS) + len(MERGES),
    "hidden_size": HEADS * SIZE,
    "intermediate_size": 96,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS_KV,
    "head_dim": SIZE,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "pad_token_id": 256,
    "bos_token_id": 257,
    "eos_token_id": 259,
    "tie_word_embeddings": True,
}


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
        "gemma2",
        {"sliding_window": WINDOW, "query_pre_attn_scalar": SIZE},
        {"attention.sliding_window": WINDOW, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        6,
        ("5", "2-3", "1-2"),
        "2",
    ),
    "gemma3": Tiny(
        "gemma3_text",
        {"sliding_window": WINDOW, "query_pre_attn_scalar": SIZE},
        {"attention.sliding_window": WINDOW, "rope.freq_base": 1e6},
        14,
        ("0-5", "12", "11-13"),
        "1",
    ),
    "cohere2": Tiny(
        "cohere2",
        {"sliding_window": WINDOW, "logit_scale": 0.25},
        {"attention.sliding_window": WINDOW, "logit_scale": 0.25, "attention.layer_norm_epsilon": 1e-5},
        9,
        ("8", "0-3"),
        "3",
    ),
    "olmo2": Tiny(
        "olmo3",
        {"sliding_window": WINDOW, "tie_word_embeddings": False},
        {"attention.sliding_window": WINDOW},
        8,
        ("0-3", "6-7"),
        "3",
    ),
    "smollm3": Tiny("smollm3", {}, {}, 8, ("0-3", "6-7"), "1", permuted=True),
}


@pytest.mark.parametrize("name", TINY)
def test_accepted_plans_keep_what_the_layers_compute(tmp_path: Path, name: str, monkeypatch: Any) -> None:
    tiny = TINY[name]
    model = build(tiny)
    whole = write(model, name, tiny, tmp_path / "whole.gguf")
    assert distance(whole, model, ()) < ROUNDING
    for number, plan in enumerate(tiny.fine):
        file = tmp_path / f"{number}.gguf"
        assert distance(file, model, cut(whole, plan, file)) < ROUNDING, plan
    if not tiny.wrong:
        return
    with pytest.raises(InputError, match="by its position"):
        cut(whole, tiny.wrong, tmp_path / "wrong.gguf")
    monkeypatch.setattr(gguf_metadata, "_check_periods", lambda *_: None)
    removed = cut(whole, tiny.wrong, tmp_path / "wrong.gguf")
    assert distance(tmp_path / "wrong.gguf", model, removed) > 5 * ROUNDING


def cut(whole: Path, plan: str, out: Path) -> tuple[int, ...]:
    settings = ModelSettings(model=str(whole))
    done = cut_gguf(settings, LayerSpec.parse(plan).bind, whole, out, verify=False)
    return done.report.plan.removed


def build(tiny: Tiny) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(tiny.model_type, **{**COMMON, "num_hidden_layers": tiny.depth, **tiny.config})
    model = AutoModelForCausalLM.from_config(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1) if "norm" not in name else parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def rope_theta(model: PreTrainedModel) -> float:
    """Of the layers without a window, where there are two."""
    found: dict[str, Any] = model.config.rope_parameters
    return float(found.get("full_attention", found)["rope_theta"])


def write(model: PreTrainedModel, name: str, tiny: Tiny, path: Path) -> Path:
    """The model as llama.cpp's converter writes it, in float32."""
    writer = gguf.GGUFWriter(path, name)
    own = {
        "context_length": 512,
        "embedding_length": HEADS * SIZE,
        "block_count": tiny.depth,
        "feed_forward_length": COMMON["intermediate_size"],
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS_KV,
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
            rows = values.reshape(HEADS if "q_proj" in old else HEADS_KV, 2, -1, values.shape[1])
            values = rows.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(new, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def without(model: PreTrainedModel, removed: tuple[int, ...]) -> PreTrainedModel:
    """A copy whose layers were deleted by hand."""
    model = copy.deepcopy(model)
    decoder: Any = model.model
    kept = [number for number in range(len(decoder.layers)) if number not in removed]
    decoder.layers = torch.nn.ModuleList(decoder.layers[number] for number in kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[number] for number in kept]
    for position, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = position
    return model


@torch.no_grad()
def distance(file: Path, model: PreTrainedModel, removed: tuple[int, ...]) -> float:
    """Largest difference of the next token's log-probabilities between llama.cpp and transformers, in nats."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(file), 256, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    asked = {"prompt": TEXT[0].tolist(), "max_tokens": 1, "temperature": 0, "n_probs": 20}
    a_letter = [[TOKENS.index("h"), 1000.0]]  # of half a character nothing is reported; probabilities are those before
    choice = server.handle_completions(asked | {"logit_bias": a_letter})["choices"][0]
    found = choice["logprobs"]["content"][0]["top_logprobs"]
    own_V = torch.log_softmax(without(model, removed)(TEXT, use_cache=False).logits[0, -1].float(), -1)
    return max(abs(own_V[one["id"]].item() - one["logprob"]) for one in found)
