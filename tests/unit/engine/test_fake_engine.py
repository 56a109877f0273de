"""The fake must keep the Engine's promises, or tests that lean on it prove nothing."""

from __future__ import annotations

import pytest

from layercut.engine.base import Decoding, Engine, GenerationRequest, LikelihoodRequest
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions, log_likelihoods
from tests.support.fake_engine import FakeEngine, Killed

PLAN = CutPlan(num_layers=6)
ASKED = [GenerationRequest(id=f"q{i}", prompt="a b", max_new_tokens=3, stop=("!",)) for i in range(10)]


def test_it_is_killed_and_resumed_like_an_engine() -> None:
    fake: Engine = (killed := FakeEngine(texts=lambda request, plan: request.id, kill_after=2))
    seen = []
    with pytest.raises(Killed):
        for batch in completions(fake, ASKED, PLAN, Decoding()):
            seen += batch
    assert [answer.id for answer in seen] == [f"q{i}" for i in range(8)]
    killed.kill_after = None
    done = {answer.id for answer in seen[:5]}
    rest = [answer for batch in completions(fake, ASKED, PLAN, Decoding(), done) for answer in batch]
    assert [answer.id for answer in rest] == [f"q{i}" for i in range(4, 10)], "whole batches only"
    assert killed.batches[-1] == ["q8", "q9"]
    assert killed.calls == [("completions", "uncut")] * 2


@pytest.mark.parametrize(
    ("answer", "text", "reason", "num_tokens"),
    [("one two", "one two", "stop", 2), ("a b c d", "a b c", "length", 3), ("a b! c d", "a b", "stop", 3)],
)
def test_its_answers_end_as_real_ones_do(answer: str, text: str, reason: str, num_tokens: int) -> None:
    ((found,),) = completions(FakeEngine(texts={"q0": answer}), ASKED[:1], PLAN, Decoding())
    assert (found.text, found.finish_reason, found.num_new_tokens) == (text, reason, num_tokens)


def test_it_scores_by_table_or_by_function() -> None:
    request = LikelihoodRequest(id="a", prompt="x y", continuations=(" 1", " 2"))
    for scores in ({"a": [-2, -1]}, lambda request, plan: [-2.0, -1.0]):
        ((found,),) = log_likelihoods(FakeEngine(scores=scores), [request], PLAN)
        assert found.log_likelihoods == (-2.0, -1.0)
        assert found.is_greedy == (False, True)
