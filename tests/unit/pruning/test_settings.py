"""The goal and the serving profile of prune: what is refused, and how many items it needs."""

import pytest

from layercut.errors import InputError
from layercut.evidence.sample_size import outcomes_of
from layercut.pruning.budget import (
    Yardstick,
    chance_to_pass,
    describe_power,
    items_for,
    must_keep,
)
from layercut.pruning.settings import PROFILES, Profile, PruneSettings, fitted_profile
from tests.support.near_chance import share_that_passes


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither was given"),
        ({"use": "math", "tasks": ("copy",)}, "one of the two"),
        ({"use": "math", "keep": 0}, "keep 0 is too small"),
        ({"use": "math", "keep": 1.1}, "keep 1.1 is too large"),
        ({"use": "math", "heal": "seams"}, "Did you mean seam?"),
        ({"use": "math", "items": 4}, "items 4 is too small"),
        ({"use": "math", "one_size": True}, "needs a size"),
        ({"use": "math", "faster": "20%"}, "faster: '20%'"),
        ({"use": "math", "faster": 1}, "faster 1 is too small"),
        ({"use": "math", "units": "hight"}, "units"),
        ({"use": "math", "serve": "desktop"}, "is no profile; write laptop, server, batch"),
        ({"use": "math", "serve": "batch=0"}, "is no profile"),
        ({"use": "math", "serve": "batch 4"}, "is no profile"),
        ({"use": "math", "serve": "rows=3"}, "is no profile"),
        ({"use": "math", "serve": "prompt=1.5"}, "is no profile"),
        ({"use": "math", "serve": "engine=vllm"}, "is no profile"),
        ({"use": "math", "serve": "batch=2,server"}, "is no profile"),
    ],
)
def test_goals_and_profiles_that_cannot_be(given, message):
    with pytest.raises(InputError) as caught:
        PruneSettings(**given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_more_items_let_a_plan_pass_that_keeps_less():
    task = Yardstick("copy (short)", 0.6, 0.05)
    shares = [must_keep(task, number, 0.9) or 2.0 for number in (50, 1600, 6400)]
    assert shares[0] == 2.0, "not even a plan that loses nothing"
    assert 0.9 < shares[2] < shares[1] < 1
    assert must_keep(task, items_for(task, 0.9, most=10**5) or 0, 0.9) == pytest.approx(0.95, abs=0.003)
    few, many = (describe_power([task], {task.label: number}, 0.9) for number in (50, 5000))
    assert not few[1] and "too few" in few[0] and many[1]


@pytest.mark.parametrize("correlation", [0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize(("n", "score", "chance"), [(50, 0.6, 0.0), (100, 0.6, 0.0), (200, 0.8, 0.25)])
def test_a_plan_that_loses_nothing_passes_as_often_as_promised(n, score, chance, correlation):
    """The promise against the rule itself, on drawn items."""
    task = Yardstick("mine (short)", score, chance, correlation)
    assert abs(chance_to_pass(task, n, 0.9) - passed_share(task, n, 0.9, 1.0, runs=100)) < 0.15


def passed_share(task: Yardstick, n: int, keep: float, kept: float, runs: int) -> float:
    outcomes = outcomes_of(task.score, task.chance + kept * (task.score - task.chance), task.correlation)
    scores = [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]
    return share_that_passes(scores, outcomes, n, keep, task.chance, seed=3, tries=runs)


def test_the_simulated_power_is_what_the_sentence_says():
    """Plans that keep in truth what ``must_keep`` says pass about four times in five."""
    task = Yardstick("copy (short)", 0.7, 0.1)
    share = must_keep(task, 400, 0.8)
    assert share is not None
    assert 0.7 < passed_share(task, 400, 0.8, share, runs=120) < 0.92


def test_a_profile_by_its_name_or_by_numbers_and_one_that_is_made_to_fit():
    assert Profile.parse("server") == PROFILES["server"] == Profile(16, 1000, 300)
    assert Profile.parse("new=10, batch=2") == Profile(2, 300, 10)
    assert Profile.parse("server, engine=llama.cpp") == Profile(16, 1000, 300, "llama.cpp")
    assert Profile.parse("new=10,engine=llama.cpp").words == "batch 1, 300 tokens read and 10 written, llama.cpp"
    assert Profile.parse("batch,prompt=9") == Profile(64, 9, 300)
    assert Profile(1, 300, 100).middle == 350 and Profile(1, 300, 100).tokens == 400
    assert Profile.parse(PruneSettings(use="math").serve) == PROFILES["laptop"]
    assert fitted_profile("laptop", 128, False) == Profile(1, 64, 64)
    assert fitted_profile("laptop", None, True) == fitted_profile("laptop", 600, False) == PROFILES["laptop"]
    with pytest.raises(InputError, match="`serve` laptop is 600 tokens, and the model takes 128"):
        fitted_profile("laptop", 128, True)
