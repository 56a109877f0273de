"""Close open brackets of three kinds, after six examples.

A sample problem: ``( [ [ ( ) ->`` is answered by `` ] ] )`` and a line break; its options are ``] ] )``, ``] )``,
``] ) ]`` and ``) ] ] )``.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from layercut.tasks.few_shot import NUM_NEAR_MISSES, FewShotTask, Problem, drawn, item_rng, line_task
from layercut.tasks.grading import can_be_words, first_line

VERSION = 1  # raised by any change of the generator, the near misses, the examples, the prompt or the grading
NUM_SAMPLES = 1000  # samples in each split

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_EXAMPLES = ("( [ { }", "{ ( ) [ (", "[ {", "( { [ ] {", "[ ( ) ( { [", "{ (")


def brackets(*, seed: int = 0) -> FewShotTask:
    """Two to four brackets are open, behind none to two pairs that are closed already.

    Near misses, three of these that differ from the right answer: two neighbours in the wrong order, one missing, one
    too many, one of the wrong kind.

    Grading of free answers: the first line, brackets only; spaces do not count, and one full stop at the end does not
    either. ")]" answers ") ]"; ") ] )" does not; ") ] done" is no answer.

    Early verdict: at the first bracket that is not the right one, and at anything else that spoils the line.
    """
    return line_task(
        "->",
        {question: closing(question) for question in _EXAMPLES},
        name="brackets",
        version=VERSION,
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        find=find_brackets,
        is_right=str.__eq__,
        max_new_tokens=12,
        settles=_settles,
    )


def closing(question: str) -> str:
    """The brackets that close all open ones.

    >>> closing("{ ( ) [ (")
    ') ] }'
    """
    needed: list[str] = []
    for bracket in question.split():
        if bracket in _CLOSING:
            needed.append(_CLOSING[bracket])
        else:
            assert needed.pop() == bracket, question
    return " ".join(reversed(needed))


def find_brackets(text: str) -> str:
    """The brackets that the first line is made of; empty if there are none or there is anything else.

    >>> find_brackets(" )]}.\\n( ["), find_brackets(") ] done")
    (') ] }', '')
    """
    found = "".join(first_line(text).split())
    return " ".join(found) if set(found) <= set("()[]{}") else ""


def _settles(text: str, gold: str) -> bool:
    # White space does not count, so what is left is one word.
    return not can_be_words("".join(text.partition("\n")[0].split()), "".join(gold.split()))


def _problems(seed: int) -> Iterator[Problem]:
    for question in drawn("brackets", VERSION, seed, _draw):
        gold = closing(question)
        yield Problem(question, gold, _near_misses(gold, item_rng("brackets", VERSION, question)), {})


def _draw(rng: Random) -> str:
    num_open, num_closed = rng.randint(2, 4), rng.randint(0, 2)
    steps = ["open"] * (num_open + num_closed) + ["close"] * num_closed
    text: list[str] = []
    needed: list[str] = []
    while steps:
        step = steps.pop(rng.randrange(len(steps)))
        if step == "close" and not needed:  # nothing to close yet: put it back and draw again
            steps.append(step)
        elif step == "close":
            text.append(needed.pop())
        else:
            text.append(rng.choice(tuple(_CLOSING)))
            needed.append(_CLOSING[text[-1]])
    return " ".join(text)


def _near_misses(gold: str, rng: Random) -> tuple[str, ...]:
    right = gold.split()
    at = rng.randrange(len(right))
    other_kind = rng.choice([kind for kind in _CLOSING.values() if kind != right[at]])
    extra, place = rng.choice(tuple(_CLOSING.values())), rng.randint(0, len(right))
    wrong = [
        [*right[:at], *right[at + 1 :]],
        [*right[:place], extra, *right[place:]],
        [*right[:at], other_kind, *right[at + 1 :]],
    ]
    unequal = [i for i in range(len(right) - 1) if right[i] != right[i + 1]]
    if unequal:  # ") )" has no other order
        i = rng.choice(unequal)
        wrong.append([*right[:i], right[i + 1], right[i], *right[i + 2 :]])
    return tuple(" ".join(brackets) for brackets in rng.sample(wrong, NUM_NEAR_MISSES))
