"""Skipped in place = bypassed = removed = cut on disk and loaded again, for one type of each structural kind.

The slow test goes through every type of the installed transformers.
"""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.families import NUM_LAYERS, compare, hf_quiet, tiny_config, types, walk_types
from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.models.loading import load_model
from layercut.models.sources import resolve_source
from layercut.surgery.cut import cut_model
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions, log_likelihoods
from tests.support.tiny import byte_tokenizer

KINDS = {
    "cohere": "a plain stack that is named nowhere",
    "opt": "learned positions",
    "bloom": "alibi",
    "gpt_oss": "attention sinks, windows and experts",
    "deepseek_v3": "latent attention, dense layers below experts",
    "llama4": "chunks, layers without rotary embedding, experts by period",
    "qwen3_next": "linear and full attention",
    "mamba": "a recurrent state alone",
    "rwkv": "states that are halved every few layers",
    "jamba": "kinds by period, without a list",
    "nemotron_h": "a list of kinds that also counts the layers",
    "recurrent_gemma": "a pattern that is repeated",
    "longcat_flash": "two places in the cache a layer",
    "gemma3": "a language model in a model that sees",
    "qwen3_5": "a language model that is loaded without its eyes",
    "gemma4_unified_text": "settings of single layers",
    "qwen2_5_vl": "positions in three dimensions",
}


@pytest.mark.parametrize("model_type", KINDS)
def test_all_ways_agree(model_type):
    with hf_quiet():
        found = compare(model_type)
    assert (found["state"], found["reason"]) == ("equal", "")


@pytest.mark.slow
def test_no_type_differs_and_most_are_equal(tmp_path):
    found = walk_types(types(), tmp_path / "families.jsonl", compare)
    assert [one for one in found if one["state"] == "differs"] == []
    assert sum(one["state"] == "equal" for one in found) >= 120


@pytest.mark.parametrize("model_type", ["gemma3", "qwen3_5", "mistral3", "qwen3_vl"])
def test_what_is_not_the_language_model_travels_byte_for_byte(model_type, tmp_path):
    """The whole way: found, loaded, cut, verified, loaded again and asked."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(tiny_config(model_type))
    model.save_pretrained(tmp_path / "uncut")
    byte_tokenizer().save_pretrained(tmp_path / "uncut")
    plan = CutPlan(num_layers=NUM_LAYERS, removed=(1, 3))
    source = resolve_source(str(tmp_path / "uncut"))
    done = cut_model(source, plan, tmp_path / "cut", uncut=lambda: load_model(source, device="cpu"))
    assert "by at most 0 (float32" in done.verified
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("uncut", "cut"))
    tower = {name for name in before if "visual" in name or "vision" in name or "projector" in name}
    assert tower
    assert all(torch.equal(before[name], after[name]) for name in tower)
    cut = load_model(str(tmp_path / "cut"), device="cpu")
    assert cut.num_layers == NUM_LAYERS - 2
    engine = PlainEngine(cut)
    asked = GenerationRequest(id="a", prompt="one two", max_new_tokens=3)
    scored = LikelihoodRequest(id="b", prompt="one", continuations=(" two", " three"))
    uncut = CutPlan(num_layers=NUM_LAYERS - 2)
    assert len(next(iter(completions(engine, [asked], uncut, Decoding())))) == 1
    assert len(next(iter(log_likelihoods(engine, [scored], uncut)))[0].log_likelihoods) == 2
