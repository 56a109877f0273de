from __future__ import annotations

import pytest

from layercut.errors import InputError
from layercut.healing.examples import IGNORED, encode_example, hold_out
from tests.support.healing import TEMPLATES, chat_tokenizer, record, tiny_records
from tests.support.tiny import byte_tokenizer


@pytest.mark.parametrize("family", TEMPLATES)
def test_the_loss_is_on_the_answer_and_its_end_of_turn_and_on_nothing_else(family: str) -> None:
    tokenizer, end = chat_tokenizer(family), TEMPLATES[family].end
    turns = [
        {"role": "user", "content": "Capital of Italy?"},
        {"role": "assistant", "content": "Rome"},
        {"role": "user", "content": "Of France?"},
    ]
    answer = " Paris" if family == "mistral" else "Paris"  # as the model writes it after [/INST]
    example = encode_example(tokenizer, record("a", turns, answer))

    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(example.prompt) == rendered
    assert tokenizer.decode(example.completion) == answer + end
    assert example.labels == [IGNORED] * len(example.prompt) + list(example.completion)
    assert len(example.labels) == len(example.input_ids)
    # Together they are what the template itself makes of the whole conversation, up to the end of the turn.
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "Paris"}], tokenize=False)
    assert whole.startswith(tokenizer.decode(example.input_ids))
    left = whole.removeprefix(tokenizer.decode(example.input_ids)).strip()
    assert left in ("", tokenizer.eos_token), "phi3 ends a conversation that is over once more"
    assert example.completion[-1] == tokenizer.convert_tokens_to_ids(end), "one token, not its letters"
    assert tokenizer(whole, add_special_tokens=False)["input_ids"][: len(example)] == example.input_ids


def test_words_of_the_prompt_in_the_answer_do_not_move_the_mask() -> None:
    tokenizer = byte_tokenizer()
    example = encode_example(tokenizer, record("a", "Say <|im_start|>assistant\nhello", "<|im_start|>assistant\nhello"))
    assert tokenizer.decode(example.prompt).count("hello") == 1
    assert tokenizer.decode(example.completion) == "<|im_start|>assistant\nhello<|im_end|>"


def test_an_answer_that_ran_into_the_limit_has_no_end() -> None:
    example = encode_example(byte_tokenizer(), record("a", "Count", "1 2 3", finish_reason="length"))
    assert byte_tokenizer().decode(example.completion) == "1 2 3"


def test_plain_prompts_end_with_their_stop_string_or_eos() -> None:
    tokenizer = byte_tokenizer()
    stopped = encode_example(tokenizer, {"id": "a", "prompt": "2 + 3 =", "completion": " 5", "stop": ["\n", "Q"]})
    assert tokenizer.decode(stopped.completion) == " 5\n"
    free = encode_example(tokenizer, {"id": "a", "prompt": "2 + 3 =", "completion": " 5"})
    assert tokenizer.decode(free.completion) == " 5<|im_end|>"


def test_held_out_examples_follow_the_seed_and_not_the_order() -> None:
    examples = [encode_example(byte_tokenizer(), one) for one in tiny_records(20)]
    one, other = hold_out(examples, 0.1, 42), hold_out(examples[::-1], 0.1, 42)
    assert {e.id for e in one.held_out} == {e.id for e in other.held_out}
    assert len(one.held_out) == 2
    assert not {e.id for e in one.held_out} & {e.id for e in one.train}
    assert hold_out(examples, 0, 42).held_out == []
    with pytest.raises(InputError, match="no examples are left"):
        hold_out([], 0.1, 42)
