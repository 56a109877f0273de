"""What must be equal in an engine: batch of 1 and of 8, any order, resumed and run through, cached and uncached."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from layercut.engine.base import (
    Decoding,
    GenerationRequest,
    LikelihoodRequest,
    Likelihoods,
    Message,
    Prompt,
)
from layercut.engine.plain import PlainEngine
from layercut.models.loading import LoadedModel
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.engines import by_id, completions, log_likelihoods
from tests.support.loaded import greedy_tokens, log_likelihood, tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS

GREEDY = Decoding()
SAMPLED = Decoding(temperature=0.8, top_k=60, top_p=0.95, seed=11)
PLANS = {
    "uncut": CutPlan(num_layers=NUM_LAYERS),
    "first": CutPlan(num_layers=NUM_LAYERS, removed=(0,)),
    "scattered": CutPlan(num_layers=NUM_LAYERS, removed=(4, 1)),
}
FEW = ("llama", "gemma2", "gpt2", "qwen3_moe")
each_family = pytest.mark.parametrize("model_type", list(CONFIGS))
a_few = pytest.mark.parametrize("model_type", FEW)
each_plan = pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())

# Lengths differ widely, so that padding is long; all are longer than the tiny models' windows somewhere.
PROMPTS: tuple[Prompt, ...] = (
    "x",
    "The quick brown fox jumps over the lazy dog.",
    "7 * 8 =",
    "([{",
    (Message("user", "Which is larger, 3 or 11?"),),
    "repeat: sun sea sand",
    "Once upon a time there was a model that had lost some of its layers, and nobody had noticed so far.",
    (Message("system", "Be brief."), Message("user", "Hi!"), Message("assistant", "Hello"), Message("user", "Bye.")),
    "Zürich → Genève",
    "a b c d e f",
    "def add(a, b):",
)
ASKED = [
    GenerationRequest(id=f"q{i}", prompt=prompt, max_new_tokens=9 + i % 3, stop=("e", "99") if i % 4 == 3 else ())
    for i, prompt in enumerate(PROMPTS)
]
SCORED = [
    LikelihoodRequest(id=f"q{i}", prompt=prompt, continuations=(" yes", " no", " no!", " forty-two")[: 1 + i % 4])
    for i, prompt in enumerate(PROMPTS)
]


@cache
def loaded(model_type: str) -> LoadedModel:
    return tiny_loaded(model_type)


def engine(model_type: str, batch_size: int) -> PlainEngine:
    return PlainEngine(loaded(model_type), batch_size=batch_size)


def complete(engine, plan, decoding, asked):
    answers = by_id(completions(engine, asked, plan, decoding))
    return [answers[name] for name in sorted(answers)]


def score(engine: PlainEngine, plan: CutPlan, scored: Sequence[LikelihoodRequest]) -> list[Likelihoods]:
    answers = by_id(log_likelihoods(engine, scored, plan))
    return [answers[name] for name in sorted(answers)]


def assert_same_scores(ours: Sequence[Likelihoods], theirs: Sequence[Likelihoods]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.log_likelihoods == pytest.approx(other.log_likelihoods, rel=1e-5, abs=1e-5)
        assert (one.id, one.num_tokens, one.is_greedy) == (other.id, other.num_tokens, other.is_greedy)


@each_family
@each_plan
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_of_one_answers_as_a_batch_of_eight(model_type, plan, decoding):
    eight = complete(engine(model_type, 8), plan, decoding, ASKED)
    assert eight == complete(engine(model_type, 1), plan, decoding, ASKED)
    assert len({answer.text for answer in eight}) > len(PROMPTS) / 2, "a model that repeats one answer shows nothing"


@each_family
@each_plan
def test_a_batch_of_one_scores_as_a_batch_of_eight(model_type, plan):
    assert_same_scores(score(engine(model_type, 8), plan, SCORED), score(engine(model_type, 1), plan, SCORED))


@each_family
@each_plan
def test_greedy_is_the_argmax_of_full_passes_without_cache(model_type, plan):
    model, tokenizer = loaded(model_type).model, loaded(model_type).tokenizer
    texts = ("x", "The quick brown fox jumps.", "7 * 8 =")
    asked = [GenerationRequest(id=text, prompt=text, max_new_tokens=12) for text in sorted(texts)]
    for answer in complete(engine(model_type, 8), plan, GREEDY, asked):
        with bypass(model, plan):
            tokens = greedy_tokens(model, tokenizer(answer.id)["input_ids"], 12)
        length = tokens.index(259) if 259 in tokens else 12
        assert answer.text == tokenizer.decode(tokens[:length], skip_special_tokens=True)
        assert answer.num_new_tokens == min(length + 1, 12)


@each_family
@each_plan
def test_log_likelihoods_are_those_of_full_passes_without_padding(model_type, plan):
    model, tokenizer = loaded(model_type).model, loaded(model_type).tokenizer
    plain = [request for request in SCORED if isinstance(request.prompt, str)]
    requests = {request.id: request for request in plain}
    for answer in score(engine(model_type, 8), plan, plain):
        context = tokenizer(requests[answer.id].prompt)["input_ids"]
        with bypass(model, plan):
            expected = [
                log_likelihood(model, context, tokenizer(text)["input_ids"])
                for text in requests[answer.id].continuations
            ]
        assert answer.log_likelihoods == pytest.approx([total for total, _ in expected], rel=1e-5, abs=1e-5)
        assert answer.is_greedy == tuple(greedy for _, greedy in expected)
        assert answer.num_prompt_tokens == len(context)


@a_few
def test_a_greedy_answer_is_scored_as_greedy_and_no_other_is(model_type):
    model, tokenizer = loaded(model_type).model, loaded(model_type).tokenizer
    tried = 0
    for prompt in (f"{number} is" for number in range(20)):
        token = greedy_tokens(model, tokenizer(prompt)["input_ids"], 1)[0]
        text = tokenizer.decode([token])
        if tokenizer(text)["input_ids"] != [token] or text.isspace():
            continue  # half a character
        tried += 1
        other = "a" if text != "a" else "b"
        request = LikelihoodRequest(id="a", prompt=prompt, continuations=(text, other, text + other))
        (answer,) = score(engine(model_type, 8), PLANS["uncut"], [request])
        second = greedy_tokens(model, [*tokenizer(prompt)["input_ids"], token], 1) == tokenizer(other)["input_ids"]
        assert answer.is_greedy == (True, False, second)
    assert tried >= 2


@a_few
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_order_of_the_requests_changes_nothing(model_type, decoding):
    plan = PLANS["scattered"]
    shuffled = random.Random(3).sample(range(len(PROMPTS)), len(PROMPTS))
    ours = complete(engine(model_type, 4), plan, decoding, ASKED)
    assert ours == complete(engine(model_type, 4), plan, decoding, [ASKED[i] for i in shuffled])
    ours_scored = score(engine(model_type, 4), plan, SCORED)
    assert ours_scored == score(engine(model_type, 4), plan, [SCORED[i] for i in shuffled]), "to the last bit"


@a_few
@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_stopped_and_resumed_is_run_through(model_type, decoding):
    plan, four = PLANS["scattered"], engine(model_type, 4)
    through = list(completions(four, ASKED, plan, decoding))
    done = {answer.id for answer in through[0]} | {through[1][0].id}  # killed in the middle of the second batch
    assert list(completions(four, ASKED, plan, decoding, done)) == through[1:]
    assert list(completions(four, ASKED, plan, decoding, {request.id for request in ASKED})) == []

    scored = list(log_likelihoods(four, SCORED, plan))
    partly = next(index for index, batch in enumerate(scored) if index and len(batch) > 1)
    done = {answer.id for answer in scored[0]} | {scored[partly][0].id}
    assert list(log_likelihoods(four, SCORED, plan, done)) == scored[1:], "to the last bit"


@a_few
@pytest.mark.parametrize("decoding", [Decoding(temperature=1, seed=2), Decoding(temperature=1.5, top_p=0.9, seed=2)])
def test_sampled_tokens_follow_the_softmax(model_type, decoding):
    prompt, num_draws = "7 * 8 =", 4000
    asked = [GenerationRequest(id=f"draw {i}", prompt=prompt, max_new_tokens=1) for i in range(num_draws)]
    answers = complete(engine(model_type, 1000), PLANS["uncut"], decoding, asked)

    model, tokenizer = loaded(model_type).model, loaded(model_type).tokenizer
    with torch.no_grad():
        logits = model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].double()
    p, order = (logits / decoding.temperature).softmax(-1).sort(descending=True)
    num_kept = int((p.cumsum(-1) < decoding.top_p).sum()) + 1
    p = p[:num_kept] / p[:num_kept].sum()
    expected: Counter[str] = Counter()
    for chance, token in zip(p.tolist(), order.tolist(), strict=False):
        expected[tokenizer.decode([token], skip_special_tokens=True)] += chance  # half characters fall together
    drawn = Counter(answer.text for answer in answers)
    assert drawn.keys() <= expected.keys()
    often = [text for text, chance in expected.items() if chance * num_draws >= 5]
    rest = num_draws - sum(drawn[text] for text in often)
    rest_expected = num_draws * (1 - math.fsum(expected[text] for text in often))
    counts, means = [drawn[text] for text in often], [num_draws * expected[text] for text in often]
    if rest_expected >= 5:
        counts, means = [*counts, rest], [*means, rest_expected]
    assert len(counts) > 2
    assert chisquare(counts, np.array(means) * sum(counts) / math.fsum(means)).pvalue > 0.001


def test_an_uncut_and_a_cut_model_share_their_noise():
    """With common random numbers the answers of two plans agree far more often than independent draws would."""
    eight = engine("llama", 64)
    asked = [GenerationRequest(id=f"q{i}", prompt="7 * 8 =", max_new_tokens=1) for i in range(400)]
    last_gone = CutPlan(num_layers=NUM_LAYERS, removed=(5,))

    def texts(plan: CutPlan, seed: int) -> list[str]:
        return [answer.text for answer in complete(eight, plan, Decoding(temperature=4, seed=seed), asked)]

    uncut = texts(PLANS["uncut"], 0)
    shared = sum(a == b for a, b in zip(uncut, texts(last_gone, 0), strict=True))
    independent = sum(a == b for a, b in zip(uncut, texts(last_gone, 1), strict=True))
    assert shared > 2 * independent
