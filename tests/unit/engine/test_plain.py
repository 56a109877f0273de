from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from layercut.engine.base import Completion, Decoding, GenerationRequest, LikelihoodRequest, Likelihoods, Message
from layercut.engine.plain import PlainEngine
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.engines import by_id, completions, log_likelihoods
from tests.support.loaded import greedy_tokens, tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS

UNCUT = CutPlan(num_layers=NUM_LAYERS)
CUT = CutPlan(num_layers=NUM_LAYERS, removed=(0, 3))
GREEDY = Decoding()


def engine(model_type: str = "llama", **options: Any) -> PlainEngine:
    return PlainEngine(tiny_loaded(model_type), **options)


def ask(id: str, prompt: Any = "2 + 2 =", max_new_tokens: int = 8, stop: tuple[str, ...] = ()) -> GenerationRequest:
    return GenerationRequest(id=id, prompt=prompt, max_new_tokens=max_new_tokens, stop=stop)


def complete(engine: PlainEngine, *requests: GenerationRequest, decoding: Decoding = GREEDY) -> list[Completion]:
    found = by_id(completions(engine, requests, UNCUT, decoding))
    return [found[request.id] for request in requests]


def score(engine: PlainEngine, *requests: LikelihoodRequest) -> list[Likelihoods]:
    found = by_id(log_likelihoods(engine, requests, UNCUT))
    return [found[request.id] for request in requests]


def test_it_describes_what_decides_the_numbers_and_counts_tokens():
    described = engine(batch_size=3).describe()
    model = {"engine": "plain", "model": "tiny-llama", "model_hash": "0" * 16}
    assert json.loads(json.dumps(described)) == {**model, "dtype": "float32", "device": "cpu", "batch_size": 3}
    (answer,) = complete(engine(), ask("a", max_new_tokens=5))
    assert answer == Completion(id="a", text=answer.text, finish_reason="length", num_prompt_tokens=7, num_new_tokens=5)


def test_rows_of_one_batch_may_differ_in_limits_and_stop_strings():
    together = engine(batch_size=8)
    free = complete(together, ask("free", max_new_tokens=20))[0].text
    stop = free[4:6]
    stopped = ask("stop", max_new_tokens=20, stop=("never", stop))
    requests = [ask("short", max_new_tokens=3), stopped, ask("free", max_new_tokens=20)]
    answers = complete(together, *requests)
    assert answers == [complete(together, request)[0] for request in requests]
    assert [answer.finish_reason for answer in answers] == ["length", "stop", "length"]
    assert answers[1].text == free[: free.find(stop)]
    assert [len(answers[0].text), answers[2].text] == [3, free]


def test_batches_are_the_same_in_whatever_order_requests_of_one_length_come():
    two = engine(batch_size=2)
    asked = [ask(name, f"word {name}") for name in "dbeca"]
    scored = [LikelihoodRequest(id=name, prompt=f"word {name}", continuations=(" x",)) for name in "dbeca"]
    for requests in (asked, asked[::-1], scored, scored[::-1]):
        batches = [[answer.id for answer in batch] for _, batch in two.ask(requests, [UNCUT], GREEDY)]
        assert batches == [["a", "b"], ["c", "d"], ["e"]]


def test_a_stop_token_ends_a_row_and_leaves_the_others_alone():
    loaded = tiny_loaded("llama")
    requests = [ask("a", "one"), ask("b", "two words"), ask("c", "and three words")]
    rows = [greedy_tokens(loaded.model, loaded.tokenizer(request.prompt)["input_ids"], 8) for request in requests]
    stop = rows[1][2]
    loaded.model.generation_config.eos_token_id = [stop]
    for tokens, answer in zip(rows, complete(PlainEngine(loaded), *requests), strict=True):
        num_kept = tokens.index(stop) if stop in tokens else 8
        assert answer.text == loaded.tokenizer.decode(tokens[:num_kept])
        assert answer.num_new_tokens == min(num_kept + 1, 8)
        assert answer.finish_reason == ("stop" if stop in tokens else "length")
    assert sum(stop in tokens for tokens in rows) < 3, "some row must go on, else this shows nothing"


def test_the_checkpoints_sampling_parameters_are_left_aside(caplog):
    loaded = tiny_loaded("llama")
    expected = complete(PlainEngine(loaded), ask("a", max_new_tokens=20))
    own = GenerationConfig(
        do_sample=True, temperature=9.0, top_k=3, repetition_penalty=5.0, no_repeat_ngram_size=1, min_new_tokens=30,
        max_length=9, suppress_tokens=list(range(200)), num_beams=2,
    )  # fmt: skip
    loaded.model.generation_config = own
    assert complete(PlainEngine(loaded), ask("a", max_new_tokens=20)) == expected
    assert loaded.model.generation_config is own
    assert not caplog.records


def test_conversations_are_rendered_with_the_template():
    chat = engine()
    (answer,) = complete(chat, ask("a", (Message("user", "2+2?"),)))
    written = "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
    assert answer == complete(chat, ask("a", written))[0]


def test_errors_name_the_request_and_come_at_once():
    loaded = tiny_loaded("llama")
    loaded.tokenizer.chat_template = None
    plain = PlainEngine(loaded)
    wrong = {
        "request 'x': tiny-llama has no chat template": ask("x", (Message("user", "2+2?"),)),
        "request 'x': the prompt has no tokens": ask("x", ""),
        "request 'x': max_new_tokens is 0": ask("x", max_new_tokens=0),
        "request 'x': the prompt has 512 tokens and leaves no space .* takes 512": ask("x", "a" * 512),
        "the request 'ok' is there more than once": ask("ok"),
    }
    for message, request in wrong.items():
        with pytest.raises(InputError, match=message):
            completions(plain, [ask("ok"), request], UNCUT, GREEDY)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_what_does_not_fit_in_the_context_is_not_generated(model_type):
    answers = complete(engine(model_type), ask("full", "ab" * 254, 100), ask("room", "ab", 10))
    assert [(answer.finish_reason, answer.num_new_tokens) for answer in answers] == [("length", 4), ("length", 10)]
    assert answers[1] == complete(engine(model_type), ask("room", "ab", 10))[0]


def test_likelihood_requests_that_cannot_be_scored_are_refused_by_name():
    def request(prompt: Any, *continuations: str) -> LikelihoodRequest:
        return LikelihoodRequest(id="x", prompt=prompt, continuations=continuations)

    for message, wrong in {
        "no continuations": request("a"),
        "1 prompts for 2 continuations": replace(request("a", "b", "c"), prompts=("a",)),
        "the continuation '' has no tokens": request("a", ""),
        "513 tokens and tiny-llama takes 512": request("a", "b" * 513),
    }.items():
        with pytest.raises(InputError, match=f"request 'x': .*{message}"):
            log_likelihoods(engine(), [wrong], UNCUT)


def test_a_context_that_is_too_long_loses_its_beginning_with_one_warning(caplog):
    tail = "x" * 512
    requests = [
        LikelihoodRequest(id=id, prompt=prompt, continuations=("y", "n"))
        for id, prompt in {"long": "abc" + tail, "longer": "abcdef" + tail, "tail": tail}.items()
    ]
    with caplog.at_level(logging.WARNING, logger="layercut"):
        long, longer, kept = score(engine(), *requests)
    for other in (longer, kept):
        assert long.log_likelihoods == pytest.approx(other.log_likelihoods)
    assert [long.num_prompt_tokens, longer.num_prompt_tokens, kept.num_prompt_tokens] == [515, 518, 512]
    (record,) = caplog.records
    assert "2 of 3 prompts" in record.getMessage() and "up to 6 tokens" in record.getMessage()


def test_continuations_that_differ_in_the_last_token_share_one_row(monkeypatch):
    loaded = tiny_loaded("llama")
    seen: list[tuple[int, ...]] = []
    loaded.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    shared = LikelihoodRequest(id="a", prompt="n:", continuations=(" 11", " 12", " 13", " 2", " 11"))
    (together,) = score(PlainEngine(loaded), shared)
    assert seen == [(2, 4)], "rows 'n: 1' and 'n: '"
    singles = [replace(shared, id=f"{n}", continuations=(text,)) for n, text in enumerate(shared.continuations)]
    alone = [one.log_likelihoods[0] for one in score(PlainEngine(loaded), *singles)]
    assert together.log_likelihoods == pytest.approx(alone, rel=1e-5)
    assert together.num_tokens == (3, 3, 3, 2, 3)


def test_scores_that_are_no_numbers_are_an_error():
    loaded = tiny_loaded("llama")
    with torch.no_grad():
        loaded.model.lm_head.weight[7] = float("nan")
    with pytest.raises(InputError, match="request 'a': tiny-llama .*float32"):
        score(PlainEngine(loaded), LikelihoodRequest(id="a", prompt="n:", continuations=("1",)))


def final_norm(model: PreTrainedModel) -> nn.Module:
    names = ("norm", "ln_f", "final_layer_norm")
    return next(module for name, module in model.base_model.named_children() if name in names)


@pytest.mark.parametrize("model_type", list(CONFIGS))
@pytest.mark.parametrize("plan", [UNCUT, CUT], ids=["uncut", "cut"])
def test_hidden_states_are_those_before_the_final_norm(model_type, plan):
    loaded = tiny_loaded(model_type)
    texts = ["a few words", "b", "some more words here"]
    batches = list(PlainEngine(loaded, batch_size=2).hidden_states(texts, plan))
    assert [states.ids for states in batches] == [(2, 0), (1,)]
    for states in batches:
        assert len(states.states_BTD) == len(plan.kept) + 1
        for row, place in enumerate(states.ids):
            tokens = torch.tensor([loaded.tokenizer(texts[place])["input_ids"]])
            with torch.no_grad(), bypass(loaded.model, plan):
                expected = loaded.model(tokens, output_hidden_states=True).hidden_states
            length = tokens.shape[1]
            assert states.mask_BT[row].tolist() == [1] * length + [0] * (states.mask_BT.shape[1] - length)
            found = [state[row, :length] for state in states.states_BTD]
            for ours, theirs in zip(found[:-1], expected[:-1], strict=True):
                torch.testing.assert_close(ours, theirs[0], rtol=1e-3, atol=1e-3)
            normed = final_norm(loaded.model)(found[-1]).detach()
            torch.testing.assert_close(normed, expected[-1][0], rtol=1e-3, atol=1e-3)
            assert not torch.allclose(found[-1], expected[-1][0], atol=1e-2)


def test_texts_that_have_no_hidden_states_are_refused_by_number():
    with pytest.raises(InputError, match="text 1 has 0 tokens"):
        engine().hidden_states(["a", ""], UNCUT)
    with pytest.raises(InputError, match="text 0 has 600 tokens"):
        engine().hidden_states(["a" * 600], UNCUT)


def test_whoever_stops_asking_leaves_the_model_whole():
    loaded = tiny_loaded("llama")
    plain, layers = PlainEngine(loaded, batch_size=1), list(loaded.model.model.layers)

    def num_hooks() -> int:
        return sum(len(layer._forward_hooks) + len(layer._forward_pre_hooks) for layer in layers)

    next(iter(completions(plain, [ask("a"), ask("b")], CUT, GREEDY)))
    assert list(loaded.model.model.layers) == layers
    before = num_hooks()
    next(iter(plain.hidden_states(["a", "b"], CUT)))
    assert list(loaded.model.model.layers) == layers
    assert num_hooks() == before


def test_running_out_of_memory_changes_no_answer(monkeypatch, caplog):
    loaded = tiny_loaded("llama")
    asked = [ask(f"r{i}", "word " * (1 + i)) for i in range(7)]
    scored = [LikelihoodRequest(id=f"r{i}", prompt="word " * (1 + i), continuations=("ab", "cd")) for i in range(7)]
    drawn = Decoding(temperature=1)
    expected = complete(PlainEngine(loaded), *asked, decoding=drawn), score(PlainEngine(loaded), *scored)

    def out_of_memory(_: Any, args: Sequence[torch.Tensor]) -> None:
        if args[0].shape[0] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    loaded.model.get_input_embeddings().register_forward_pre_hook(out_of_memory)
    small = PlainEngine(loaded, batch_size=8)
    assert complete(small, *asked, decoding=drawn) == expected[0]
    for answer, other in zip(score(small, *scored), expected[1], strict=True):
        assert answer.log_likelihoods == pytest.approx(other.log_likelihoods, rel=1e-5)
    assert sum("out of memory" in record.getMessage() for record in caplog.records) == 1
    assert small.describe()["batch_size"] == 8, "what was asked for stays in the settings"
