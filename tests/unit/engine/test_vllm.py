"""The adapter's own logic, on a module that stands for vllm; tests/behaviour/test_vllm.py runs the real one."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor, nn

from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.rows import decode_tokens
from layercut.engine.vllm import VllmEngine, module_lists_of, pass_states_on, pick_layer_list
from layercut.errors import InputError, MissingExtra
from layercut.models.loading import load_without_weights
from layercut.models.sources import resolve_source
from layercut.models.structure import Structure
from layercut.surgery.plan import CutPlan
from tests.support.engines import by_id, completions, divergences, log_likelihoods
from tests.support.fake_vllm import FakeVllm, ToyModel
from tests.support.tiny import NUM_LAYERS, save_tiny

GREEDY = Decoding()
PLANS = [CutPlan(num_layers=NUM_LAYERS, removed=removed) for removed in ((), (0,), (2, 3), (5,), ())]
SHARED = "a long beginning that all prompts share. " * 3 + "So:"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = save_tiny("llama", tmp_path_factory.mktemp("models") / "tiny")
    return load_without_weights(resolve_source(str(folder)), device="cpu")


@pytest.fixture
def vllm(monkeypatch):
    return install(FakeVllm(NUM_LAYERS), monkeypatch)


@pytest.fixture
def engine(model, vllm):
    return VllmEngine(model)


def install(fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> FakeVllm:
    for name in ("vllm", "vllm.platforms", "vllm.distributed"):
        monkeypatch.setitem(sys.modules, name, fake)  # type: ignore[arg-type]
    return fake


def text_of(engine: VllmEngine, tokens: Sequence[int]) -> str:
    return decode_tokens(engine._loaded.tokenizer, tokens)


def toy(engine: VllmEngine) -> ToyModel:
    return engine._engine.model  # type: ignore[no-any-return]


def greedy(engine: VllmEngine, text: str, plan: CutPlan, number: int) -> list[int]:
    """The likeliest next token again and again, by the layers that stay, run as such."""
    tokens = engine._loaded.tokenizer(text)["input_ids"]
    for _ in range(number):
        tokens.append(int(toy(engine)(tokens, plan.kept)[-1].argmax()))
    return tokens[-number:]


def requests(**more: Any) -> list[GenerationRequest]:
    return [GenerationRequest(id=name, prompt=SHARED + name, max_new_tokens=5, **more) for name in "abc"]


def test_each_plan_is_answered_by_the_layers_that_stay(engine):
    texts = set()
    for plan in PLANS:
        for name, found in by_id(completions(engine, requests(), plan, GREEDY)).items():
            expected = text_of(engine, greedy(engine, SHARED + name, plan, 5))
            assert (found.text, found.finish_reason, found.num_new_tokens) == (expected, "length", 5)
            assert found.num_prompt_tokens == len(SHARED) + 1
            texts.add(found.text)
    assert len(texts) > len(PLANS)


def test_a_plan_has_a_cache_namespace_of_its_own(engine):
    for plan in (PLANS[1], PLANS[0], CutPlan(num_layers=NUM_LAYERS, removed=(0,), criterion="reverse")):
        list(completions(engine, requests(), plan, GREEDY))
    salts = [live.salt for live in engine._engine.asked]
    assert salts == [PLANS[1].key] * 3 + [PLANS[0].key] * 3 + [PLANS[1].key] * 3
    assert PLANS[0].key != PLANS[1].key


def test_leaving_a_plan_puts_back_the_very_forward_that_was_there(model, engine):
    layer = toy(engine).model.layers[2]
    own = layer.forward = layer.forward  # some quantised layers carry their own
    list(completions(engine, requests(), PLANS[2], GREEDY))
    assert layer.forward is not own
    list(completions(engine, requests(), PLANS[0], GREEDY))
    assert vars(layer)["forward"] is own
    assert [set(vars(one)) - set(vars(layer)) for one in toy(engine).model.layers] == [set()] * NUM_LAYERS
    assert "forward" not in vars(toy(engine).model.layers[3])


def test_an_answer_ends_where_its_request_says(engine):
    plan = PLANS[1]
    first, second, third, *_ = greedy(engine, SHARED + "a", plan, 5)
    text = text_of(engine, [first, second])
    ended = replace(requests()[0], stop=(text_of(engine, [first, second, third])[len(text) :],))
    (found,) = by_id(completions(engine, [ended], plan, GREEDY)).values()
    assert (found.text, found.finish_reason, found.num_new_tokens) == (text, "stop", 3)
    assert engine._engine.aborted == ["0"], "no more tokens are made than are looked at"
    settled = replace(requests()[0], settled=lambda so_far: len(so_far) >= len(text))
    (found,) = by_id(completions(engine, [settled], plan, GREEDY)).values()
    assert (found.text, found.finish_reason) == (text, "settled")
    assert not engine._engine.live


def test_a_stop_token_of_the_checkpoint_ends_an_answer(engine):
    first, second, third, *_ = greedy(engine, SHARED + "a", PLANS[1], 5)
    assert third not in (first, second)
    engine._stop_tokens = (third,)
    (found,) = by_id(completions(engine, requests()[:1], PLANS[1], GREEDY)).values()
    assert (found.text, found.finish_reason) == (text_of(engine, [first, second]), "stop")
    assert found.num_new_tokens == 3
    assert engine._engine.asked[0].parameters.stop_token_ids == [third]
    assert not engine._engine.aborted


def test_scores_are_those_of_the_layers_that_stay(model, engine):
    options = ("x", "y", "several", "severed")
    asked = [LikelihoodRequest(id=name, prompt=SHARED + name, continuations=options) for name in "ab"]
    for plan in PLANS:
        for name, found in by_id(log_likelihoods(engine, asked, plan)).items():
            prompt = model.tokenizer(SHARED + name)["input_ids"]
            for place, option in enumerate(options):
                tokens = model.tokenizer(option)["input_ids"]
                log_p_TV = toy(engine)([*prompt, *tokens], plan.kept)[len(prompt) - 1 : -1]
                expected = sum(float(log_p_TV[at, token]) for at, token in enumerate(tokens))
                assert found.log_likelihoods[place] == pytest.approx(expected, abs=1e-4)
                assert found.is_greedy[place] == (log_p_TV.argmax(dim=-1).tolist() == tokens)
            assert found.num_tokens == (1, 1, 7, 7)
            assert found.num_prompt_tokens == len(prompt)


def test_one_token_options_share_a_request_and_may_begin_with_a_cached_prefix(engine):
    letters = LikelihoodRequest(id="a", prompt=SHARED, continuations=("A", "B", "C", "D"))
    words = LikelihoodRequest(id="b", prompt=SHARED, continuations=("no", "yes"))
    list(log_likelihoods(engine, [letters, words], PLANS[0]))
    asked = [(live.parameters.prompt_logprobs, len(live.parameters.logprob_token_ids)) for live in engine._engine.asked]
    assert sorted(asked, key=str) == [(0, 1), (0, 1), (None, 4)]
    # The greedy option is known as such.
    likeliest = text_of(engine, greedy(engine, SHARED, PLANS[1], 2))
    two = LikelihoodRequest(id="a", prompt=SHARED, continuations=(likeliest, likeliest[0] + "\x7f"))
    (found,) = by_id(log_likelihoods(engine, [two], PLANS[1])).values()
    assert found.is_greedy == (True, False)


def test_draws_are_seeded_by_the_request_and_greedy_ones_are_not(engine):
    drawn = Decoding(temperature=0.7, top_p=0.9, top_k=20, seed=1)
    for decoding in (drawn, drawn.replace(seed=2), GREEDY):
        list(completions(engine, requests()[:2], PLANS[0], decoding))
    made = [live.parameters for live in engine._engine.asked]
    assert [(one.temperature, one.top_p, one.top_k) for one in made] == [(0.7, 0.9, 20)] * 4 + [(0.0, 1.0, 0)] * 2
    assert len({one.seed for one in made[:4]}) == 4
    assert [one.seed for one in made[4:]] == [None, None]
    assert all(one.output_kind == "delta" for one in made)


def test_blocks_that_are_done_are_left_out(model, vllm):
    engine = VllmEngine(model, batch_size=1)
    many = [GenerationRequest(id=str(index), prompt=f"{index:03}", max_new_tokens=1) for index in range(8)]
    blocks = [[one.id for one in block] for block in completions(engine, many, PLANS[0], GREEDY)]
    assert blocks == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]
    done = ["0", "1", "2", "3", "5"]
    assert [[one.id for one in block] for block in completions(engine, many, PLANS[0], GREEDY, done)] == blocks[1:]
    with pytest.raises(InputError, match="more than once"):
        completions(engine, [many[0], many[0]], PLANS[0], GREEDY)


def test_stopping_in_the_middle_leaves_nothing_under_way(engine):
    engine._engine.fail_after = 2
    with pytest.raises(KeyboardInterrupt):
        list(completions(engine, requests(), PLANS[1], GREEDY))
    assert not engine._engine.live
    engine._engine.fail_after = None
    (found, *_) = by_id(completions(engine, requests(), PLANS[0], GREEDY)).values()
    assert found.text == text_of(engine, greedy(engine, SHARED + "a", PLANS[0], 5))


def test_vllm_is_started_in_this_process_and_eager(model, vllm):
    engine = VllmEngine(model, batch_size=7, cache_gib=0.5)
    (eager,) = vllm.started
    assert eager["enforce_eager"]
    assert (eager["max_num_seqs"], eager["kv_cache_memory_bytes"], eager["dtype"]) == (7, 2**29, "float32")
    assert eager["distributed_executor_backend"] == "uni" and eager["async_scheduling"] is False
    assert eager["enable_prefix_caching"] is True
    assert engine.describe()["model_hash"] == model.model_hash


def test_a_context_that_does_not_fit_is_said_and_kept_to(model, monkeypatch, caplog):
    install(FakeVllm(NUM_LAYERS, room=len(SHARED) + 8), monkeypatch)
    with caplog.at_level(logging.WARNING):
        engine = VllmEngine(model, cache_gib=0.1)
    assert f"the context is {len(SHARED) + 8} tokens, of the 512 that" in caplog.text
    (found, *_) = by_id(completions(engine, requests(), PLANS[0], GREEDY)).values()
    assert found.num_prompt_tokens == len(SHARED) + 1
    long = LikelihoodRequest(id="a", prompt="x" * 300, continuations=("y",))
    list(log_likelihoods(engine, [long], PLANS[0]))
    assert engine._engine.asked[-1].num_prompt == len(SHARED) + 7


def test_what_vllm_does_not_give_is_refused_in_one_line(engine):
    with pytest.raises(InputError, match=r"whole vocabulary.*`engine` shared"):
        divergences(engine, [], PLANS[1], PLANS[0])
    with pytest.raises(InputError, match="`engine` shared"):
        engine.hidden_states([], PLANS[0])
    with pytest.raises(InputError, match="of 4 .*has 6"):
        completions(engine, requests(), CutPlan(num_layers=4), GREEDY)


def test_layers_are_found_by_their_number_and_name():
    toy_model = ToyModel(6)
    assert module_lists_of(toy_model, num_layers=6) == ["model.layers"]
    assert module_lists_of(toy_model, num_layers=5) == []
    toy_model.visual = nn.Module()
    toy_model.visual.blocks = nn.ModuleList(nn.Identity() for _ in range(6))
    found = module_lists_of(toy_model, num_layers=6)
    assert pick_layer_list(found, layers="model.language_model.layers", model="x") == "model.layers"
    with pytest.raises(InputError, match="model.layers, visual.blocks"):
        pick_layer_list(found, layers="transformer.h", model="x")
    with pytest.raises(InputError, match="has no list"):
        pick_layer_list([], layers="transformer.h", model="x")


def test_what_a_layer_hands_on_follows_from_its_signature():
    def both(self: Any, positions: Any, hidden_states: Any, residual: Any, **more: Any) -> Any: ...
    def mamba(self: Any, hidden_states: Any, residual: Any = None, metadata: Any = None) -> Any: ...
    def one(self: Any, position_ids: Any, hidden_states: Any) -> Any: ...
    def first(self: Any, x: Any, mask: Any = None) -> Any: ...
    def granite(self: Any, positions: Any, hidden_states: Any) -> tuple[Tensor, Tensor]: ...  # type: ignore[empty-body]

    assert pass_states_on(both)("p", "h", "r") == ("h", "r")
    assert pass_states_on(both)(positions="p", hidden_states="h", residual=None, scaling=1) == ("h", None)
    assert pass_states_on(mamba)("h", "r") == ("h", "r")
    assert pass_states_on(mamba)("h") == ("h", None)
    assert pass_states_on(one)("p", "h") == "h"
    assert pass_states_on(one)("p", hidden_states="h") == "h"
    assert pass_states_on(first)("h", mask=1) == "h"
    assert pass_states_on(granite)("p", "h") == "h"


def test_what_cannot_be_started_is_refused_in_one_line(model, vllm, monkeypatch):
    with pytest.raises(InputError, match="the type martian, of which .* qwen3_moe.*`engine` shared"):
        VllmEngine(replace(model, structure=Structure(model_type="martian")))
    with pytest.raises(InputError, match="cpu, not on cuda"):
        VllmEngine(model, device="cuda")
    install(FakeVllm(NUM_LAYERS, refuses=ValueError("no room.\nmore about it")), monkeypatch)
    with pytest.raises(InputError, match=r"\(no room\).*`cache_gib`"):
        VllmEngine(model)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra, match=r"pip install .*\[vllm\]'"):
        VllmEngine(model)
