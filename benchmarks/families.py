"""Which types of model layercut can cut: a tiny random model of every type, cut and compared.

    python benchmarks/families.py                      # all types of the installed transformers, some minutes
    python benchmarks/families.py gemma3 qwen3_next    # these alone
    python benchmarks/families.py --write              # also writes docs/reference/supported_models.md
    python benchmarks/families.py --widths             # whose MLPs it can thin

For each causal language model, and for the language model inside each one that also sees, it removes layers 1 and 3 of
6, or other ones where the type does not allow these. Four ways must agree: the layers skipped in place in the original
model, without a cache (the reference, which shares no code with the cut), a bypass, removal in memory, and a
checkpoint cut on disk and loaded again. Compared are logits of left-padded texts, and greedy text with the cache.
With ``--widths``, half of the MLP channels go instead: the logits of the thinner model must be those of the whole one
with zeros in the columns of these channels (the reference: nothing is sliced), and of the whole one afterwards.
Results are kept, one line a type, and the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, PretrainedConfig, PreTrainedModel, __version__
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.utils import logging as hf_logging

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.support
from layercut.cli.main import verb_command
from layercut.errors import InputError, one_line
from layercut.models.structure import SECTIONS, auto_class, blueprint_model, structure_in
from layercut.selection.channels import keep_needed_channels
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, decoder_layers, masked_channels, remove_layers
from layercut.surgery.verify import layers_skipped
from layercut.surgery.width import mlp_width_in
from tests.support.tiny import byte_tokenizer

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reference" / "supported_models.md"
NUM_LAYERS = 6
PLANS = ((1, 3), (3,), (1,), (4, 5), (5,), (2, 3), (2, 3, 4), (1, 2, 3, 4))
"""Removed layers; the first plan that the type allows is compared."""
LENGTHS = (5, 12, 20)
MOST_PARAMETERS = 6_000_000
SECONDS = 60
SPREAD = 0.15
PAD = 256

TEXT: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), 260),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "lru_width", "attn_hidden_size", "embedding_size"), 32),
    **dict.fromkeys(("projector_hidden_size", "dim_model", "embedding_dim", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(
        ("dense_intermediate_size", "dim_ff", "shared_intermediate_size", "moe_shared_intermediate_size"), 48
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"), NUM_LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads", "index_n_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "query_pre_attn_scalar", "index_head_dim", "dim_head"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts"), 2),
    **dict.fromkeys(("moe_num_shared_experts", "n_shared_experts", "n_group", "topk_group", "num_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 16),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_d_state", "mamba_head_dim", "ssm_state_size", "state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_n_groups", "n_groups"), 1),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank", "linear_num_value_heads"), 4),
    **dict.fromkeys(("sliding_window", "attention_window_size"), 8),
    "linear_num_key_heads": 2,
    "index_topk": 64,
    "first_k_dense_replace": 2,
    "num_kv_shared_layers": 0,
    "pad_token_id": PAD,
    "bos_token_id": 257,
    "eos_token_id": 259,
}
"""Sizes of the language model, by the names of config fields; each is used where a type has a field of that name."""
OTHER = {name: value for name, value in TEXT.items() if not name.endswith("token_id")} | {
    **dict.fromkeys(("num_hidden_layers", "depth", "num_layers", "encoder_layers", "n_layers"), 2),
    **dict.fromkeys(("embed_dim", "out_hidden_size", "projection_dim"), 32),
    **dict.fromkeys(("encoder_attention_heads",), 4),
    **dict.fromkeys(("encoder_ffn_dim",), 48),
    "image_size": 28,
    "patch_size": 14,
}
"""Sizes of the other parts."""

MLA = {"num_key_value_heads": 4}
"""Latent attention has as many key as query heads."""
ATTENTION = "full_attention"
MIXED = ["sliding_attention", ATTENTION, ATTENTION, "sliding_attention", "sliding_attention", ATTENTION]


LINEAR = {"layer_types": ["linear_attention", "linear_attention", ATTENTION] * 2}


def rope(**fields: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **fields}}


MROPE = rope(mrope_section=[2, 1, 1])
RECIPES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "minicpm3"), MLA),
    **dict.fromkeys(("sarvam_mla", "kimi_k2", "kimi_k25_text", "mistral_large4", "dots3_note_text"), MLA),
    **dict.fromkeys(("glm_moe_dsa", "glm5_next_text"), MLA),
    **dict.fromkeys(("glm4v_text", "glm46v_text", "glm4v_moe_text", "glm_ocr_text", "paddleocr_vl_text"), MROPE),
    **dict.fromkeys(("qwen2_vl_text", "qwen2_5_vl_text"), MROPE),
    "bamba": {"attn_layer_indices": [2, 5], "mamba_expand": 2},
    "granitemoehybrid": {"layer_types": ["mamba", "mamba", "attention", "mamba", "mamba", "attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "falcon_h1": {"mamba_d_ssm": 64},
    "lfm2_moe": {"layer_types": ["conv", "conv", ATTENTION, "conv", ATTENTION, "conv"], "num_dense_layers": 2},
    "dots1": {"n_shared_experts": 1},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]], "window_size": 8},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 32]},
    "zaya": {"num_experts_per_tok": 1},
    "youtu": {**MLA, "tie_word_embeddings": False},
    "big_bird": {"attention_type": "original_full"},
    "mllama_text_model": {"cross_attention_layers": [3]},
    "nemotron_h": {"layers_block_type": ["mamba", "moe", ATTENTION, "mamba", "moe", ATTENTION]},
    "bailing_hybrid": {**MLA, "num_local_experts": 8, "n_group": 2, "topk_group": 1, "layer_group_size": 3},
    "xlstm": {"num_blocks": NUM_LAYERS, "num_hidden_layers": NUM_LAYERS},
    "gemma4_text": {"hidden_size_per_layer_input": 0},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"), LINEAR),
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "cohere_compass_text": {
        "layer_types": MIXED,
        "rope_parameters": dict.fromkeys((ATTENTION, "sliding_attention"), rope()["rope_parameters"]),
    },
    "cpmant": {"prompt_types": 4, "prompt_length": 4, "segment_types": 4, "position_bias_num_buckets": 16},
    "kimi_linear": {**MLA, "linear_head_dim": 8, "linear_num_heads": 4},
    "roc_bert": dict.fromkeys(("shape_vocab_size", "pronunciation_vocab_size"), 64)
    | dict.fromkeys(("shape_embed_dim", "pronunciation_embed_dim"), 16)
    | {"pad_token_id": 0},
    "xmod": {"default_language": "en_XX", "languages": ["en_XX"]},
    "zamba2": {"layers_block_type": ["mamba", "mamba", "hybrid", "mamba", "mamba", "hybrid"], "n_mamba_heads": 8},
    "xlm": {"emb_dim": 32, "n_vocab": 260, "n_words": 260, "causal": True},
    "dbrx": {"attn_config": {"model_type": "", "kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}},
    "longcat_flash": {**MLA, "num_layers": NUM_LAYERS, "head_dim": 8, "zero_expert_num": 2},
    **dict.fromkeys(("glm4v_moe_text", "glmga_text"), rope(mrope_section=[1, 1, 0])),
    "hy_v4": {"indexer_types": ["full", "full", "shared", "full", "shared", "full"]},
    "glm_ocr_text": MROPE,
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [16, 16]},
    "mistral4": {**MLA, "head_dim": 16},
    **dict.fromkeys(("hunyuan_vl_text", "hy_v4_vl_text", "cosmos3_edge_text"), MROPE),
    "granite4_vision": {"deepstack_layer_map": {}},
    "phi4_multimodal": {"audio_config": {"hidden_size": 32, "nemo_conv_channels": 16}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", *["sparse"] * (NUM_LAYERS - 1)]},
}
"""What a type needs besides."""


def types() -> list[str]:
    """All types that a causal language model, or one that also sees, is registered for."""
    return sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES})


def tiny_config(model_type: str) -> PretrainedConfig:
    """A small config of a type with NUM_LAYERS decoder layers."""
    kind = CONFIG_MAPPING[model_type]
    base = kind()
    fields = {**_sized(base, TEXT), **RECIPES.get(model_type, {})}
    for name in getattr(kind, "sub_configs", None) or {}:
        part = getattr(base, name, None)
        if isinstance(part, PretrainedConfig):
            own = RECIPES.get(part.model_type, {})
            is_text = name in SECTIONS
            given = fields.get(name) or {}
            fields[name] = {"model_type": part.model_type, **_sized(part, TEXT if is_text else OTHER), **own, **given}
    if hasattr(base, "is_decoder"):
        fields["is_decoder"] = True
    return kind(**fields)


def _sized(config: PretrainedConfig, sizes: Mapping[str, Any]) -> dict[str, Any]:
    present = {*config.to_dict(), *vars(config)}
    return {name: value for name, value in sizes.items() if name in present}


def tiny_model(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A random model, drawn so that each layer has its own say in the logits."""
    refuse_large(config)
    torch.manual_seed(seed)
    model: PreTrainedModel = auto_class(config).from_config(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.dtype.is_floating_point:
                continue
            if parameter.dim() < 2 or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * SPREAD)
            else:
                parameter.normal_(std=SPREAD if "embed" in name else 2 * SPREAD)
    return model


def refuse_large(config: PretrainedConfig) -> None:
    """Raise ValueError for more than MOST_PARAMETERS."""
    parameters = dict(blueprint_model(config).named_parameters())
    if (size := sum(parameter.numel() for parameter in parameters.values())) > MOST_PARAMETERS:
        name, largest = max(parameters.items(), key=lambda pair: pair[1].numel())
        raise ValueError(f"the recipe gives {size:,} parameters; the largest is {name} {tuple(largest.shape)}")


def padded_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.full((len(LENGTHS), max(LENGTHS)), PAD)
    for row, length in zip(ids, LENGTHS, strict=True):
        row[-length:] = torch.randint(1, 250, (length,), generator=generator)
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@torch.no_grad()
def logits_of(model: PreTrainedModel) -> Tensor:
    batch = padded_batch()
    found: Tensor = model(**batch, use_cache=False).logits[batch["attention_mask"].bool()]
    return found.float()


@torch.no_grad()
def text_of(model: PreTrainedModel, *, use_cache: bool = True) -> list[list[int]]:
    batch = padded_batch()
    ids: Any = model.generate(  # type: ignore[operator]
        **batch, max_new_tokens=8, do_sample=False, use_cache=use_cache, eos_token_id=None, pad_token_id=PAD
    )
    return list(ids[:, batch["input_ids"].shape[1] :].tolist())


def compare(model_type: str) -> dict[str, Any]:
    """One type: what it is, and whether all ways agree."""
    found: dict[str, Any] = {"type": model_type, "transformers": __version__}
    try:
        config = tiny_config(model_type)
        model = tiny_model(config)
        structure = structure_in(model)
        whole = logits_of(model)
        text_of(model)
        stored = whole_of(model, config)
    except InputError as error:
        if "cannot build" in str(error):
            return found | {"state": "not built", "reason": one_line(error)}
        return found | {"state": "refused", "reason": one_line(error)}
    except Exception as error:  # the recipe does not fit: whatever transformers and torch raise then
        return found | {"state": "not built", "reason": f"{type(error).__name__}: {one_line(error)}"}
    found |= {"class": type(model).__name__, "layers": structure.layers}
    found["kinds"] = len({json.dumps(kind) for kind in _kinds(model)})
    if not bool(torch.isfinite(whole).all()):
        return found | {"state": "not built", "reason": "the tiny model's logits are not finite"}
    refusal = None
    for removed in PLANS:
        try:
            found |= {"removed": list(removed), "refused_plan": refusal}
            return found | _agree(model, stored, config, whole, removed)
        except InputError as error:
            refusal = refusal or one_line(error)
    return found | {"state": "refused", "reason": refusal}


def _kinds(model: PreTrainedModel) -> list[list[str]]:
    return [sorted({type(part).__name__ for part in layer.modules()}) for layer in decoder_layers(model)]


def whole_of(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    """The model as its checkpoint has it: around a language model loaded alone, what it leaves out."""
    if type(model.config) is type(config):
        return model
    torch.manual_seed(1)
    found: PreTrainedModel = AutoModelForImageTextToText.from_config(copy.deepcopy(config)).eval()
    with torch.no_grad():
        own = dict(model.named_parameters())
        for name, parameter in found.named_parameters():
            tail = name.replace("language_model.", "").replace("text_model.", "")
            if tail in own:
                parameter.copy_(own[tail])
    return found


def _agree(
    model: PreTrainedModel, stored: PreTrainedModel, config: PretrainedConfig, whole: Tensor, removed: tuple[int, ...]
) -> dict[str, Any]:
    plan = CutPlan(num_layers=NUM_LAYERS, removed=removed)
    ways: dict[str, Tensor] = {}
    with bypass(model, plan):
        ways["bypassed"] = logits_of(model)
        text = text_of(model)
        slow = text_of(model, use_cache=False)
    texts = {"bypassed": text}
    try:
        with layers_skipped(model, removed):
            expected = logits_of(model)
    except Exception as error:
        return {"state": "differs", "reason": f"no reference: {type(error).__name__}: {one_line(error)}"}
    cached_alike = text == slow or text_of(model) != text_of(model, use_cache=False)
    with tempfile.TemporaryDirectory() as folder:
        uncut, cut = Path(folder) / "uncut", Path(folder) / "cut"
        stored.save_pretrained(uncut)
        byte_tokenizer().save_pretrained(uncut)
        write_cut(uncut, removed, cut)
        with hf_quiet():
            reloaded, info = auto_class(config).from_pretrained(cut, output_loading_info=True)
        if missing := sorted(info["missing_keys"]) + sorted(map(str, info["mismatched_keys"])):
            return {"state": "differs", "reason": f"the reloaded model lacks {missing[0]}"}
        ways["reloaded"], texts["reloaded"] = logits_of(reloaded.eval()), text_of(reloaded)
    in_memory = remove_layers(copy.deepcopy(model), plan)
    ways["removed"], texts["removed"] = logits_of(in_memory), text_of(in_memory)
    scale = max(1.0, expected.abs().max().item())
    worst = {name: (logits - expected).abs().max().item() / scale for name, logits in ways.items()}
    wrong = [
        f"{name} differs from the layers skipped in place by {diff:.2g}"
        for name, diff in worst.items()
        if not diff < 1e-5
    ]
    wrong += [f"the text of the {name} model is another" for name, other in texts.items() if other != text]
    wrong += [] if cached_alike else ["cached text differs from text without the cache, as it does not in the original"]
    if torch.equal(expected, whole):
        wrong.append("removing the layers changes nothing, so that nothing is compared")
    return {"state": "differs", "reason": "; ".join(wrong)} if wrong else {"state": "equal", "reason": ""}


def compare_widths(model_type: str) -> dict[str, Any]:
    """One type: whether its MLPs are thinned right, and why not."""
    try:
        config = tiny_config(model_type)
        refuse_large(config)
        torch.manual_seed(0)
        model = auto_class(config).from_config(config, attn_implementation="eager").eval().float()
        try:
            state, reason = _agree_in_width(model, mlp_width_in(model))
        except InputError as error:
            state, reason = "refused", one_line(error)
    except Exception as error:  # of a tiny model that cannot be built, or that asks for pictures
        state, reason = "not built", f"{type(error).__name__}: {one_line(error)}"
    return {"type": model_type, "transformers": __version__, "state": state, "reason": reason}


@torch.no_grad()
def _agree_in_width(model: PreTrainedModel, mlp: Any) -> tuple[str, str]:
    drawn = torch.Generator().manual_seed(1)
    order = {layer: torch.randperm(mlp.mlps(layer) * mlp.width, generator=drawn).tolist() for layer in mlp.slots}
    plan = CutPlan(num_layers=len(decoder_layers(model)), channels=keep_needed_channels(mlp, order, 0.5))
    ids = torch.randint(5, 200, (2, 9), generator=drawn)
    before = model(input_ids=ids).logits
    with bypass(model, plan):
        thin = model(input_ids=ids).logits
    with masked_channels(model, plan):
        zeros = model(input_ids=ids).logits
    if not torch.equal(before, model(input_ids=ids).logits):
        return "not built", "two runs of the whole model differ"
    difference = float((thin - zeros).abs().max())
    if not difference < 1e-5 * max(1.0, float(before.abs().max())):
        return "differs", f"by {difference:.2g}"
    if torch.equal(thin, before):
        return "differs", "nothing changed"
    most = max(map(mlp.mlps, mlp.slots))
    return "equal", f"{mlp.field}, {len(mlp.slots)} of {NUM_LAYERS} layers{f', {most} experts' if most > 1 else ''}"


def write_cut(uncut: Path, removed: tuple[int, ...], out: Path) -> None:
    """Run ``layercut cut`` in this process. Raises InputError: it refuses the plan or the checkpoint."""
    layers = ",".join(map(str, removed))
    words = [str(uncut), "--remove", layers, "--out", str(out), "--dtype", "float32", "--device", "cpu"]
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        verb_command("cut")(words, standalone_mode=False)


@contextmanager
def hf_quiet() -> Iterator[None]:
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(50)
    hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(before)
        hf_logging.enable_progress_bar()


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Ends what takes more time of the processor with TimeoutError."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def walk_types(names: list[str], kept: Path, compare: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Results of all these types, from the file where it holds them."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    done = {one["type"]: one for one in map(json.loads, lines) if one["transformers"] == __version__}
    for number, name in enumerate(names):
        if name in done:
            continue
        start = time.perf_counter()
        try:
            with at_most(SECONDS), hf_quiet():
                done[name] = compare(name)
        except Exception as error:
            done[name] = {"type": name, "transformers": __version__, "state": "differs"}
            done[name]["reason"] = f"{type(error).__name__}: {one_line(error)}"
        done[name]["seconds"] = round(time.perf_counter() - start, 2)
        with kept.open("a", encoding="utf-8") as file:
            file.write(json.dumps(done[name]) + "\n")
        line = f"{name}: {done[name]['state']} {done[name]['reason'][:150]} ({number + 1} of {len(names)})"
        print(line, file=sys.stderr, flush=True)
    return [done[name] for name in names]


BEGIN, END = "<!-- types: generated -->", "<!-- end of types -->"


def page_of(found: list[dict[str, Any]]) -> str:
    """The generated part of docs/reference/supported_models.md."""
    states = {state: [one for one in found if one["state"] == state] for state in ("equal", "refused", "not built")}
    encoders = [one for one in states["refused"] if "is an encoder" in one["reason"]]
    refused = [one for one in states["refused"] if one not in encoders]
    pictures = [one for one in states["not built"] if "pixel_values" in one["reason"]]
    unbuilt = [one for one in states["not built"] if one not in pictures]
    others = [one for one in states["equal"] if one["removed"] != list(PLANS[0])]
    lines = [
        f"transformers {__version__} knows {len(found)} types of model that write text. "
        f"{len(states['equal'])} of them were cut and are equal. {len(refused)} decoders are refused. "
        f"{len(encoders)} have an encoder and are refused. "
        f"Of {len(unbuilt) + len(pictures)} no tiny model was built.",
        "",
        "**Equal.** " + ", ".join(f"`{one['type']}`" for one in states["equal"]) + ".",
        "",
        "Of some, layers 1 and 3 of the tiny model cannot be removed, and another plan was compared:",
        "",
        "| type | compared without layers | why not 1 and 3 |",
        "|---|---|---|",
        *(f"| `{one['type']}` | {_listed(one['removed'])} | {_cell(one['refused_plan'])} |" for one in others),
        "",
        "**Refused.**",
        "",
        "| type | reason |",
        "|---|---|",
        *(f"| `{one['type']}` | {_cell(one['reason'])} |" for one in refused),
        "",
        "**Encoders and encoder-decoders, refused.** " + ", ".join(f"`{one['type']}`" for one in encoders) + ".",
        "",
        "**Not built.** The recipe of the benchmark gives no tiny model of these, so nothing is known of them; a cut "
        "of a real one is compared all the same. "
        + ", ".join(f"`{one['type']}`" for one in pictures)
        + " write nothing without a picture.",
        "",
        "| type | reason |",
        "|---|---|",
        *(f"| `{one['type']}` | {_cell(one['reason'])} |" for one in unbuilt),
    ]
    return "\n".join(lines)


def _listed(layers: list[int]) -> str:
    return ", ".join(map(str, layers))


def _cell(text: str) -> str:
    """A reason as a cell of a table: short, and with nothing of the machine in it."""
    text = re.sub(r"/tmp/\S+/uncut", "the model", text).replace("|", "/").replace("<", "&lt;")
    return text if len(text) < 240 else f"{text[:237]}..."


def write_page(found: list[dict[str, Any]]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n\n{page_of(found)}\n\n{END}{after}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", help="types of model; all without")
    parser.add_argument("--results", type=Path, help="file of results; runs/families.jsonl or runs/widths.jsonl")
    parser.add_argument("--widths", action="store_true", help="thin the MLPs, and cut no layers")
    parser.add_argument("--write", action="store_true", help="write docs/reference/supported_models.md")
    options = parser.parse_args()
    names = options.types or types()
    torch.set_num_threads(1)
    results = options.results or ROOT / "runs" / ("widths.jsonl" if options.widths else "families.jsonl")
    found = walk_types(names, results, compare_widths if options.widths else compare)
    for one in found:
        print(f"{one['type']:28} {one['state']:10} {one['reason']}")
    for state, count in Counter(one["state"] for one in found).most_common():
        print(f"{count} {state}")
    if options.write:
        write_page(found)
    if any(one["state"] == "differs" for one in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
