from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from layercut.engine.base import GenerationRequest
from layercut.engine.rows import GenerationRow
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
    assert any(taken.add(token) for token in tokens)
    completion = taken.completion()
    assert list(completion.tokens) == tokens[: completion.num_new_tokens]
    return completion.text, completion.finish_reason, completion.num_new_tokens


@pytest.mark.parametrize(
    ("tokens", "stop", "limit", "ended"),
    [
        (ids("abcdef"), (), 4, ("abcd", "length", 4)),
        ([*ids("ab"), END, PAD, PAD], (), 100, ("ab", "stop", 3)),
        ([END, PAD], (), 100, ("", "stop", 1)),
        ([*ids("ab"), END], (), 2, ("ab", "length", 2)),  # a stop token beyond the limit
        (ids("5\nQuestion: 7"), ("\nQ",), 100, ("5", "stop", 3)),
        ([*ids("5\nQ"), PAD, PAD, PAD], ("\nQ",), 100, ("5", "stop", 3)),
        (ids("abcde"), ("abcd", "bc"), 100, ("a", "stop", 3)),  # the one that is complete first
        (ids("abcde"), ("bcd", "cd"), 100, ("a", "stop", 4)),  # completed together: before the earlier one
        ([*ids("ab"), END, *ids("cd")], ("cd",), 100, ("ab", "stop", 3)),
        (ids("abcd"), ("cd",), 3, ("abc", "length", 3)),
        (ids("x→y"), ("→",), 100, ("x", "stop", 4)),  # a character of three tokens
    ],
)
def test_where_an_answer_ends(
    tokens: list[int], stop: tuple[str, ...], limit: int, ended: tuple[str, str, int]
) -> None:
    assert end(tokens, *stop, limit=limit) == ended


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
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert end_of_turn(tokenizer) is None
