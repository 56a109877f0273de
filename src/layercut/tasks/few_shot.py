"""FewShotTask: problems made by a seeded generator, asked after a few worked examples.

The prompt is plain text, so that base models can be asked as well. By likelihood (``rank``) the continuations are whole
answers up to and with the mark that ends them, so that an option's score is the probability that free generation gives
exactly this answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from random import Random
from typing import Any, NamedTuple

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.tasks.base import GENERATED, Readout, Sample, Score, Split, Task, content_id
from layercut.tasks.grading import grade_free_text, grade_rank, guessing_chance
from layercut.tasks.selected_items import half_of

NUM_NEAR_MISSES = 3  # wrong options of a problem
_SLIPS = (1, 2, 3, 4, 5, 10)


class Problem(NamedTuple):
    """A generated problem. The question alone decides the rest, so the same question is the same item everywhere."""

    question: str
    gold: str
    near_misses: tuple[str, ...]
    data: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FewShotTask(Task):
    """A task whose problems are generated."""

    name: str
    version: int
    readouts: tuple[Readout, ...]
    seed: int
    problems: Callable[[int], Iterator[Problem]]  # from a seed, problems without end; repeats are left out here
    num_samples: int  # samples in each split. The generator must not run dry before.
    examples: str  # worked examples that stand before every problem, each ended by a line break
    example_questions: frozenset[str]  # their questions, which are never asked
    prompt: Callable[[str], str]  # from a question, the text that stands after the examples; an answer follows it
    answer: Callable[[str], str]  # from an option, the text that answers with it, with the mark that ends an answer
    find: Callable[[str], str]  # from a generated text, the answer that is in it; empty where there is none
    is_right: Callable[[str, str], bool]  # from an answer that was found and the right one, whether they are the same
    max_new_tokens: int
    stop: tuple[str, ...]
    made_with: Mapping[str, str] = field(default_factory=dict)  # versions of libraries that decide the problems
    settles: Callable[[str, str], bool] = lambda text, gold: False
    """From the beginning of an answer and the right one, whether the grade stands however the answer goes on. What says
    True must be proven: tests/unit/tasks/test_verdicts.py tries every built-in task. By default nothing settles."""

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the samples; prompts follow from the version."""
        return {"version": self.version, "seed": self.seed, **self.made_with}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples of a split, at most ``num_samples``. The split of an item is decided by its id alone.

        There is no test set, so ``full`` gives report items.
        """
        wanted = self.num_samples if limit is None else min(limit, self.num_samples)
        half = "report" if split == "full" else split
        return list(islice((sample for sample in self._all_samples() if half_of(sample.id) == half), wanted))

    def _all_samples(self) -> Iterator[Sample]:
        seen = set(self.example_questions)
        for problem in self.problems(self.seed):
            if problem.question not in seen:
                seen.add(problem.question)
                yield self._sample(problem)

    def _sample(self, problem: Problem) -> Sample:
        name = content_id(self.name, problem.question)
        options = [problem.gold, *problem.near_misses]
        Random(f"order of {name} {self.version}").shuffle(options)
        return Sample(id=name, question=problem.question, gold=problem.gold, options=tuple(options), data=problem.data)

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """The examples and the problem: the same text for every readout."""
        prompt = self.examples + self.prompt(sample.question)
        if readout in GENERATED:
            return GenerationRequest(id=sample.id, prompt=prompt, max_new_tokens=self.max_new_tokens, stop=self.stop)
        return LikelihoodRequest(id=sample.id, prompt=prompt, continuations=tuple(map(self.answer, sample.options)))

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """Accuracy, 1 or 0."""
        if isinstance(answer, Likelihoods):
            return grade_rank(sample, answer)
        said = self.find(answer.text)
        return grade_free_text(said, bool(said) and self.is_right(said, sample.gold), answer)

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        """True if the grade of an answer that begins like this is certain; see ``settles`` and Task."""
        # The bytes of a character that has not come in full are decoded as U+FFFD and may yet become anything.
        return readout in GENERATED and self.settles(text.rstrip("\ufffd"), sample.gold)

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The right answer as the examples write it, for short answers."""
        return self.answer(sample.gold) if readout == "short" else ""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """Guessing among the options, or always giving the most common right answer."""
        return guessing_chance(samples, readout, ("accuracy",))


def draw_questions(task: str, version: int, seed: int, draw: Callable[[Random], str]) -> Iterator[str]:
    """Questions without end, each from its own generator seeded by (task, version, seed, index)."""
    for index in count():
        yield draw(Random(f"{task} {version} {seed} {index}"))


def rng_of_item(task: str, version: int, question: str) -> Random:
    """The generator for all that belongs to one question, such as its near misses."""
    return Random(f"{task} {version} {question}")


def near_numbers(gold: int, rng: Random, also: Iterable[int] = (), never: Iterable[int] = ()) -> tuple[str, ...]:
    """Three wrong numbers near a right one: slips in its first two digits, and results of likely mistakes.

    How many of the three lie below the right one is drawn evenly from 0 to 3 (fewer where there is no space above
    zero), so that taking the middle or the largest option earns nothing. Where the right one is not negative, no option
    is. ``also`` are results of likely mistakes, ``never`` numbers that must not be options.
    """
    unit = 10 ** max(0, len(str(abs(gold))) - 2)
    slips = {gold + sign * step * unit for sign in (-1, 1) for step in _SLIPS}
    wrong = {number for number in {*slips, *also} - {gold, *never} if number >= 0 or gold < 0}
    # Sorted, because the order of a set is nobody's promise.
    below = sorted(number for number in wrong if number < gold)
    above = sorted(number for number in wrong if number > gold)
    num_below = min(rng.randint(0, NUM_NEAR_MISSES), len(below))
    near = rng.sample(below, num_below) + rng.sample(above, NUM_NEAR_MISSES - num_below)
    return tuple(map(str, near))
