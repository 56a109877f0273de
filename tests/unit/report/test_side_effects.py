"""Side effects are one line: the checks that differ, or that none does."""

from __future__ import annotations

from pathlib import Path

from layercut.report.first import first_of_prune
from layercut.runs.prune import Estimated, PruneResult, SideEffect, side_effect_words
from layercut.tasks.suites import SIDE_EFFECTS
from tests.support.pages import write_prune


def effect(task: str, difference: float, p: float) -> SideEffect:
    def share(value: float) -> Estimated:
        return Estimated(value=value, low=value - 0.1, high=value + 0.1, n=24)

    scores = {"uncut": share(0.75), "cut": share(0.75 + difference), "difference": share(difference)}
    return SideEffect(task=task, p=p, is_shown=p < 0.05, **scores)


def with_effects(folder: Path, *effects: SideEffect) -> PruneResult:
    return PruneResult.load(write_prune(folder)).model_copy(update={"side_effects": effects})


def test_nothing_is_said_where_nothing_was_checked(tmp_path: Path) -> None:
    result = with_effects(tmp_path)
    assert side_effect_words(result.side_effects) == ""
    assert "side effects" not in dict(first_of_prune(result).facts)


def test_where_nothing_changed_one_line_says_so(tmp_path: Path) -> None:
    result = with_effects(tmp_path, effect("endings", -0.125, 0.4), effect("instructions", 0.0, 1.0))
    assert side_effect_words(result.side_effects) == "none shown (2 checks, 48 items)"


def test_a_difference_that_counts_is_said_in_plain_words_with_its_counts(tmp_path: Path) -> None:
    result = with_effects(tmp_path, effect("endings", -0.5, 0.001), effect("instructions", -0.25, 0.06))
    first = first_of_prune(result)
    line = "stops by itself: 6 of 24, before 18 of 24 (2 checks, 48 items)"
    assert side_effect_words(result.side_effects) == line and line in dict(first.facts)["side effects"]
    table = next(part for part in first.behind if getattr(part, "name", "") == "side_effects")
    assert [row[0] for row in table.rows] == [effect.what for effect in result.side_effects]


def test_every_check_has_plain_words() -> None:
    for task in (*SIDE_EFFECTS, "needle_2k", "needle_8k"):
        assert effect(task, 0, 1).what != task
