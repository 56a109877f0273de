from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from layercut.engine.base import GenerationRequest
from layercut.engine.rows import GenerationRow
from layercut.engine.sampling import Next
from layercut.engine.stopping import Answer, RowStops, end_of_turn, stop_tokens
from tests.support.tiny import byte_tokenizer

PAD, BOS, START, END = 256, 257, 258, 259


def ids(text: str) -> list[int]:
    return list(byte_tokenizer()(text)["input_ids"])


def decode(tokens: Sequence[int]) -> str:
    return str(byte_tokenizer().decode(list(tokens), skip_special_tokens=True))


def answer(*stop: str, limit: int = 100) -> Answer:
    request = GenerationRequest(id="a", prompt="", max_new_tokens=limit, stop=stop)
    return Answer(GenerationRow(request, (), limit), (END,), decode)


def end(tokens: list[int], *stop: str, limit: int = 100) -> tuple[str, str, int]:
    """Whatever would come after the end is not taken."""
    taken = answer(*stop, limit=limit)
    assert any(taken.add(Next(token)) for token in tokens)
    completion = taken.completion()
    assert list(completion.tokens) == tokens[: completion.num_new_tokens]
    return completion.text, completion.finish_reason, completion.num_new_tokens


def test_an_answer_ends_at_its_limit() -> None:
    assert end(ids("abcdef"), limit=4) == ("abcd", "length", 4)


def test_a_stop_token_counts_and_leaves_no_text() -> None:
    assert end([*ids("ab"), END, PAD, PAD]) == ("ab", "stop", 3)
    assert end([END, PAD]) == ("", "stop", 1)


def test_a_stop_token_beyond_the_limit_does_not_count() -> None:
    assert end([*ids("ab"), END], limit=2) == ("ab", "length", 2)


def test_a_stop_string_ends_the_answer_before_it_and_counts_to_its_last_token() -> None:
    assert end(ids("5\nQuestion: 7"), "\nQ") == ("5", "stop", 3)
    assert end([*ids("5\nQ"), PAD, PAD, PAD], "\nQ") == ("5", "stop", 3)


def test_the_stop_string_that_is_complete_first_decides() -> None:
    assert end(ids("abcde"), "abcd", "bc") == ("a", "stop", 3)
    assert end(ids("abcde"), "bcd", "cd") == ("a", "stop", 4), "completed together: before the earlier one"


def test_a_stop_token_before_a_stop_string_decides() -> None:
    assert end([*ids("ab"), END, *ids("cd")], "cd") == ("ab", "stop", 3)


def test_a_stop_string_beyond_the_limit_does_not_count() -> None:
    assert end(ids("abcd"), "cd", limit=3) == ("abc", "length", 3)


def test_a_character_of_several_tokens_counts_when_it_is_whole() -> None:
    assert len(ids("→")) == 3
    assert end(ids("x→y"), "→") == ("x", "stop", 4)


def test_rows_end_for_themselves() -> None:
    rows = [ids("xxab"), ids("xxac"), ids("xxad"), ids("abxx")]
    stops = RowStops([answer("ab"), answer(limit=2), answer("ab"), answer("ab")], 2)
    assert stops(torch.tensor(rows), None).tolist() == [True, True, False, False], "prompts are no part of it"


def test_a_stop_string_is_seen_across_special_tokens_and_at_any_length() -> None:
    text = ids("y" * 60 + "stop")
    stops = RowStops([answer("stop")], 0)
    assert [stops(torch.tensor([text[:n]]), None).item() for n in range(60, 65)] == [False] * 4 + [True]
    assert RowStops([answer("stop")], 0)(torch.tensor([[*text[:-1], START, START, text[-1]]]), None).item()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return copy.deepcopy(byte_tokenizer())


def test_stop_tokens_come_from_config_tokenizer_and_template(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.eos_token = "<|pad|>"
    assert stop_tokens(tokenizer, GenerationConfig(eos_token_id=BOS)) == (PAD, BOS, END)
    assert stop_tokens(tokenizer, GenerationConfig(eos_token_id=[START, BOS])) == (PAD, BOS, START, END)
    assert stop_tokens(tokenizer, GenerationConfig()) == (PAD, END)
    tokenizer.chat_template = None
    assert stop_tokens(tokenizer, None) == (PAD,)


@pytest.mark.parametrize(
    ("after", "last", "expected"),
    [
        ("<|im_end|>\n", "<|im_end|>\n", END),
        (" <|bos|>", " <|bos|>", BOS),
        ("<|bos|>", "<|im_end|>", END),  # the last turn ends in another way than those before
        ("<|bos|>", "", BOS),  # the last turn is left open
        ("\n### ", "\n### ", None),  # words, no token of its own
    ],
)
def test_the_end_of_turn_is_what_the_template_writes_after_an_answer(
    tokenizer: PreTrainedTokenizerFast, after: str, last: str, expected: int | None
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
        f"{{{{ {last!r} if loop.last else {after!r} }}}}{{% endfor %}}"
    )
    assert end_of_turn(tokenizer) == expected


def test_a_template_that_refuses_the_probe_has_no_end_of_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert end_of_turn(tokenizer) is None
