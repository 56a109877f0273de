"""A pool of engines answers as one engine does, whoever dies meanwhile. Two processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from layercut.engine.base import Decoding, GenerationRequest, LikelihoodRequest
from layercut.engine.ray_pool import RayPool
from layercut.errors import InputError
from layercut.surgery.plan import CutPlan
from tests.support.engines import completions
from tests.support.pool_engine import (
    asked,
    flat,
    forget,
    no_engine,
    processes,
    slow_engine,
    text_of,
    tiny_shared_engine,
)

ray = pytest.importorskip("ray", reason="needs the extra [ray]")

ROOT = Path(__file__).parents[3]
PLANS = [CutPlan(num_layers=6, removed=removed) for removed in ((), (1,), (2,), (3,), (4,), (2, 4))]
GREEDY = Decoding()


@pytest.fixture(scope="module", autouse=True)
def two_cores():
    if "RAY_ADDRESS" in os.environ:  # a cluster that runs already
        ray.init(log_to_driver=False)
    else:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def slow(notes):
    """Two members that take 50 ms over an answer; started once, as that takes seconds."""
    with closing(RayPool("local:2", partial(slow_engine, notes, 0.05))) as pool:
        assert pool.num_layers == 6
        yield pool


@pytest.fixture(autouse=True)
def nothing_asked(notes):
    forget(notes)


def requests(num: int, tokens: int = 6) -> list[GenerationRequest]:
    return [
        GenerationRequest(id=f"r{i}", prompt=f"count to {i}: " + "1, 2" * (i % 3), max_new_tokens=tokens)
        for i in range(num)
    ]


def test_it_answers_as_one_engine_does():
    alone = tiny_shared_engine()
    with closing(RayPool("local:2", tiny_shared_engine)) as pool:
        assert pool.describe() == alone.describe()
        assert pool.num_layers == 6
        for decoding in (GREEDY, Decoding(temperature=0.8, seed=3)):
            many = requests(20)
            expected = flat(alone.ask(many, PLANS, decoding))
            assert flat(pool.ask(many, PLANS, decoding)) == expected
            assert len({answer.text for answer in expected.values()}) > 10  # else this says little
        one = [answer for batch in completions(pool, requests(9), PLANS[1], GREEDY, done={"r1"}) for answer in batch]
        assert {answer.id for answer in one} >= {f"r{i}" for i in range(9)} - {"r1"}

        scored = [LikelihoodRequest(id=f"s{i}", prompt=f"{i} and", continuations=(" one", " two")) for i in range(7)]
        expected_scores = flat(alone.ask(scored, PLANS))
        found = flat(pool.ask(scored, PLANS))
        assert found.keys() == expected_scores.keys()
        for key, answer in found.items():
            assert answer.log_likelihoods == pytest.approx(expected_scores[key].log_likelihoods, abs=1e-4)
        mixed = [*requests(3), *(replace(one, id=f"r{i}") for i, one in enumerate(scored[:3]))]
        kinds = sorted(
            (plan.key, answer.id, type(answer).__name__)
            for plan, answers in pool.ask(mixed, PLANS[:2], GREEDY)
            for answer in answers
        )
        names = ("Completion", "Likelihoods")
        assert kinds == sorted((plan.key, f"r{i}", kind) for plan in PLANS[:2] for i in range(3) for kind in names)
        compared = [LikelihoodRequest(id="c", prompt="a", continuations=(" b c",))]
        (expected_damage,) = flat(alone.compare(compared, [PLANS[2]], PLANS[0])).values()
        (damage,) = flat(pool.compare(compared, [PLANS[2]], PLANS[0])).values()
        assert damage.kl == pytest.approx(expected_damage.kl, abs=1e-4)
        with pytest.raises(InputError, match="a pool of engines does not give hidden states"):
            pool.hidden_states(["a"], PLANS[3])


def test_what_keeps_a_member_from_its_model_is_told():
    """Before the next pool takes both cores."""
    with (
        closing(RayPool("local:1", no_engine)) as pool,
        pytest.raises(InputError, match="this machine has no such model"),
    ):
        pool.describe()


def other_at_work(notes: Path, answer: tuple[str, str]) -> int | None:
    """The member that did not give this answer, in the middle of its first block; None where it has ended that.

    Twelve requests make groups of 4; the first blocks are one under two plans, and under the other three. It is waited
    for, as it may have been slow to begin.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        seen = asked(notes)
        (mine,) = {pid for pid, key, name in seen if (key, name) == answer}
        theirs = [(pid, key) for pid, key, _ in seen if pid != mine]
        if theirs:
            pid, key = theirs[0]
            size = 4 * (2 if key in {plan.key for plan in PLANS[:2]} else 3)
            return pid if len(theirs) < size - 1 else None
        time.sleep(0.01)
    raise AssertionError("the other member was never asked anything")


def test_both_members_work_and_one_that_is_killed_costs_its_block_alone(slow, notes):
    plans = PLANS[:5]  # two in one block and three in the other, so that both do not end at once
    many = requests(12)
    answers: dict[tuple[str, str], str] = {}
    killed, before = None, processes(slow)
    for plan, some in slow.ask(many, plans, GREEDY):
        for answer in some:
            assert (plan.key, answer.id) not in answers, "an answer came twice"
            answers[plan.key, answer.id] = answer.text
        if killed is None:
            killed = other_at_work(notes, (plan.key, some[0].id))
            if killed is not None:
                os.kill(killed, signal.SIGKILL)
    assert killed is not None, "never was one member at work when the other had answered"
    assert set(before) - set(processes(slow)) == {killed}
    assert answers == {(plan.key, one.id): text_of(one, plan) for plan in plans for one in many}
    twice = len(asked(notes)) - len(answers)
    assert 0 < twice <= 2 * len(many)  # a block, and nothing else
    assert len({pid for pid, _, _ in asked(notes)}) >= 2


def test_what_is_out_is_not_sent_any_more(slow, notes):
    """A race: after the first answers nothing but one plan is wanted any more."""
    many = requests(40)
    going = {plan.key for plan in PLANS}
    found: dict[str, int] = {}

    def wanted(plan: CutPlan, item: str) -> bool:
        return plan.key in going

    for plan, some in slow.ask(many, PLANS, GREEDY, wanted):
        found[plan.key] = found.get(plan.key, 0) + len(some)
        going &= {PLANS[-1].key}
    assert found[PLANS[-1].key] == len(many)
    assert len(asked(notes)) < 0.75 * len(many) * len(PLANS)


def test_whoever_stops_asking_leaves_the_pool_free(slow, notes):
    stopped = slow.ask(requests(40), PLANS, GREEDY)
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    found = flat(slow.ask(requests(3), PLANS[:1], GREEDY))
    assert {answer.text for answer in found.values()} == {text_of(one, PLANS[0]) for one in requests(3)}
    assert len(asked(notes)) < 40 * len(PLANS) / 2


def test_errors_of_the_engine_are_told_as_they_are(slow):
    wrong = [GenerationRequest(id="wrong", prompt="x", max_new_tokens=1)]
    with pytest.raises(InputError, match="the request 'wrong' is wrong"):
        flat(slow.ask(wrong, PLANS, GREEDY))
    assert len(flat(slow.ask(requests(3), PLANS, GREEDY))) == 3 * len(PLANS)


def test_a_block_that_kills_all_who_take_it_is_given_up(slow, notes):
    poison = [GenerationRequest(id="poison", prompt="x", max_new_tokens=1)]
    with pytest.raises(InputError, match="members of the pool died 3 times.* on the same items"):
        flat(slow.ask(poison, PLANS[:1], GREEDY))
    assert len(asked(notes)) == 3


def test_more_gpus_than_there_are():
    with pytest.raises(InputError, match="2 members with 1 GPUs each do not fit in a pool that has 0"):
        RayPool("local:2?gpus=1", no_engine).describe()


@pytest.mark.slow
def test_ctrl_c_stops_cleanly(tmp_path):
    """The driver is interrupted in the middle; it ends at once, and so do the processes of its pool."""
    code = f"""
from dataclasses import replace
from functools import partial
from pathlib import Path
from layercut.engine.ray_pool import RayPool
from tests.support.pool_engine import flat, slow_engine
from tests.unit.engine.test_ray_pool import GREEDY, PLANS, requests
pool = RayPool("local:2", partial(slow_engine, Path({str(tmp_path)!r}), 0.2))
print(pool.num_layers, flush=True)
flat(pool.ask(requests(200), PLANS, GREEDY))
"""
    places = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    environment.pop("RAY_ADDRESS", None)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    while not asked(tmp_path) and process.poll() is None:
        time.sleep(0.1)
    pids = {pid for pid, _, _ in asked(tmp_path)}
    assert pids
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            for _ in range(100):
                os.kill(pid, 0)
                time.sleep(0.1)
