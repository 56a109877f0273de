"""A GGUF file cut to a GGUF file, run by llama.cpp and compared with transformers under the same plan.

    pip install xllamacpp
    python -m pytest --runslow tests/behaviour/test_gguf_cut.py

``LAYERCUT_GGUF=FILE`` has the quantised comparison run on that file as well.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

import layercut
from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from layercut.models.loading import LoadedModel, load_model
from layercut.surgery.plan import CutPlan, parse_layers
from layercut.surgery.remove import bypass

pytestmark = pytest.mark.slow
BUNDLED = "bundled:smollm2-135m"
NUM_TOKENS = 24
TOP = 20
PROMPTS = (
    "The capital of France is",
    "2 + 3 = 5\n12 + 30 =",
    "def add(a, b):\n",
    "<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture
def serve() -> Callable[[Path], Any]:
    """Loads a GGUF file in llama.cpp."""
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")

    def load(file: Path) -> Any:
        parameters = xllamacpp.CommonParams()
        parameters.model.path, parameters.n_ctx, parameters.warmup = str(file), 512, False
        parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
        return xllamacpp.Server(parameters)

    return load


def smollm2() -> Path:
    try:
        return bundled_file(bundled_model(BUNDLED))
    except InputError as error:
        pytest.skip(str(error))


def models() -> list[str]:
    return [BUNDLED, *([os.environ["LAYERCUT_GGUF"]] if "LAYERCUT_GGUF" in os.environ else [])]


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
def test_in_float32_llama_cpp_writes_what_transformers_writes(
    serve: Callable[[Path], Any], tmp_path: Path, removed: str
) -> None:
    whole = write_float32(smollm2(), tmp_path / "whole.gguf")
    loaded = load_model(str(whole), device="cpu", dtype="float32")
    server = serve(layercut.cut(str(whole), removed, tmp_path / "cut.gguf"))
    with bypass(loaded.model, CutPlan(num_layers=30, removed=parse_layers(removed))):
        for prompt in PROMPTS:
            inputs = loaded.tokenizer(prompt, return_tensors="pt")
            tokens = loaded.model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
            expected = loaded.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            answer = server.handle_completions({"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0})
            assert answer["choices"][0]["text"] == expected


@pytest.mark.parametrize("model", models())
def test_quantised_it_is_the_model_of_this_plan_and_of_no_other(
    serve: Callable[[Path], Any], tmp_path: Path, model: str
) -> None:
    """llama.cpp rounds activations to 8 bits, so texts part where two tokens are near. Log-probabilities do not."""
    if model == BUNDLED:
        smollm2()
    loaded = load_model(model, device="cpu", dtype="float32")
    middle = loaded.num_layers // 2
    server = serve(layercut.cut(model, f"{middle}", tmp_path / "cut.gguf", verify=False))
    found = [top_tokens(server, loaded.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    distance = {layer: distance_to(loaded, (layer,), found) for layer in (middle - 1, middle, middle + 1)}
    uncut = distance_to(loaded, (), found)
    print(f"{model}: {distance}, uncut {uncut}")
    assert distance[middle] < 0.5 * min(distance[middle - 1], distance[middle + 1], uncut)


def top_tokens(server: Any, tokens: list[int]) -> dict[int, float]:
    """Log-probabilities of the tokens that llama.cpp finds most likely next."""
    answer = server.handle_completions({"prompt": tokens, "max_tokens": 1, "temperature": 0, "n_probs": TOP})
    return {one["id"]: one["logprob"] for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}


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
