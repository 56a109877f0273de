"""Which option an answer in words names: the edge cases, one a line."""

from __future__ import annotations

import pytest

from layercut.tasks.grading import find_chain, find_short

OPTIONS = ("red", "a blue one", "Green things", "10%")


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        (" B\n", "B"),
        ("\n\nC", "C"),
        ("(D)", "D"),
        ("**B**", "B"),
        ("B.", "B"),
        ("B)", "B"),
        ("B: it is blue", "B"),
        ("B. because", "B"),
        ("B a blue one", "B"),
        ("The answer is B.", "B"),
        ("The correct answer is (C).", "C"),
        ("Answer: D", "D"),
        ("answer is: D", "D"),
        ("red", "A"),
        ("Red.", "A"),
        ("A blue one", "B"),
        ("green  things.", "C"),
        ("10%", "D"),
        # not an answer
        ("", None),
        ("b", None),
        ("E", None),
        ("A nice day", None),
        ("B or C", None),
        ("red or a blue one", None),
        ("10", None),
        ("I do not think that the answer is B", None),
        ("Because of that it is\nB", None),
        ("Apple", None),
    ],
)
def test_short_answers(text: str, letter: str | None) -> None:
    found = find_short(text, OPTIONS)
    assert (found and found.letter) == letter


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("It is blue. The answer is B.", "B"),
        ("The answer is A. No: the answer is C.", "C"),
        ("The answer is **B** and I am sure.\nAnswer: (A)", "A"),
        ("So the answer is red. Colours are nice.", "A"),
        ("The answer is D, because 10% is it.", "D"),
        ("The answer is\nB", "B"),
        ("B", None),
        ("The answer is 10%.", "D"),
        ("The answer is not B", None),
        ("the answer is: C", "C"),
        ("My answers are B", None),
    ],
)
def test_chains(text: str, letter: str | None) -> None:
    found = find_chain(text, OPTIONS)
    assert (found and found.letter) == letter


@pytest.mark.parametrize("text", ["x. The answer is **B**.", "The answer is a blue one", "Answer:   (B)"])
def test_the_start_is_where_the_answer_stands(text: str) -> None:
    found = find_chain(text, OPTIONS)
    assert found and text[found.start :].startswith(("B", "a blue", "(B", "**B"))


def test_options_with_the_same_words_are_told_apart_by_letter_alone() -> None:
    assert find_short("same", ("same", "same")) is None
    found = find_short("B", ("same", "same"))
    assert found and found.letter == "B"
