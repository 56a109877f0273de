from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from scipy.stats import entropy

from layercut.engine import plain, stack
from layercut.engine.base import Divergence, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.scores import Reference, token_choice, token_divergence
from layercut.engine.shared import SharedEngine
from layercut.errors import InputError
from layercut.models.loading import LoadedModel
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass, remove_layers
from tests.support.engines import by_id, divergences, log_likelihoods
from tests.support.loaded import tiny_loaded
from tests.support.tiny import CONFIGS, NUM_LAYERS, tiny_model

UNCUT = CutPlan(num_layers=NUM_LAYERS)
CUT = CutPlan(num_layers=NUM_LAYERS, removed=(4, 1))
OTHER = CutPlan(num_layers=NUM_LAYERS, removed=(0,))
TEXTS = {
    "The quick brown fox": " jumps over the lazy dog, and does so again.",
    "7 * 8 =": " 56",
    "": "A text without anything before it.",
    "x": "y",
    "Once upon a time there was a model": " that had lost some layers.",
}
ASKED = [LikelihoodRequest(id=f"q{i}", prompt=p, continuations=(c,)) for i, (p, c) in enumerate(TEXTS.items())]


@cache
def loaded(model_type: str) -> LoadedModel:
    return tiny_loaded(model_type)


def compare(plan, reference=UNCUT, model_type="llama", batch_size=8, asked=ASKED):
    answers = by_id(divergences(PlainEngine(loaded(model_type), batch_size=batch_size), asked, plan, reference))
    return [answers[name] for name in sorted(answers)]


def numbers(answer: Divergence) -> list[float]:
    return [answer.nll, answer.reference_nll, answer.kl]


@torch.no_grad()
def by_hand(model_type: str, request: LikelihoodRequest, plan: CutPlan, reference: CutPlan) -> list[float]:
    """One row without padding through two models that were cut for good; distributions compared by scipy."""
    tokenizer = loaded(model_type).tokenizer
    context = tokenizer(request.prompt)["input_ids"] or [tokenizer.bos_token_id]
    continuation = tokenizer(request.continuations[0])["input_ids"]
    p_TV, q_TV = (
        remove_layers(tiny_model(model_type), which)(torch.tensor([[*context, *continuation]]))
        .logits[0]
        .double()
        .softmax(-1)
        .numpy()
        for which in (reference, plan)
    )
    sums = [0.0] * 3
    for place, token in enumerate(continuation, start=len(context) - 1):
        p, q = p_TV[place], q_TV[place]
        for index, value in enumerate((-math.log(q[token]), -math.log(p[token]), entropy(p, q))):
            sums[index] += float(value)
    return sums


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize(("plan", "reference"), [(CUT, UNCUT), (OTHER, CUT)], ids=["uncut", "two cuts"])
def test_equals_full_passes_of_both_models_compared_by_scipy(model_type, plan, reference):
    for request, answer in zip(ASKED, compare(plan, reference, model_type), strict=True):
        assert numbers(answer) == pytest.approx(by_hand(model_type, request, plan, reference), rel=1e-4, abs=1e-5)
        assert (answer.id, answer.num_tokens) == (request.id, len(request.continuations[0]))
        assert answer.kl > 0.01, "plans that hardly differ show nothing"


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_a_batch_of_one_is_a_batch_of_eight(model_type):
    for one, eight in zip(
        compare(CUT, model_type=model_type, batch_size=1), compare(CUT, model_type=model_type), strict=True
    ):
        assert numbers(one) == pytest.approx(numbers(eight), rel=1e-4, abs=1e-5)
        assert one.num_tokens == eight.num_tokens


@pytest.mark.parametrize("plan", [UNCUT, CUT], ids=["uncut", "cut"])
def test_a_plan_does_not_differ_from_itself(plan):
    for answer in compare(plan, CutPlan(num_layers=NUM_LAYERS, removed=plan.removed[::-1])):
        assert answer.kl == 0
        assert answer.nll == answer.reference_nll


@pytest.mark.parametrize("model_type", ["gemma2", "mixtral"])
def test_logits_in_chunks_are_logits_at_once(model_type, monkeypatch):
    asked = [*ASKED, LikelihoodRequest(id="options", prompt="7 * 8 =", continuations=(" 56", " 55", " no"))]
    engine = PlainEngine(loaded(model_type))

    def scores() -> list[tuple[float, ...]]:
        return [answer.log_likelihoods for batch in log_likelihoods(engine, asked, CUT) for answer in batch]

    at_once, scored_at_once = compare(CUT, model_type=model_type), scores()
    monkeypatch.setattr(stack, "CHUNK_SIZE", 3 * 260)  # three positions
    made = []
    own = loaded(model_type).model.get_output_embeddings().register_forward_hook(lambda *a: made.append(a[2].shape))
    in_chunks, scored_in_chunks = compare(CUT, model_type=model_type), scores()
    own.remove()
    assert {shape[1] for shape in made} <= {1, 2, 3}
    for one, other in zip(in_chunks, at_once, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-5, abs=1e-6)
    for ours, theirs in zip(scored_in_chunks, scored_at_once, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_order_and_resuming_change_nothing_to_the_last_bit():
    engine = PlainEngine(loaded("llama"), batch_size=2)
    through = list(divergences(engine, ASKED, CUT, UNCUT))
    shuffled = random.Random(1).sample(ASKED, len(ASKED))
    assert list(divergences(engine, shuffled, CUT, UNCUT)) == through
    done = {through[0][0].id, through[0][1].id, through[1][0].id}
    assert list(divergences(engine, ASKED, CUT, UNCUT, done)) == through[1:]


def test_the_model_is_whole_whenever_somebody_stops_asking():
    model = loaded("llama").model
    names = set(vars(model.base_model))
    asking = divergences(PlainEngine(loaded("llama"), batch_size=1), ASKED, CUT, OTHER)
    next(asking)
    assert len(model.model.layers) == NUM_LAYERS
    assert set(vars(model.base_model)) == names
    asking.close()


def test_refusals_name_the_request():
    engine = PlainEngine(tiny_loaded("llama"))
    for wrong in ((), ("a", "b")):
        request = LikelihoodRequest(id="r7", prompt="x", continuations=wrong)
        with pytest.raises(InputError, match="request 'r7'"):
            divergences(engine, [request], CUT, UNCUT)
    with pytest.raises(InputError, match="'q0' is there"):
        divergences(engine, [ASKED[0], ASKED[0]], CUT, UNCUT)
    broken = tiny_loaded("llama")
    with torch.no_grad():
        broken.model.model.layers[2].mlp.down_proj.weight.fill_(torch.nan)
    with pytest.raises(InputError, match="request 'q0': tiny-llama .*float32"):
        list(divergences(PlainEngine(broken), ASKED[:1], CUT, UNCUT))


def test_tokens_that_are_ruled_out_add_nothing_or_everything():
    token = torch.tensor([0])
    reference = Reference.of(torch.tensor([[1.0, 0.0]]).log())
    for values, kl in ([[0.0, 1.0]], math.inf), ([[1.0, 0.0]], 0):
        assert float(token_divergence(reference, torch.tensor(values).log(), token).kl) == kl


def test_running_out_of_memory_changes_no_answer():
    small = tiny_loaded("llama")

    def out_of_memory(_: Any, args: Sequence[torch.Tensor]) -> None:
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    small.model.get_input_embeddings().register_forward_pre_hook(out_of_memory)
    answers = by_id(divergences(PlainEngine(small, batch_size=8), ASKED, CUT, UNCUT))
    for theirs in compare(CUT):
        assert numbers(answers[theirs.id]) == pytest.approx(numbers(theirs), rel=1e-5, abs=1e-6)


def test_plans_share_one_pass_of_the_reference_and_get_the_numbers_of_each_alone(monkeypatch):
    passes: list[Any] = []
    read_states_at = plain.read_states_at
    monkeypatch.setattr(plain, "read_states_at", lambda *given: passes.append(1) or read_states_at(*given))
    engine, plans = PlainEngine(loaded("llama"), batch_size=2), [CUT, OTHER, UNCUT]
    done = {(CUT.key, "q0"), (CUT.key, "q1"), (CUT.key, "q2"), (CUT.key, "q3"), (CUT.key, "q4")}
    found: dict[str, list[Divergence]] = {}
    for plan, answers in engine.compare(ASKED, plans, UNCUT):
        found.setdefault(plan.key, []).extend(answers)
    assert len(passes) == 3 * (1 + 2), "three batches: the reference, and each plan that differs from it"
    for plan in plans:
        assert sorted(found[plan.key], key=lambda one: one.id) == compare(plan, batch_size=2)
    passes.clear()
    left = [plan for plan, _ in engine.compare(ASKED, plans, UNCUT, lambda plan, id: (plan.key, id) not in done)]
    assert CUT not in left and len(passes) == 3 * (1 + 1)


BY_TOKEN = [
    LikelihoodRequest(id="a", prompt="7 * 8 =", continuations=(" 56, as é says.",), by_token=True),
    LikelihoodRequest(id="b", prompt="7 * 8 =", continuations=(" 56",)),
    LikelihoodRequest(id="c", prompt="7 * 9 =", continuations=(" 63",), by_token=True),
]


@pytest.mark.parametrize("make", [PlainEngine, SharedEngine])
def test_token_by_token_it_equals_a_forward_pass_over_one_row(make):
    loaded = tiny_loaded("llama")
    answers = by_id(divergences(make(loaded), BY_TOKEN, CUT, UNCUT))
    assert answers["b"].tokens == ()
    for request in (BY_TOKEN[0], BY_TOKEN[2]):
        tokens = answers[request.id].tokens
        prompt, given = (loaded.tokenizer(text)["input_ids"] for text in (request.prompt, request.continuations[0]))
        ids = torch.tensor([[*prompt, *given]])
        logits = {}
        for plan in (CUT, UNCUT):
            with bypass(loaded.model, plan), torch.no_grad():
                logits[plan.key] = loaded.model(ids).logits[0, len(prompt) - 1 : -1]
        q, p = (logits[plan.key].log_softmax(-1) for plan in (CUT, UNCUT))
        assert len(tokens) == len(given)
        assert "".join(token.text for token in tokens) == request.continuations[0]
        for index, token in enumerate(tokens):
            assert token.nll == pytest.approx(-float(q[index, given[index]]), abs=1e-4)
            assert token.reference_nll == pytest.approx(-float(p[index, given[index]]), abs=1e-4)
            assert token.kl == pytest.approx(float((p[index].exp() * (p[index] - q[index])).sum()), abs=1e-4)
            for rank, scores in ((token.rank, q), (token.reference_rank, p)):
                order = scores[index].argsort(descending=True).tolist()
                assert rank == 1 + order.index(given[index])
            assert token.likeliest == loaded.tokenizer.decode([int(q[index].argmax())], skip_special_tokens=True)
        assert sum(token.nll for token in tokens) == pytest.approx(answers[request.id].nll)
        assert sum(token.kl for token in tokens) == pytest.approx(answers[request.id].kl)
    texts = [token.text for token in answers["a"].tokens]
    assert texts[texts.index("é") - 1] == "", "half a character is shown with its last byte"


def test_equally_likely_tokens_share_a_rank():
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    found = [int(token_choice(Reference.of(logits), logits, torch.tensor([token]))[0]) for token in range(4)]
    assert found == [4, 1, 1, 3]
