"""Repeating a list of words, after three examples.

A sample problem: ``silver island hammer forest ->`` is answered by `` silver island hammer forest`` and a line break;
its options are that, ``island silver hammer forest``, ``island hammer forest`` and ``night island hammer forest``.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from layercut.tasks.few_shot import FewShotTask, Problem, drawn, item_rng, line_task
from layercut.tasks.grading import can_be_words, first_line

VERSION = 1
"""Raised by any change of the words, the generator, the near misses, the examples, the prompt or the grading."""
NUM_SAMPLES = 1000  # samples in each split

_WORDS = tuple(
    """
    apple bread bridge butter camera candle castle chair circle cloud corner cotton doctor dream engine farmer father
    finger fish flower forest garden glass grass green hammer heart horse house island kitchen lake letter market
    metal mirror morning mountain music needle night ocean office orange paper pencil picture plate pocket purple
    rabbit river school shoulder silver stone summer sugar table teacher ticket tiger valley village water window winter
    """.split()  # noqa: SIM905
)
_EXAMPLES = (
    "garden silver horse paper mirror",
    "winter bridge candle music flower island doctor plate",
    "ticket stone valley apple rabbit castle",
)


def copying(*, seed: int = 0) -> FewShotTask:
    """Lists of four to eight different words.

    Near misses: two neighbours swapped, one word dropped, one word replaced.

    Grading of free answers: the first line must be the list, word for word and in lower case as it was given; the
    amount of white space does not count, nor does one full stop at the end.

    Early verdict: at the first letter that differs from the list, apart from white space.
    """
    return line_task(
        "->",
        {words: words for words in _EXAMPLES},
        name="copy",
        version=VERSION,
        seed=seed,
        problems=_problems,
        num_samples=NUM_SAMPLES,
        find=find_words,
        is_right=str.__eq__,
        max_new_tokens=20,
        settles=lambda text, gold: not can_be_words(text, gold),
    )


def find_words(text: str) -> str:
    """The first line with single spaces.

    >>> find_words(" river  stone.\\napple")
    'river stone'
    """
    return " ".join(first_line(text).split())


def _problems(seed: int) -> Iterator[Problem]:
    for question in drawn("copy", VERSION, seed, lambda rng: " ".join(rng.sample(_WORDS, rng.randint(4, 8)))):
        yield Problem(question, question, _near_misses(question.split(), item_rng("copy", VERSION, question)), {})


def _near_misses(words: list[str], rng: Random) -> tuple[str, ...]:
    swapped, dropped, replaced = words.copy(), words.copy(), words.copy()
    i = rng.randrange(len(words) - 1)
    swapped[i : i + 2] = [words[i + 1], words[i]]
    del dropped[rng.randrange(len(words))]
    replaced[rng.randrange(len(words))] = rng.choice([word for word in _WORDS if word not in words])
    return tuple(" ".join(wrong) for wrong in (swapped, dropped, replaced))
