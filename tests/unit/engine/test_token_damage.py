"""What a comparison of plans says token by token: the same from both engines, and equal to a single forward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from layercut.engine.base import Divergence, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.scores import Reference, token_choice
from layercut.engine.shared import SharedEngine
from layercut.models.loading import LoadedModel
from layercut.surgery.plan import CutPlan
from layercut.surgery.remove import bypass
from tests.support.engines import divergences
from tests.support.loaded import tiny_loaded
from tests.support.tiny import NUM_LAYERS

UNCUT, CUT = CutPlan(num_layers=NUM_LAYERS), CutPlan(num_layers=NUM_LAYERS, removed=(4, 1))
ASKED = [
    LikelihoodRequest(id="a", prompt="7 * 8 =", continuations=(" 56, as é says.",), by_token=True),
    LikelihoodRequest(id="b", prompt="7 * 8 =", continuations=(" 56",)),
    LikelihoodRequest(id="c", prompt="7 * 9 =", continuations=(" 63",), by_token=True),
]
Make = Callable[[LoadedModel], PlainEngine | SharedEngine]


def ask(make: Make) -> dict[str, Divergence]:
    found = divergences(make(tiny_loaded("llama")), ASKED, CUT, UNCUT)
    return {answer.id: answer for batch in found for answer in batch}


@pytest.mark.parametrize("make", [PlainEngine, SharedEngine])
def test_equals_a_forward_pass_over_one_row(make: Make) -> None:
    answers, loaded = ask(make), tiny_loaded("llama")
    assert answers["b"].tokens == ()
    for request in (ASKED[0], ASKED[2]):
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


def test_half_a_character_is_shown_with_its_last_byte() -> None:
    texts = [token.text for token in ask(PlainEngine)["a"].tokens]
    place = texts.index("é")
    assert texts[place - 1] == ""


def test_equally_likely_tokens_share_a_rank() -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0]])
    found = [int(token_choice(Reference.of(logits), logits, torch.tensor([token]))[0]) for token in range(4)]
    assert found == [4, 1, 1, 3]
