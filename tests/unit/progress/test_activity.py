"""Engines tell of tokens while an answer is under way, and without a terminal a long step is heard of."""

import time
from collections.abc import Callable

import pytest

from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.plain import PlainEngine
from layercut.engine.shared import SharedEngine
from layercut.progress import activity
from layercut.progress.activity import listening_to, report_tokens
from layercut.progress.bars import RunProgress, progress_bar
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.loaded import tiny_loaded

PLAN = CutPlan(num_layers=6, removed=(2,))


@pytest.mark.parametrize("build", [PlainEngine, SharedEngine])
@pytest.mark.parametrize("lengths", [(20, 20), (20, 9)])
def test_tokens_are_told_one_step_after_the_other(build, lengths):
    engine = build(tiny_loaded("llama"))
    requests = [GenerationRequest(id=f"r{i}", prompt="a b c", max_new_tokens=n) for i, n in enumerate(lengths)]
    decoding = Decoding(temperature=1.0, seed=1)
    quiet = [answer for batch in completions(engine, requests, PLAN, decoding) for answer in batch]
    heard: list[tuple[int, int | None]] = []
    shares: list[float] = []

    class Hearing:
        def wrote(self, num_tokens: int, num_left: int | None) -> None:
            heard.append((num_tokens, num_left))

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
    assert shares == ([pytest.approx(layer / 5) for layer in range(1, 6)] if build is SharedEngine else [])
    with listening_to(Hearing()):
        pass
    assert sum(written for written, _ in heard) <= total, "nothing is heard outside the block"


def test_the_share_of_a_reading_grows_while_a_reference_is_read_beside_it():
    shares: list[float] = []

    class Hearing:
        def wrote(self, num_tokens: int, num_left: int | None) -> None:
            raise AssertionError("nothing is written")

        def works(self, what: str, share: float) -> None:
            shares.append(share)

    plans = [CutPlan(num_layers=6, removed=(layer,)) for layer in range(6)]
    asked = [LikelihoodRequest(id="a", prompt="a b c", continuations=("d e",))]
    with listening_to(Hearing()):
        found = list(SharedEngine(tiny_loaded("llama")).compare(asked, plans, CutPlan(num_layers=6)))
    assert len(found) == 6
    assert shares == sorted(shares) and len(set(shares)) > 6 and shares[-1] == 1


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(activity, "EVERY", 0.05)


def wait_for(number: int, lines: Callable[[], list[str]]) -> list[str]:
    deadline = time.monotonic() + 5
    while len(lines()) < number and time.monotonic() < deadline:
        time.sleep(0.01)
    return lines()


@pytest.mark.usefixtures("quick")
def test_one_long_batch_is_heard_of_by_its_tokens(console, lines):
    with progress_bar("Answering with tiny", 8, console, "answers") as on_progress:
        on_progress(0, 8)
        report_tokens(10, 90)
        report_tokens(20, 70)
        first = wait_for(2, lines)[0]
    assert first.startswith("Answering with tiny: 0 of 8 answers, 30 tokens written")
    assert "at most 70 left" in first


@pytest.mark.usefixtures("quick")
def test_a_stage_is_heard_of(console, lines):
    with RunProgress(console, stage="Choosing layers").running() as progress:
        progress("answers", 0, 8)
        report_tokens(8, 512)
        assert "Choosing layers: answers 0 of 8, 8 tokens written" in wait_for(2, lines)[0]


@pytest.mark.usefixtures("quick")
def test_the_innermost_step_is_the_one_described_and_nothing_runs_on(console, lines):
    with activity.under_way(console, lambda: "outer"), activity.under_way(console, lambda: "inner"):
        assert set(wait_for(2, lines)) == {"inner"}
    count = len(lines())
    time.sleep(0.2)
    assert len(lines()) == count
