"""Depths in a fixed order: what passes, where the test stops, and that it is wrong at most as often as it says."""

from typing import Any

import numpy as np
import pytest

from layercut.errors import InputError
from layercut.evidence.bounds import retention_bounds
from layercut.evidence.fixed_sequence import DepthEvidence, SequenceResult, fixed_sequences
from layercut.evidence.paired import PairedItems, TaskRow, compare_paired
from tests.support.near_chance import kept_pairs

UNCUT, CHANCE = 0.7, 0.1


def row(
    task: str,
    retention: float,
    n: int = 400,
    rng: np.random.Generator | None = None,
    *,
    uncut: float = UNCUT,
    chance: float | None = CHANCE,
) -> TaskRow:
    before, after = kept_pairs(retention, n, rng, uncut=uncut, chance=chance or 0.0)
    return TaskRow(
        task=task, version=1, readout="short", metric="accuracy", chance=chance, limit=None, seed=0,
        values=compare_paired(before, after, chance=chance, num_resamples=200), items=PairedItems(before, after),
    )  # fmt: skip


def steps(*depths: dict[str, float], **options: Any) -> list[DepthEvidence]:
    return [
        DepthEvidence(depth, f"p{depth}", tuple(row(task, kept, **options) for task, kept in kept_by_task.items()))
        for depth, kept_by_task in enumerate(depths, start=1)
    ]


def fixed_sequence(depths: list[DepthEvidence], keep: float, **options: Any) -> SequenceResult:
    return fixed_sequences({"": depths}, keep, **options)[""]


def test_the_deepest_of_an_unbroken_row_of_passes_is_named():
    found = fixed_sequence(steps({"a": 1.0, "b": 1.0}, {"a": 0.97, "b": 1.0}, {"a": 0.6, "b": 1.0}, {"a": 1.0}), 0.9)
    assert [one.verdict for one in found.tested] == ["passed", "passed", "shown to fail"]
    assert found.deepest is found.tested[1] and found.deepest.plan == "p2"
    assert len(found.tested) == 3, "the fourth is not tested, however good it is"
    one = found.tested[1].tasks[0]
    items = steps({"a": 0.97})[0].rows[0].items
    bounds = retention_bounds(*items[:2], chance=CHANCE, low_error=0.05, high_error=0.025)
    assert (one.task, one.n, one.kept, one.low, one.high) == ("a", 400, bounds.value, bounds.low, bounds.high)


def test_a_verdict_does_not_depend_on_later_depths():
    all_steps = steps({"a": 1.0}, {"a": 0.96}, {"a": 0.9}, {"a": 0.5})
    whole = fixed_sequence(all_steps, 0.9)
    for count in range(1, len(whole.tested) + 1):
        assert fixed_sequence(all_steps[:count], 0.9).tested == whole.tested[:count]


def test_an_undecided_depth_says_how_many_items_decide_it():
    found = fixed_sequence(steps({"a": 0.97, "b": 1.0}, n=60), 0.9)
    failed = found.tested[-1]
    assert failed.verdict == "undecided"
    assert failed.items_needed == max(one.items_needed or 0 for one in failed.tasks) > 60
    rng = np.random.default_rng(3)
    decided = [
        fixed_sequence(steps({"a": 0.97, "b": 1.0}, n=failed.items_needed, rng=rng), 0.9, num_resamples=2000)
        for _ in range(40)
    ]
    assert sum(one.deepest is not None for one in decided) >= 24
    low = fixed_sequence(steps({"a": 0.85, "b": 1.0}, n=100), 0.9).tested[-1]  # the task that keeps less decides
    assert low.verdict == "undecided" and low.items_needed == low.tasks[0].items_needed


def test_a_task_on_which_the_original_model_guesses_cannot_be_judged():
    guessing = row("guessing", 1.0, uncut=0.25, chance=0.25)
    no_chance = row("free", 1.0, chance=None)
    found = fixed_sequence([DepthEvidence(1, "p1", (guessing, no_chance, row("a", 1.0)))], 0.9)
    assert found.deepest is not None and [one.task for one in found.deepest.tasks] == ["a"]
    assert [one.task for one in found.not_judged] == ["guessing", "free"]
    assert "(0.25) on 400 items" in found.not_judged[0].reason and "no chance level" in found.not_judged[1].reason
    nothing = fixed_sequence([DepthEvidence(1, "p1", (guessing,))], 0.9)
    assert (nothing.tested, nothing.deepest) == ((), None)


def test_a_task_that_a_depth_was_not_asked_keeps_it_from_passing():
    found = fixed_sequence(steps({"a": 1.0, "b": 1.0}, {"a": 1.0}), 0.9)
    assert found.deepest is not None and found.deepest.plan == "p1"
    failed = found.tested[-1]
    assert failed.missing == ("b (short)",) and (failed.verdict, failed.items_needed) == ("undecided", None)


def test_paths_share_the_error_rate_and_hand_it_on():
    good, doubtful = steps({"a": 1.0}), steps({"a": 0.944})
    alone = fixed_sequence(doubtful, 0.9)
    assert alone.deepest is not None, "passes with all of the error rate"
    broken = fixed_sequences({"one": steps({"a": 0.3}), "two": doubtful, "three": steps({"a": 0.3})}, 0.9)
    assert broken["two"].deepest is None and broken["two"].tested[0].level == pytest.approx(1 - 0.05 / 3)
    handed_on = fixed_sequences({"one": good, "two": doubtful}, 0.9)
    assert handed_on["two"].tested == alone.tested


@pytest.mark.parametrize("keep", [90, 0])
def test_a_share_to_keep_that_is_none_is_refused(keep):
    with pytest.raises(InputError, match=f"`keep` {keep} is not a share"):
        fixed_sequence(steps({"a": 1.0}), keep)


def drawn(seed: int, retentions: list[float], n: int, num_tasks: int) -> SequenceResult:
    rng = np.random.default_rng(seed)
    depths = [{f"t{task}": kept if task == 0 else 1.0 for task in range(num_tasks)} for kept in retentions]
    return fixed_sequence(steps(*depths, n=n, rng=rng), 0.9, num_resamples=500)


@pytest.mark.parametrize(("n", "num_tasks", "often"), [(60, 1, 0.3), (300, 2, 0.8)])
def test_a_wrong_depth_is_recommended_in_at_most_one_of_twenty(n, num_tasks, often, monkeypatch):
    """The hardest curve: the first depths keep everything, all others just less than was asked for, on one task."""
    # Items that would decide are six sevenths of the time, and not asked about.
    monkeypatch.setattr("layercut.evidence.fixed_sequence.items_to_decide", lambda *_, **__: None)
    curve, times = [1.0, 1.0, 0.899, 0.899, 0.899], 300
    found = [drawn(seed, curve, n, num_tasks).deepest for seed in range(times)]
    wrong = sum(one is not None and one.depth > 2 for one in found)
    assert wrong / times <= 0.05 + 2 * (0.05 * 0.95 / times) ** 0.5
    assert sum(one is not None for one in found) / times > often, "or saying none always would do"
    lucky = sum(
        max(one.tasks[0].kept for one in drawn(seed, [0.899], n, num_tasks).tested) >= 0.9 for seed in range(100)
    )
    assert lucky > 30, "what the score alone would have passed"
