"""Kinds of tokens, and how far their -ln p rises."""

from __future__ import annotations

import math

import pytest

from layercut.selection.token_kinds import mean_rises, rises, token_kinds

SUM = ["\\", "(", "15", " +", " 2", " =", " \\$", "1", "7", ".", "5", "\\", ")"]


@pytest.mark.parametrize(
    ("pieces", "kinds"),
    [
        (SUM, "other other digit other digit other other result result other result other bracket"),
        (["x", " =", " [", "3", "]", " 4"], "other other other digit bracket digit"),
        (["=", "12", "34", "}\n", "12"], "other result result bracket digit"),
        (["", " ", "no"], "other other other"),
    ],
)
def test_results_stand_behind_an_equals_sign(pieces: list[str], kinds: str) -> None:
    names = {"digit": "other digit", "bracket": "closing bracket"}
    assert token_kinds(pieces) == [names.get(kind, kind) for kind in kinds.split()]


def test_rises_are_means_over_the_tokens_of_a_kind() -> None:
    first = rises(["=", "12", "34", ")", " 5"], [0.25, 1.0, 3.0, 0.5, -1.0])
    second = rises(["=", "9", " so"], [0.75, 2.0, 0.5])
    assert first == {"other": (1, 0.25), "result": (2, 4.0), "closing bracket": (1, 0.5), "other digit": (1, -1.0)}
    found = mean_rises([first, second])
    assert {kind: (one.value, one.n) for kind, one in found.items()} == {
        "result": (2.0, 3),
        "other digit": (-1.0, 1),
        "closing bracket": (0.5, 1),
        "other": (0.5, 3),
    }
    assert list(found) == ["result", "other digit", "closing bracket", "other"]
    assert mean_rises([rises(["a"], [1.0])]).keys() == {"other"}


def test_a_token_of_probability_zero_makes_the_mean_infinite() -> None:
    found = mean_rises([rises(["a", "1"], [math.inf, 2.0]), rises(["b"], [1.0])])
    assert found["other"] == (math.inf, None, None, 2, "none") and found["other digit"].value == 2.0
