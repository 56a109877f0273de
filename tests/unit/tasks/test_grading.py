from __future__ import annotations

from random import Random

import pytest

from layercut.tasks.few_shot import near_numbers
from layercut.tasks.grading import all_numbers, first_line, number_after, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [("19", 19), ("019", 19), ("-7", -7), ("−7", -7), ("+7", 7), ("1,234,567.50", 1234567.5), ("0.5", 0.5)],
)
def test_numbers(text: str, value: float) -> None:
    assert parse_number(text) == value


@pytest.mark.parametrize(
    "text", ["", "-", "1,23", "1,2345", ",123", "1.", ".5", "1e3", "3/4", "5 6", "--5", "٣", "½", "60%", "$5"]
)
def test_what_is_no_number(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("12-7=5", [12, 7, 5]),
        ("(3)-2", [3, 2]),
        ("it fell to -2 from 3.", [-2, 3]),
        ("$1,250.50, then 1,25", [1250.5, 1, 25]),
        ("costs £195", [195]),
        ("none", []),
    ],
)
def test_numbers_in_a_text(text: str, numbers: list[float]) -> None:
    assert [float(number) for number in all_numbers(text)] == numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [("5", "5"), ("**$-1,200**.", "-1200"), ("-3.", "-3"), ("x = 5", ""), ("12.50 dollars", "12.50"),
     ("five. The answer is 5.", "5")],
)  # fmt: skip
def test_the_number_after_a_mark(text: str, found: str) -> None:
    assert number_after("The answer is", f"The answer is {text}") == found
    assert number_after("The answer is", "the answer is: 5") == "5"


def test_first_line_drops_one_full_stop() -> None:
    assert first_line(" a b. \nc") == "a b"
    assert first_line("a..") == "a."
    assert first_line("\nb") == ""


@pytest.mark.parametrize("gold", [0, 1, 2, 7, 10, 99, 123, 78000, -3])
def test_near_numbers_are_three_others_close_by(gold: int) -> None:
    for seed in range(50):
        near = near_numbers(gold, Random(seed), also=(gold, gold + 7), never=(gold + 1,))
        assert len(set(near)) == 3
        assert not {str(gold), str(gold + 1)} & set(near)
        assert gold < 0 or all(int(number) >= 0 for number in near)
        assert near == near_numbers(gold, Random(seed), also=(gold + 7, gold), never=(gold + 1,))
