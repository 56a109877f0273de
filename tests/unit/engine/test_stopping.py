from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from transformers import GenerationConfig

from layercut.engine.base import Decoding, GenerationRequest
from layercut.engine.rows import GenerationRow
from layercut.engine.stopping import (
    Answer,
    RequestNoise,
    RowStops,
    end_of_turn,
    gumbel_noise,
    gumbel_values,
    noise_key,
    stop_tokens,
)
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
def test_where_an_answer_ends(tokens, stop, limit, ended):
    assert end(tokens, *stop, limit=limit) == ended


def test_rows_end_for_themselves():
    rows = [ids("xxab"), ids("xxac"), ids("xxad"), ids("abxx")]
    stops = RowStops([answer("ab"), answer(limit=2), answer("ab"), answer("ab")], 2)
    assert stops(torch.tensor(rows), None).tolist() == [True, True, False, False], "prompts are no part of it"
    # A stop string is seen across special tokens and at any length.
    text = ids("y" * 60 + "stop")
    stops = RowStops([answer("stop")], 0)
    assert [stops(torch.tensor([text[:n]]), None).item() for n in range(60, 65)] == [False] * 4 + [True]
    assert RowStops([answer("stop")], 0)(torch.tensor([[*text[:-1], START, START, text[-1]]]), None).item()


@pytest.fixture
def tokenizer():
    return copy.deepcopy(byte_tokenizer())


def test_stop_tokens_come_from_config_tokenizer_and_template(tokenizer):
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
def test_the_end_of_turn_is_what_the_template_writes_after_an_answer(tokenizer, after, last, expected):
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}"
        f"{{{{ {last!r} if loop.last else {after!r} }}}}{{% endfor %}}"
    )
    assert end_of_turn(tokenizer) == expected
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert end_of_turn(tokenizer) is None


def test_noise_is_gumbel_distributed():
    noise = gumbel_noise(noise_key(0, "a"), 0, 20_000)
    assert kstest(noise, "gumbel_r").pvalue > 0.01
    assert noise.dtype == np.float32


def test_noise_depends_on_seed_request_and_step_and_on_nothing_else():
    noises = {
        (seed, name, step): gumbel_noise(noise_key(seed, name), step, 50)
        for seed in (0, 1)
        for name in ("a", "b")
        for step in (0, 1)
    }
    assert len({noise.tobytes() for noise in noises.values()}) == 8
    assert (gumbel_noise(noise_key(0, "a"), 1, 50) == noises[0, "a", 1]).all()
    assert noise_key(1, "1a") != noise_key(11, "a")
    key = noise_key(0, "a")
    assert (gumbel_noise(key, 3, 101) == gumbel_noise(key, 3, 128)[:101]).all(), "nor on a padded vocabulary"
    # The steps of a long answer do not overlap.
    first, second = gumbel_noise(key, 0, 200_000), gumbel_noise(key, 1, 200_000)
    assert not np.isin(second[:8], first).all()

    # It is finite and reaches far at both ends.
    low, high = gumbel_values(np.array([2**32 - 1, 0], dtype=np.uint32))
    assert -3.2 < low < -2.5
    assert 22 < high < 24


def test_rows_get_their_own_noise_wherever_they_stand():
    scores_BV = torch.zeros(2, 40)
    ids_BT = torch.zeros(2, 7, dtype=torch.long)
    at_random = Decoding(temperature=1, seed=5)
    both = RequestNoise(at_random, ["a", "b"], 4)(ids_BT, scores_BV)
    swapped = RequestNoise(at_random, ["b", "a"], 4)(ids_BT, scores_BV)
    longer_prompt = RequestNoise(at_random, ["a", "b"], 14)(torch.zeros(2, 17, dtype=torch.long), scores_BV)
    assert torch.equal(both, swapped.flip(0))
    assert torch.equal(both, longer_prompt), "the step counts from the end of the prompt"


def test_top_k_and_top_p_bound_what_can_be_drawn():
    scores_BV = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))

    def drawn(decoding: Decoding) -> set[int]:
        ids = [f"r{i}" for i in range(400)]
        steps = RequestNoise(decoding, ids, 1)
        return set(steps(torch.zeros(400, 1, dtype=torch.long), scores_BV.repeat(400, 1)).argmax(-1).tolist())

    assert drawn(Decoding(temperature=1)) == {0, 1, 2, 3}
    assert drawn(Decoding(temperature=1, top_k=2)) == {0, 1}
    assert drawn(Decoding(temperature=1, top_p=0.9)) == {0, 1, 2}
    assert drawn(Decoding(temperature=0.01)) == {0}
    assert drawn(Decoding(temperature=2, top_k=1)) == {0}, "whole numbers will do"
