"""Tiny random models of several architectures, cut as GGUF files and run by llama.cpp: the layers keep their kinds.

    pip install xllamacpp
    python -m pytest --runslow tests/behaviour/test_gguf_architectures.py

llama.cpp takes the kind of a layer from its position. Where layercut accepts a plan, llama.cpp has to compute what
transformers computes under it, on a text longer than the window.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from layercut.errors import InputError
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings
from layercut.surgery import gguf_metadata
from layercut.surgery.gguf import cut_gguf_file
from tests.support.tiny_gguf import TINY, build, write
from tests.unit.models.gguf_maker import TOKENS

pytestmark = pytest.mark.slow
ROUNDING = 0.02
"""llama.cpp keeps keys and values in float16."""
TEXT = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(0))


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
    done = cut_gguf_file(settings, LayerSpec.parse(plan).bind, whole, out, verify=False)
    return done.plan.removed


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
