"""Every engine tells of the tokens it writes while one answer is under way, and the answers stay the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from layercut.engine.base import Decoding, Engine, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.progress.activity import listening_to
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.loaded import tiny_loaded

PLAN = CutPlan(num_layers=6, removed=(2,))


@pytest.mark.parametrize("build", [PlainEngine, SharedEngine])
@pytest.mark.parametrize("lengths", [(20, 20), (20, 9)])
def test_tokens_are_told_one_step_after_the_other(build: Callable[..., Engine], lengths: tuple[int, int]) -> None:
    engine = build(tiny_loaded("llama"))
    requests = [GenerationRequest(id=f"r{i}", prompt="a b c", max_new_tokens=n) for i, n in enumerate(lengths)]
    decoding = Decoding(temperature=1.0, seed=1)
    quiet = [answer for batch in completions(engine, requests, PLAN, decoding) for answer in batch]
    heard: list[tuple[int, int | None]] = []
    under_way: list[int | None] = []
    shares: list[float] = []

    class Hearing:
        def wrote(self, num_tokens: int, num_left: int | None, num_answers: int | None) -> None:
            heard.append((num_tokens, num_left))
            under_way.append(num_answers)

        def works(self, what: str, share: float) -> None:
            assert what.startswith("reading ") and not heard, "prompts are read before the first step"
            shares.append(share)

    with listening_to(Hearing()):
        answers = [answer for batch in completions(engine, requests, PLAN, decoding) for answer in batch]
    assert answers == quiet
    total = sum(answer.num_new_tokens for answer in answers)
    assert len(heard) >= max(answer.num_new_tokens for answer in answers) - 1, "once a step, not once a batch"
    assert total - len(answers) <= sum(written for written, _ in heard) <= total
    left = [number for _, number in heard if number is not None]
    assert left == sorted(left, reverse=True) and left[-1] == 0
    assert under_way[0] == 2 and under_way[-1] == 0 and set(under_way) <= {2, 1, 0}
    assert shares == ([pytest.approx(layer / 5) for layer in range(1, 6)] if build is SharedEngine else [])
    with listening_to(Hearing()):
        pass
    assert sum(written for written, _ in heard) <= total, "nothing is heard outside the block"


def test_the_share_of_a_reading_grows_while_a_reference_is_read_beside_it() -> None:
    shares: list[float] = []

    class Hearing:
        def wrote(self, num_tokens: int, num_left: int | None, num_answers: int | None) -> None:
            raise AssertionError("nothing is written")

        def works(self, what: str, share: float) -> None:
            shares.append(share)

    plans = [CutPlan(num_layers=6, removed=(layer,)) for layer in range(6)]
    asked = [LikelihoodRequest(id="a", prompt="a b c", continuations=("d e",))]
    with listening_to(Hearing()):
        found = list(SharedEngine(tiny_loaded("llama")).compare(asked, plans, CutPlan(num_layers=6)))
    assert len(found) == 6
    assert shares == sorted(shares) and len(set(shares)) > 6 and shares[-1] == 1
