"""Loops are those that a plain search finds, and programs are classed by what goes wrong first in their text."""

from random import Random

import pytest

from layercut.evidence.degeneration import (
    FEWEST_REPEATS,
    longest_loop,
    measure_text,
    repeated_share,
    self_bleu,
    words_of,
)
from layercut.evidence.program_classes import CLASSES, OUTCOMES, classify_program, first_problem
from tests.support.patient import prose

WORDS = ("the", "cat", "Sat", "x1", "(", ")", "don't", "e.g.", "3.5", "and")


def random_text(rng: Random) -> str:
    """Sentences of few different words, some with a loop at the end."""
    text = "".join(
        " ".join(rng.choice(WORDS) for _ in range(rng.randrange(0, 9))) + rng.choice((". ", "\n", "! ", "?\n\n", ", "))
        for _ in range(rng.randrange(0, 10))
    )
    unit = "".join(rng.choice("ab \n") for _ in range(rng.randrange(1, 12)))
    return text + unit * rng.randrange(0, 7)


def test_the_longest_loop_is_found():
    def plain(text: str) -> int:
        found = 0
        for start in range(len(text)):
            for period in range(1, (len(text) - start) // FEWEST_REPEATS + 1):
                end = start + period
                while end < len(text) and text[end] == text[end - period]:
                    end += 1
                if end - start >= FEWEST_REPEATS * period and text[start:end].strip():
                    found = max(found, end - start)
        return found

    rng = Random(4)
    for _ in range(100):
        text = random_text(rng)[-120:]
        assert longest_loop(text) == plain(text), text
    assert [longest_loop(text) for text in ("", "\n\n\n\n", "abcabc", "xabcabcabcab", "0" * 50)] == [0, 0, 0, 11, 50]


def test_repetition_counts_ngrams_and_equal_sentences():
    words = ["the", "cat", "and", "the", "cat", "and", "the", "dog"]
    # 7 pairs: the cat, cat and, and the, the cat, cat and, and the, the dog: 4 different.
    assert repeated_share(words, 2) == pytest.approx(1 - 4 / 7)
    assert repeated_share(words, 3) == pytest.approx(1 - 4 / 6)
    assert repeated_share([], 2) == repeated_share(["a"], 4) == 0
    assert words_of("Don't stop: 3x!") == ["don", "'", "t", "stop", ":", "3x", "!"]
    assert self_bleu("Same words here now. Same words here now.") == pytest.approx(1)
    assert self_bleu("One sentence alone") == self_bleu("") == 0


def test_prose_is_healthy_and_a_loop_is_not():
    healthy, loop = prose("x"), "No." + " And so on" * 40
    assert measure_text(healthy, "stop").items() >= {"loops": False, "Rep-4": 0, "empty": False}.items()
    assert measure_text(loop, "stop")["loops"] and measure_text(loop, "stop")["Rep-4"] > 0.9
    nothing = {"empty": True, "no end within the limit": True, "loops": False}
    assert measure_text("", "length").items() >= nothing.items()


@pytest.mark.parametrize(
    ("source", "kind", "when_cut"),
    [
        ("def f(x):\n    return x\n", "parses", "parses"),
        ("def f(x):\n    return foo(x\n\ndef g():\n    return 1\n", "never_closed", "never_closed"),
        ("for i in range(10:\n    pass", "never_closed", "never_closed"),
        ("def f(x):\n    return x)\n", "unmatched", "unmatched"),
        ("def f():\n    return (1]\n", "mismatched", "mismatched"),
        ("def f():\n    s = 'abc\n    return s", "unterminated_string", "unterminated_string"),
        ("x = '''abc", "unterminated_string", "cut"),
        ("def f():\n  x = 1\n    y=2\n", "indentation", "indentation"),
        ("def f():\nreturn 1\n", "indentation", "indentation"),
        ("def f(x)\n    return x", "other_syntax", "other_syntax"),
        ("def f():\n    return return\n    x = (\n", "other_syntax", "other_syntax"),
        ("def f():\n    x = 1 +", "other_syntax", "cut"),
        ("def f(a):\n    x = foo(a,\n      b, [1,\n   2", "never_closed", "cut"),
        ("x=1\x00", "other_syntax", "cut"),
        ("", "no_code", "no_code"),
        ("# a comment\n\n", "no_code", "cut"),
        ("Sure! Here is the function.", "other_syntax", "cut"),
    ],
)
def test_classes_by_text(source, kind, when_cut):
    assert classify_program(source) == kind
    assert classify_program(source, finish_reason="length") == when_cut


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("x = '(' # )]}", None),
        ('x = """( \' ["""', None),
        ("x = r'\\\\' + '('", None),
        ("x = r'\\' + '('", "unterminated_string"),
        ("x = f'{a[0]}' + (1,", "never_closed"),
        ("x = 'it\\'s (' + ')'", None),
        ("(\n[\n)", "mismatched"),
        ("rb'(' + u'[' )", "unmatched"),
    ],
)
def test_brackets_inside_strings_and_comments_do_not_count(source, kind):
    problem = first_problem(source)
    assert (problem and problem.kind) == kind


def test_outcomes_of_a_run_are_classes_and_what_goes_wrong_first_in_the_text_is_named():
    assert set(OUTCOMES.values()) <= set(CLASSES)
    assert classify_program("def f(): return x", outcome="NameError") == "name"
    assert classify_program("def f(): return x", outcome="") == "passed"
    assert classify_program("def f(): return x", outcome="ZeroDivisionError") == "other_error"
    # The text says more about a syntax error than its name does.
    assert classify_program("def f(: return x", outcome="SyntaxError") == "never_closed"
    assert classify_program("x = = 1\ny = (\n") == "other_syntax"
    assert classify_program("y = (\nx = = 1\n") == "never_closed"
    # Two brackets are open at the end; the parser stumbles over what comes between them.
    assert classify_program("a = [x for x in f( if x\nb = (1\n") == "never_closed"
