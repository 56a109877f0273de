"""The fast engine gives what the plain one gives, item by item, whatever is shared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch

from layercut.engine import products, shared
from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.engine.plain import PlainEngine
from layercut.engine.products import large_layers
from layercut.engine.shared import SharedEngine
from layercut.engine.stack import Stack
from layercut.engine.text_groups import Pack
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.engines import completions, log_likelihoods
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS
from tests.unit.surgery.test_width import thin_plan

Answer = TypeVar("Answer")
GREEDY = Decoding()
SAMPLED = Decoding(temperature=0.8, top_p=0.9, top_k=50, seed=3)
EXAMPLES = "1+2=3\n7-4=3\n2*3=6\n"


def plan(*removed: int) -> CutPlan:
    return CutPlan(num_layers=NUM_LAYERS, removed=removed)


COMB = [plan(), *(plan(layer) for layer in range(NUM_LAYERS))]
OTHERS = [plan(4, 1), plan(1, 4, 0), plan(5, 4, 3)]
PLANS = [*COMB, *OTHERS]


def asked(num: int = 7, prefix: str = EXAMPLES) -> list[GenerationRequest]:
    questions = [f"{prefix}{'9' * (1 + 3 * (n % 3))}+{n}=" for n in range(num)]
    return [
        GenerationRequest(id=f"q{n}", prompt=text, max_new_tokens=4 + 5 * (n % 3), stop=("\n", "ab") if n % 2 else ())
        for n, text in enumerate(questions)
    ]


def scored(num: int = 6, prefix: str = EXAMPLES) -> list[LikelihoodRequest]:
    options = ("7", "8", "some words", "some other words", "12")
    return [
        LikelihoodRequest(
            id=f"q{n}", prompt=f"{prefix}{'9' * (1 + 4 * (n % 3))}+{n}=", continuations=options[: 1 + n % 5]
        )
        for n in range(num)
    ]


def by_plan(found: Iterable[tuple[CutPlan, list[Answer]]]) -> dict[str, dict[str, Answer]]:
    answers: dict[str, dict[str, Answer]] = {}
    for one, part in found:
        of_plan = answers.setdefault(one.key, {})
        for answer in part:
            assert answer.id not in of_plan, "answered twice"  # type: ignore[attr-defined]
            of_plan[answer.id] = answer  # type: ignore[attr-defined]
    return answers


def assert_same_likelihoods(ours: dict[str, dict[str, Likelihoods]], theirs: dict[str, dict[str, Likelihoods]]) -> None:
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert ours[key].keys() == theirs[key].keys()
        for name, expected in theirs[key].items():
            found = ours[key][name]
            assert found.log_likelihoods == pytest.approx(expected.log_likelihoods, rel=1e-3, abs=2e-3)
            assert replace(found, log_likelihoods=()) == replace(expected, log_likelihoods=())


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_answers_are_those_of_the_plain_engine(model_type, monkeypatch):
    loaded = tiny_loaded(model_type)
    expected = by_plan(PlainEngine(loaded).ask(asked(5), PLANS, GREEDY))
    assert len({answer.text for answers in expected.values() for answer in answers.values()}) > 10
    assert by_plan(SharedEngine(loaded, batch_size=3).ask(asked(5), PLANS, GREEDY)) == expected
    monkeypatch.setattr(products, "_FEWEST_WEIGHTS", 0)  # by products of few rows too
    monkeypatch.setattr(products, "_FEWEST_ROWS", 1)
    expected = by_plan(PlainEngine(loaded).ask(asked(5), PLANS, GREEDY))
    assert by_plan(SharedEngine(loaded, batch_size=3).ask(asked(5), PLANS, GREEDY)) == expected


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_requests_of_several_groups_share_steps_and_each_group_its_beginning(model_type, decoding, monkeypatch):
    """Three tasks in one call: two that begin alike, each in its own way, and one without anything in common."""
    beginnings = {"sums": EXAMPLES, "words": "some longer words come first. " * 2, "none": ""}
    requests = [
        replace(one, id=f"{name}-{one.id}", group=name, prompt=f"{beginnings[name]}{number}{one.prompt}")
        for name in beginnings
        for number, one in enumerate(asked(5, ""))
    ]
    loaded = tiny_loaded(model_type)
    prefixes: set[int] = set()
    init = Pack.__init__

    def noted(self: Pack, texts: Any, ahead: Any, **more: Any) -> None:
        prefixes.add(len(ahead))
        init(self, texts, ahead, **more)

    monkeypatch.setattr(Pack, "__init__", noted)
    ours = by_plan(SharedEngine(loaded, batch_size=4).ask(requests, PLANS, decoding))
    assert len(prefixes) == 3
    assert ours == by_plan(PlainEngine(loaded).ask(requests, PLANS, decoding))


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_answers_are_those_of_the_plain_engine_from_packed_weights_too(monkeypatch, model_type):
    """And the weights are themselves again: also when the caller stops in the middle."""
    monkeypatch.setattr(products, "_FEWEST_WEIGHTS", 0)
    monkeypatch.setattr(shared, "_PACKS", 1)
    loaded = tiny_loaded(model_type)
    before = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    large = large_layers(loaded.model)
    expected = by_plan(PlainEngine(loaded).ask(asked(5), PLANS, GREEDY))
    engine = SharedEngine(loaded, batch_size=3)
    assert by_plan(engine.ask(asked(5), PLANS, GREEDY)) == expected
    under_way = engine.ask(asked(5), PLANS, GREEDY)
    next(under_way)
    tied = [one for one in large if one.weight is loaded.model.get_input_embeddings().weight]
    assert large_layers(loaded.model) == tied
    under_way.close()  # type: ignore[attr-defined]
    assert large_layers(loaded.model) == large
    after = loaded.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], one) for name, one in before.items())


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_scores_and_divergences_are_those_of_the_plain_engine(model_type):
    loaded = tiny_loaded(model_type)
    plain, shared = PlainEngine(loaded, batch_size=4), SharedEngine(loaded, batch_size=4)
    for plans in (COMB, OTHERS):
        assert_same_likelihoods(by_plan(shared.ask(scored(), plans)), by_plan(plain.ask(scored(), plans)))
    texts = [replace(request, continuations=("a long enough text",)) for request in scored()]
    ours = by_plan(shared.compare(texts, COMB, plan(2)))
    theirs = by_plan(plain.compare(texts, COMB, plan(2)))
    assert ours.keys() == theirs.keys()
    for key, answers in theirs.items():
        for name, expected in answers.items():
            found = ours[key][name]
            assert (found.nll, found.kl) == pytest.approx((expected.nll, expected.kl), rel=1e-3, abs=1e-3)
            assert found.num_tokens == expected.num_tokens


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_divergence_is_the_same_whatever_plans_are_compared_with_it(at_once, monkeypatch):
    loaded = tiny_loaded("llama")
    texts = [replace(request, continuations=("a long enough text",), by_token=True) for request in scored()]
    together = by_plan(SharedEngine(loaded, batch_size=4).compare(texts, PLANS, plan(2)))
    monkeypatch.setattr("layercut.engine.shared._PLANS", at_once)
    apart = by_plan(SharedEngine(loaded, batch_size=4).compare(texts, PLANS, plan(2)))
    assert len(together) == len({one.key for one in PLANS})
    assert together == apart


def both() -> list[GenerationRequest | LikelihoodRequest]:
    """Questions that are answered and scored, with the same prompt or another one, and some of one kind alone."""
    prompts = {request.id: request.prompt for request in scored()}
    to_score = [*scored(), LikelihoodRequest(id="alone", prompt=f"{EXAMPLES}1+1=", continuations=("2", "3"))]
    to_generate = [
        replace(request, prompt=prompts.get(request.id, request.prompt) if n != 2 else f"{EXAMPLES}0+0=")
        for n, request in enumerate(asked())
    ]
    return [*to_generate, *to_score]


def by_kind_and_plan(found: Iterable[tuple[CutPlan, Sequence[Completion | Likelihoods]]]) -> tuple[Any, Any]:
    parts = list(found)
    kinds = [[part for part in parts if isinstance(part[1][0], kind)] for kind in (Completion, Likelihoods)]
    assert sum(map(len, kinds)) == len(parts)
    return by_plan(kinds[0]), by_plan(kinds[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_answers_and_scores_in_one_pass_are_those_of_two(model_type):
    loaded = tiny_loaded(model_type)
    written, ranked = by_kind_and_plan(PlainEngine(loaded).ask(both(), COMB, GREEDY))
    drafts = [
        replace(request, draft=written["uncut"][request.id].text) if isinstance(request, GenerationRequest) else request
        for request in both()
    ]
    for requests, size in ((both(), 3), (drafts, 32)):
        shared = SharedEngine(loaded, batch_size=size)
        ours, scores = by_kind_and_plan(shared.ask(requests, COMB, GREEDY))
        assert ours == written
        assert_same_likelihoods(scores, ranked)
    assert set(written["uncut"]) - set(ranked["uncut"]) == {"q6"}
    assert set(ranked["uncut"]) - set(written["uncut"]) == {"alone"}


def test_prompts_that_do_not_fit_in_memory_are_run_in_halves(monkeypatch):
    loaded = tiny_loaded("llama")
    written, ranked = by_kind_and_plan(SharedEngine(loaded).ask(both(), COMB, GREEDY))
    run, sizes = Stack.run, []

    def small(stack: Stack, layer: int, states: torch.Tensor, entered: Any, attends: Any) -> torch.Tensor:
        if isinstance(attends, Pack):
            sizes.append(len(attends.starts))
            if layer == 3 and len(attends.starts) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(stack, layer, states, entered, attends)

    monkeypatch.setattr(Stack, "run", small)
    ours, scores = by_kind_and_plan(SharedEngine(loaded).ask(both(), COMB, GREEDY))
    assert ours == written
    assert_same_likelihoods(scores, ranked)
    assert set(sizes) == {8, 4, 2, 1}, "1 is the prefix"


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_a_draft_changes_nothing_whether_right_or_wrong(model_type, decoding):
    loaded = tiny_loaded(model_type)
    expected = by_plan(PlainEngine(loaded).ask(asked(), COMB, decoding))
    texts = {name: answer.text for name, answer in expected["uncut"].items()}
    drafts = [
        replace(request, draft=text[: len(text) * (n % 4) // 3] + ("zz" if n % 2 else ""))
        for n, (request, text) in enumerate(zip(asked(), texts.values(), strict=True))
    ]
    assert by_plan(SharedEngine(loaded).ask(drafts, COMB, decoding)) == expected


def test_the_pool_takes_in_what_fits_and_parks_what_does_not():
    loaded = tiny_loaded("qwen2")
    long = [replace(request, max_new_tokens=40 + n) for n, request in enumerate(asked(5))]
    expected = by_plan(PlainEngine(loaded).ask(long, COMB[:4], GREEDY))
    for gib in (1e-6, 2e-4):  # room for one row; for a few, of which some must free space as all grow
        engine = SharedEngine(loaded, batch_size=4, cache_gib=gib)
        assert by_plan(engine.ask(long, COMB[:4], GREEDY)) == expected


@pytest.mark.parametrize("prefix", ["", "\u00e9" * 40, "a long shared beginning. " * 8], ids=["none", "bytes", "long"])
def test_any_prefix_and_any_batch_size(prefix):
    loaded = tiny_loaded("mistral")  # its window of 8 tokens ends inside the prefix, or in it altogether
    expected = by_plan(PlainEngine(loaded).ask(asked(prefix=prefix), COMB, GREEDY))
    for size in (1, 2, 32):
        engine = SharedEngine(loaded, batch_size=size)
        assert by_plan(engine.ask(asked(prefix=prefix), COMB, GREEDY)) == expected
        ours = by_plan(engine.ask(scored(prefix=prefix or "?"), OTHERS))
        theirs = by_plan(PlainEngine(loaded).ask(scored(prefix=prefix or "?"), OTHERS))
        assert_same_likelihoods(ours, theirs)


def test_conversations():
    loaded = tiny_loaded("llama")
    chats = [replace(request, prompt=(Message("user", str(request.prompt)),), draft="7 ") for request in asked()]
    expected = by_plan(PlainEngine(loaded).ask(chats, COMB, GREEDY))
    assert by_plan(SharedEngine(loaded).ask(chats, COMB, GREEDY)) == expected


def test_an_early_verdict_ends_an_answer_with_the_beginning_of_its_text():
    loaded = tiny_loaded("llama")
    whole = by_plan(PlainEngine(loaded).ask(asked(), COMB, GREEDY))
    hasty = [replace(request, settled=lambda text: len(text) >= 6) for request in asked()]
    ours = by_plan(SharedEngine(loaded).ask(hasty, COMB, GREEDY))
    reasons = set()
    for key, answers in whole.items():
        for name, expected in answers.items():
            found: Completion = ours[key][name]
            reasons.add(found.finish_reason)
            if found.finish_reason == "settled":
                assert len(found.text) >= 6
                assert expected.text.startswith(found.text.rstrip("\ufffd"))  # a character may be half there
                assert found.num_new_tokens <= expected.num_new_tokens
            else:
                assert found == expected
    assert reasons > {"settled"}


def test_what_is_not_wanted_any_more_is_not_answered():
    loaded = tiny_loaded("llama")
    engine = SharedEngine(loaded, batch_size=2)
    out = {COMB[2].key, COMB[5].key}
    seen: list[str] = []
    for one, answers in engine.ask(asked(), COMB, GREEDY, wanted=lambda one, _: one.key not in out):
        seen += [one.key] * len(answers)
        if len(seen) > 9:
            out.add(COMB[3].key)
    expected = by_plan(PlainEngine(loaded).ask(asked(), COMB, GREEDY))
    assert COMB[2].key not in seen and COMB[5].key not in seen
    assert 0 < seen.count(COMB[3].key) < 7
    assert seen.count(COMB[1].key) == seen.count("uncut") == 7
    done = {"q0", "q1", "q2", "q3", "q4"}
    rest = [a for part in completions(engine, asked(), COMB[1], GREEDY, done) for a in part]
    assert {"q5", "q6"} <= {answer.id for answer in rest}
    assert all(answer == expected[COMB[1].key][answer.id] for answer in rest)
    assert list(completions(engine, asked(), COMB[1], GREEDY, [request.id for request in asked()])) == []


def test_an_answer_is_handed_over_before_others_of_its_block_have_ended():
    engine = SharedEngine(tiny_loaded("llama"), batch_size=8)
    requests = [GenerationRequest(id=str(most), prompt="three sheep", max_new_tokens=most) for most in (2, 40)]
    found = [[answer.id for answer in part] for part in completions(engine, requests, plan(), Decoding())]
    assert found == [["2"], ["40"]]


def test_a_family_may_scale_its_scores_by_another_number_than_the_size_of_a_head(monkeypatch):
    monkeypatch.setitem(CONFIGS, "gemma2", CONFIGS["gemma2"] | {"query_pre_attn_scalar": 60})
    loaded = tiny_loaded("gemma2")
    plain, shared = PlainEngine(loaded), SharedEngine(loaded)
    assert by_plan(shared.ask(asked(4), COMB, GREEDY)) == by_plan(plain.ask(asked(4), COMB, GREEDY))
    assert_same_likelihoods(by_plan(shared.ask(scored(), COMB)), by_plan(plain.ask(scored(), COMB)))


def test_stopping_in_the_middle_leaves_the_model_whole():
    loaded = tiny_loaded("gemma2")
    tokens = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        before = loaded.model(tokens).logits
        implementation = loaded.model.config._attn_implementation
        next(iter(SharedEngine(loaded).ask(asked(), COMB, GREEDY)))
        assert loaded.model.config._attn_implementation == implementation
        torch.testing.assert_close(loaded.model(tokens).logits, before, rtol=0, atol=0)


def test_bad_calls_are_refused():
    loaded = tiny_loaded("llama")
    engine = SharedEngine(loaded)
    with pytest.raises(InputError, match="this one has 6"):
        completions(engine, asked(), CutPlan(num_layers=5, removed=(1,)), GREEDY)
    with pytest.raises(InputError, match="q0"):
        log_likelihoods(engine, [*scored(), scored()[0]], plan())
    with bypass(loaded.model, plan(1)), pytest.raises(InputError, match="a bypass is active"):
        completions(engine, asked(), plan(), GREEDY)


@pytest.mark.parametrize("batch_size", [4, 32])
def test_drawn_answers_to_one_question_share_its_text(batch_size, monkeypatch):
    """Many draws of each of two questions, with and without a draft: what is drawn is what each would draw alone."""
    loaded = tiny_loaded("llama")
    base = asked(2)
    draws = [replace(one, id=f"{one.id}#{n}", stop=()) for one in base for n in range(6)]
    draws += [replace(base[0], id=f"d#{n}", draft="12 ab") for n in range(3)]
    expected = by_plan(PlainEngine(loaded).ask(draws, OTHERS, SAMPLED))
    num_texts: list[int] = []
    init = Pack.__init__

    def count(self: Pack, texts: Sequence[Any], *rest: Any, **named: Any) -> None:
        num_texts.append(len(texts))
        init(self, texts, *rest, **named)

    monkeypatch.setattr(Pack, "__init__", count)
    found = by_plan(SharedEngine(loaded, batch_size=batch_size).ask(draws, OTHERS, SAMPLED))
    assert found == expected
    assert len({answer.text for answer in expected[OTHERS[0].key].values()}) > 4
    if batch_size == 32:
        assert num_texts == [3, 1]  # of fifteen requests, and the prefix


def test_a_question_that_is_scored_too_lends_its_text_to_draws():
    loaded, one = tiny_loaded("llama"), asked(1)[0]
    draws = [replace(one, id=f"q0#{n}", stop=()) for n in range(3)]
    mixed = [replace(one, stop=()), *draws, replace(scored(5)[4], id="q0", prompt=one.prompt)]
    found = [answer for _, part in SharedEngine(loaded).ask(mixed, [plan(1)], SAMPLED) for answer in part]
    alone = by_plan(PlainEngine(loaded).ask([mixed[0], *draws], [plan(1)], SAMPLED))[plan(1).key]
    assert {a.id: a for a in found if isinstance(a, Completion)} == alone
    assert sum(isinstance(a, Likelihoods) for a in found) == 1


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "phi3", "gpt2", "gemma2"])
def test_plans_with_mlp_channels_are_answered_as_by_the_plain_engine(model_type):
    """Beside plans of layers alone, in one call."""
    loaded = tiny_loaded(model_type)
    thin, other = thin_plan(loaded.model), thin_plan(loaded.model, (1,), seed=2)
    plans = [plan(), thin, plan(3), other, replace(other, removed=(2, 4))]
    plain, shared = PlainEngine(loaded, batch_size=4), SharedEngine(loaded, batch_size=3)
    expected = by_plan(plain.ask(asked(5), plans, GREEDY))
    assert by_plan(shared.ask(asked(5), plans, GREEDY)) == expected
    assert len({tuple(answer.text for answer in answers.values()) for answers in expected.values()}) == 5
    assert_same_likelihoods(by_plan(shared.ask(scored(), plans)), by_plan(plain.ask(scored(), plans)))
    single = [replace(one, continuations=one.continuations[:1]) for one in scored()]
    ours, theirs = (by_plan(one.compare(single, plans, plan())) for one in (shared, plain))
    assert ours.keys() == theirs.keys()
    for key, of_plan in theirs.items():
        for name, found in of_plan.items():
            assert ours[key][name].kl == pytest.approx(found.kl, rel=1e-2, abs=1e-4)


def test_an_engine_under_a_plan_with_channels_answers_nothing_else_meanwhile():
    loaded = tiny_loaded("llama")
    shared = SharedEngine(loaded, batch_size=1)
    first, second = thin_plan(loaded.model), thin_plan(loaded.model, seed=3)
    answers = shared.ask(asked(5), [first], GREEDY)
    next(answers)
    for other in (second, first, plan()):
        with pytest.raises(InputError, match="a bypass is active"):
            list(shared.ask(asked(1), [other], GREEDY))
    answers.close()  # type: ignore[attr-defined]
    assert list(shared.ask(asked(1), [plan()], GREEDY))
