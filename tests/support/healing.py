"""Records as ``layercut generate`` writes them, and tokenizers with the chat templates of several families."""

import copy
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerFast

from layercut.healing.examples import Data, encode_example, hold_out
from tests.support.tiny import CHATML, byte_tokenizer


class Template(NamedTuple):
    """A chat template as a family writes it, by hand and shortened."""

    text: str
    special: tuple[str, ...]
    """Its special tokens."""
    end: str
    """The token that ends an answer."""
    eos: str
    """The tokenizer's EOS: the same, or another one, which must not take its place."""


_OTHER = "<|pad|>"
TEMPLATES = {
    "chatml": Template(CHATML, (), "<|im_end|>", "<|im_end|>"),  # Qwen, SmolLM2
    "chatml-system": Template(  # Qwen2.5, SmolLM2: a system message where there is none
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are kind.<|im_end|>\n' }}{% endif %}"
        + CHATML,
        (), "<|im_end|>", _OTHER,
    ),
    "llama3": Template(
        "{% for m in messages %}{{ (bos_token if loop.first else '') + '<|start_header_id|>' + m['role'] + "
        "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), "<|eot_id|>", _OTHER,
    ),
    "mistral": Template(
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]", "</s>"), "</s>", "</s>",
    ),
    "gemma": Template(
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else"
        " m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", _OTHER,
    ),
    "phi3": Template(
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<|end|>", _OTHER,
    ),
    "zephyr": Template(  # its role markers are ordinary text
        "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
        ("</s>",), "</s>", "</s>",
    ),
    "tulu": Template(  # OLMo 2: the last answer has no line break behind it
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|assistant|>\n' + m['content'] + "
        "eos_token + ('' if loop.last else '\n') }}{% else %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '\n' }}"
        "{% endif %}{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
        ("<|endoftext|>",), "<|endoftext|>", "<|endoftext|>",
    ),
}  # fmt: skip
"""By family."""


def chat_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte tokenizer with a family's template."""
    template = TEMPLATES[family]
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.add_tokens(list(template.special), special_tokens=True)
    tokenizer.chat_template = template.text
    tokenizer.eos_token = template.eos
    return tokenizer


def record(name: str, prompt: str | list[dict[str, str]], completion: str, **more: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    made = {"id": name, "prompt": asked, "completion": completion, "finish_reason": "stop"}
    return made | {"num_prompt_tokens": 10, "num_new_tokens": len(completion)} | more


def tiny_records(count: int = 24) -> list[dict[str, Any]]:
    return [record(str(index), f"say {index}", f"number {index * 7}") for index in range(count)]


def tiny_data(count: int = 24, held_out: float = 0.2) -> Data:
    """For tiny models, whose tokenizer is the byte tokenizer."""
    return hold_out([encode_example(byte_tokenizer(), one) for one in tiny_records(count)], held_out, seed=1)


HEALING: dict[str, Any] = {"method": "lora", "objective": "sft", "removed": [2, 4], "responses": "self"}
HEALING |= {"teacher": "uncut", "teacher_hash": "a", "cut_hash": "b", "data_hash": "c", "selection_items": {}}
HEALING |= {"num_examples": 8, "num_held_out": 0, "loss_tokens": 64, "contaminated": 0, "too_long_with_prompt": 0}
HEALING |= {"checked": []}
"""The record of a healing, as it is before the training."""
