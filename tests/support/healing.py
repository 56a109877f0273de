"""Records as ``layercut generate`` writes them, and tokenizers with the chat templates of several families."""

from __future__ import annotations

import copy
from typing import Any

from transformers import PreTrainedTokenizerFast

from layercut.healing.examples import Data, encode_example, hold_out
from tests.support.tiny import CHATML, byte_tokenizer

TEMPLATES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "chatml": (CHATML, (), "<|im_end|>"),
    "llama3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
        " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + m['content'] | trim + '</s>' }}{% endif %}{% endfor %}",
        ("[INST]", "[/INST]", "</s>"),
        "</s>",
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else"
        " m['role']) + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        ("<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
    ),
}
"""Per family: a template like its own, the special tokens it writes, and the one that ends an answer."""


def chat_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte tokenizer with a family's template; its EOS token is another than the one that ends a turn."""
    template, special, _ = TEMPLATES[family]
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.chat_template = template
    if family != "chatml":
        tokenizer.eos_token = "<|pad|>"
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
