from __future__ import annotations

import pytest

from layercut.evidence.program_classes import CLASSES, OUTCOMES, classify_program, first_problem


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
def test_classes_by_text(source: str, kind: str, when_cut: str) -> None:
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
def test_brackets_inside_strings_and_comments_do_not_count(source: str, kind: str | None) -> None:
    problem = first_problem(source)
    assert (problem and problem.kind) == kind


def test_what_goes_wrong_first_in_the_text_is_named() -> None:
    assert classify_program("x = = 1\ny = (\n") == "other_syntax"
    assert classify_program("y = (\nx = = 1\n") == "never_closed"
    # Two brackets are open at the end; the parser stumbles over what comes between them.
    assert classify_program("a = [x for x in f( if x\nb = (1\n") == "never_closed"


def test_outcomes_of_a_run_are_classes() -> None:
    assert set(OUTCOMES.values()) <= set(CLASSES)
    assert classify_program("def f(): return x", outcome="NameError") == "name"
    assert classify_program("def f(): return x", outcome="") == "passed"
    assert classify_program("def f(): return x", outcome="ZeroDivisionError") == "other_error"
    # The text says more about a syntax error than its name does.
    assert classify_program("def f(: return x", outcome="SyntaxError") == "never_closed"
