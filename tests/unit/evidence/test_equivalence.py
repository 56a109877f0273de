"""Verdicts under a margin, with their error rates; answers that changed although the score did not."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from layercut.errors import InputError
from layercut.evidence.comparison import AnswerChanges, ComparedRun, ComparisonRow, Margin
from layercut.evidence.equivalence import answer_changes, judge_by_margin
from layercut.evidence.fixed_sequence import DepthEvidence, judge_depth
from layercut.evidence.intervals import adjust_by_holm
from layercut.evidence.paired import PairedItems, compare_paired
from tests.support.near_chance import pairs

POINTS, SHARE = Margin.parse("5"), Margin.parse("5%")


def row_of(uncut, cut, *, chance=0.0, clusters=None, seed=0, metric="acc") -> ComparisonRow:
    values = compare_paired(uncut, cut, chance=chance, seed=seed, clusters=clusters, num_resamples=1000)
    ids = [str(place) for place in range(len(uncut))]
    return ComparisonRow(
        uncut=ComparedRun(name="a"), cut=ComparedRun(name="b"), task="task", version=1, readout="written",
        metric=metric, is_headline=True, is_share=all(0 <= x <= 1 for x in [*uncut, *cut]), chance=chance, limit=None,
        seed=seed, values=values, uncut_outcomes={}, cut_outcomes={}, note="", p_adjusted=values.p_value,
        items=PairedItems(uncut, cut, clusters, ids),
    )  # fmt: skip


def judged(*outcomes: int, margin: Margin = POINTS, **options):
    return judge_by_margin([row_of(*pairs(*outcomes), **options)], margin)[0].by_margin


@pytest.mark.parametrize("text", ["", "two", "0", "0.02", "-1", "100", "120%", "5 %%", "nan", "inf"])
def test_a_margin_is_points_or_a_share(text):
    assert (str(Margin.parse("2.5")), str(Margin.parse(" 5 %"))) == ("2.5 points", "5 % of A's score above chance")
    with pytest.raises(InputError, match="write 2 for two points of score, or 5% of A's score") as caught:
        Margin.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ((600, 10, 10, 380), "equivalent"),
        ((600, 25, 5, 370), "equivalent"),  # a loss of 2 points that McNemar finds, and that makes no difference
        ((500, 200, 20, 280), "worse"),
        ((500, 20, 200, 280), "better"),
        ((150, 20, 28, 102), "not worse"),
        ((50, 6, 5, 39), "too few items"),
        ((50, 14, 3, 33), "too few items"),  # a loss that McNemar finds, and that may be less than the margin
    ],
)
def test_verdicts(outcomes, verdict):
    for margin in (POINTS, Margin.parse("8%")):
        found = judged(*outcomes, margin=margin)
        assert found.verdict == verdict, (margin, found)
    found = judged(*outcomes)
    assert found.low < (outcomes[2] - outcomes[1]) / sum(outcomes) < found.high
    assert (found.items_needed is not None) == (verdict == "too few items")


def test_a_share_is_judged_as_prune_judges_it():
    for outcomes in ((580, 20, 10, 390), (560, 60, 10, 370), (100, 3, 3, 94), (40, 2, 2, 6)):
        row = row_of(*pairs(*outcomes), chance=0.25 if outcomes[0] > 50 else 0.0)
        (depth,) = judge_depth(DepthEvidence(1, "b", (row,)), [("task", "written")], 0.95, 0.05).tasks
        found = judge_by_margin([row], SHARE)[0].by_margin
        assert (found.low, found.high, found.items_needed) == (depth.low, depth.high, depth.items_needed)
        said = {"passed": {"equivalent", "not worse", "better"}, "shown to fail": {"worse"}}
        assert found.verdict in said.get(depth.verdict, {"too few items"})


def test_bounds_of_points_are_exact_where_one_model_is_always_right():
    """Clopper and Pearson's bound of the share of lost items, by scipy, of 200 simulated pairs of models."""
    rng = np.random.default_rng(5)
    for lost in rng.binomial(120, 0.08, size=200):
        found = judged(120 - lost, lost, 0, 0)
        exact = scipy.stats.binomtest(int(lost), 120, alternative="less").proportion_ci(0.95, method="exact").high
        assert found.low == pytest.approx(-exact, abs=0.006)


def test_verdicts_agree_with_two_one_sided_t_tests_of_scipy(monkeypatch):
    """200 simulated pairs: what is equivalent here is so by the t-tests, which claim it only slightly more often."""
    monkeypatch.setattr("layercut.evidence.fixed_sequence.items_to_decide", lambda *_, **__: None)  # most of the time
    agreed, claimed, bounds = [], [], []
    for before, after in simulated_pairs(200):
        found, change = judge_by_margin([row_of(before, after)], POINTS)[0].by_margin, after - before
        tests = [
            scipy.stats.ttest_1samp(change, side * POINTS.size, alternative=tail).pvalue
            for side, tail in ((-1, "greater"), (1, "less"))
        ]
        is_within = max(tests) < 0.05
        assert is_within or found.verdict != "equivalent"
        agreed.append((found.verdict == "equivalent") == is_within)
        claimed.append(is_within)
        ends = scipy.stats.ttest_1samp(change, 0).confidence_interval(0.9)
        bounds.append((found.low - ends.low, found.high - ends.high))
    assert np.mean(agreed) > 0.85 and 0.2 < np.mean(claimed) < 0.8
    assert np.abs(bounds).max() < 0.012 and np.abs(np.mean(bounds, axis=0)).max() < 0.005


def simulated_pairs(count: int):
    """Scores of two models on 400 items, right or wrong, that differ on a tenth of them."""
    rng = np.random.default_rng(80)
    for drift in rng.uniform(-0.05, 0.05, size=count):
        four = rng.multinomial(400, [0.5, 0.05 - drift / 2, 0.05 + drift / 2, 0.4])
        yield tuple(np.array(side) for side in pairs(*four))


@pytest.mark.parametrize("n", [100, 400])
@pytest.mark.parametrize("gained", [0.0, 0.1])
@pytest.mark.parametrize("margin", [POINTS, Margin.parse("10%")])
def test_at_the_margin_no_verdict_is_wrong_in_more_than_5_percent(n, gained, margin, monkeypatch):
    """The true loss, or gain, is the margin: neither equivalent nor worse nor better by the other direction."""
    monkeypatch.setattr("layercut.evidence.fixed_sequence.items_to_decide", lambda *_, **__: None)  # most of the time
    score, runs, rng = 0.6, 1000, np.random.default_rng([n, round(100 * gained)])
    change = margin.size * (score if margin.is_share else 1)
    for lost, gain in ((gained + change, gained), (gained, gained + change)):
        drawn = rng.multinomial(n, [score - lost, lost, gain, 1 - score - gain], size=runs)
        counts: Counter[str] = Counter()
        outcomes, times = np.unique(drawn, axis=0, return_counts=True)
        for seed, (four, count) in enumerate(zip(outcomes, times, strict=True)):
            row = row_of(*pairs(*four), seed=seed)
            counts[judge_by_margin([row], margin, num_resamples=1000)[0].by_margin.verdict] += count
        wrong = [counts["equivalent"], counts["worse"]]
        wrong[0] += counts["not worse"] if lost > gain else 0
        assert max(wrong) / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


def test_worse_shares_its_5_percent_over_all_rows():
    """Holm's procedure: with p-values of the same tests, the same rows are rejected."""
    lost = (75, 60, 52, 49, 46, 30)
    rows = [row_of(*pairs(250, count, 10, 240 - count)) for count in lost]
    alone = [judge_by_margin([row], POINTS)[0].by_margin.verdict for row in rows]
    together = [row.by_margin.verdict for row in judge_by_margin(rows, POINTS)]
    assert alone == ["worse"] * 4 + ["too few items"] * 2
    change = [np.repeat((-1.0, 1.0, 0.0), (count, 10, 490 - count)) for count in lost]
    p = [scipy.stats.ttest_1samp(values, -0.05, alternative="less").pvalue for values in change]
    assert together == ["worse" if adjusted < 0.05 else "too few items" for adjusted in adjust_by_holm(p)]
    assert 0 < together.count("worse") < 4


def test_items_that_would_do_are_confirmed_by_repeating_the_items():
    """As many more items like these decide; it is the number of prune's rule."""
    found = judged(60, 4, 4, 32)
    assert found.verdict == "too few items" and found.items_needed > 100
    times = found.items_needed // 100 + 1
    assert judged(*(times * count for count in (60, 4, 4, 32))).verdict in ("equivalent", "not worse")
    rng, passed = np.random.default_rng(0), 0
    for _ in range(60):
        four = rng.multinomial(found.items_needed, [0.6, 0.04, 0.04, 0.32])
        passed += judged(*four).verdict in ("equivalent", "not worse")
    assert 0.65 < passed / 60 < 0.95


def test_what_has_no_score_from_0_to_1_is_not_judged():
    rng = np.random.default_rng(0)
    nats, weak = rng.normal(-2, 1, size=50), pairs(10, 8, 8, 40)
    rows = [row_of(nats, nats - 0.1, chance=None), row_of(*weak, chance=0.25), row_of(*weak)]
    by_points, by_share = judge_by_margin(rows, POINTS), judge_by_margin(rows, SHARE)
    assert [row.by_margin.verdict for row in by_points] == ["not judged", "too few items", "too few items"]
    assert by_points[0].by_margin.reason == "its score does not lie between 0 and 1"
    assert [row.by_margin.verdict for row in by_share] == ["not judged", "not judged", "too few items"]
    assert "no chance level" in by_share[0].by_margin.reason
    assert by_share[1].by_margin.reason.startswith("A is not significantly above chance (0.25)")


def test_repeats_of_an_item_count_as_one_cluster():
    scores = pairs(60, 4, 4, 32)
    clusters = [str(place) for place in range(100) for _ in range(4)]
    repeated = [[score for score in side for _ in range(4)] for side in scores]
    assert judged(240, 16, 16, 128).verdict == "equivalent"
    row = row_of(*repeated, clusters=clusters)
    found = judge_by_margin([row], POINTS)[0].by_margin
    assert found.verdict == judged(60, 4, 4, 32).verdict == "too few items"
    assert found.low == pytest.approx(judged(60, 4, 4, 32).low, abs=0.01)


def records(answers: list[str], **more) -> dict[str, dict]:
    return {
        str(place): {"answer": answer, "gold": "7", **{name: values[place] for name, values in more.items()}}
        for place, answer in enumerate(answers)
    }


def test_churn_and_wrong_answers_that_agree():
    before, after = ["7", "8", "8", "9", "", "7"], ["7", "8", "9", "7", "3", "1"]
    row = row_of(*([float(answer == "7") for answer in side] for side in (before, after)))
    found = answer_changes(row, records(before), records(after))
    assert (found.same_score, found.other_answer) == (4, 2), "8 to 9, and nothing to 3"
    assert (found.both_wrong, found.same_wrong) == (2, 1), "an item without an answer agrees with none"
    assert found.log_likelihood is None
    assert answer_changes(row, records([""] * 6), records(after)) == AnswerChanges()
    graded = row_of([0.5, 0.2, 0.2], [0.5, 0.2, 0.3])
    assert answer_changes(graded, records(["a", "b", "c"]), records(["a", "c", "c"]))[:4] == (2, 1, None, None)


def test_the_change_of_the_right_options_log_likelihood():
    rng = np.random.default_rng(0)
    options, values = [["7", "8"]] * 40, [rng.normal(-2, 0.5, size=(40, 2)) for _ in range(2)]
    values[1] = values[0] + [-0.3, 0.0] + 0.1 * values[1]
    answers = [["7" if right > wrong else "8" for right, wrong in side] for side in values]
    row = row_of(*([float(answer == "7") for answer in side] for side in answers))
    sides = [
        records(texts, options=options, log_likelihoods=[list(pair) for pair in side])
        for texts, side in zip(answers, values, strict=True)
    ]
    found = answer_changes(row, *sides)
    assert found.log_likelihood.value == pytest.approx((values[1] - values[0])[:, 0].mean())
    interval = scipy.stats.ttest_1samp((values[1] - values[0])[:, 0], 0).confidence_interval(0.95)
    assert found.log_likelihood.low == pytest.approx(interval.low, abs=0.01)
    assert found.log_likelihood.high == pytest.approx(interval.high, abs=0.01)
    assert found.same_score == 40 - row.values.lost - row.values.gained and found.other_answer == 0
    # By acc_norm another option may be the answer: then only the likelihood is known.
    other = replace(row, items=row.items._replace(cut=[1 - score for score in row.items.cut]))
    assert answer_changes(other, *sides)[:4] == (None, None, None, None)
