"""Sample, Score, Task: questions, their readouts and their grades. Tasks know Engines, never models."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, NamedTuple

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import unknown_name

Readout = str
"""How an item is asked and read: by likelihood over options (``rank``), as a short free answer (``short``), or as a
chain of steps that ends in an answer (``chain``)."""
GENERATED: tuple[Readout, ...] = ("short", "chain")  # readouts that generate text; the other scores given text
Split = Literal["selection", "report", "full"]
"""``full``: the whole test set. It differs from ``report`` where selection items are part of the test set; see
``layercut.tasks.selected_items``."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question. ``id`` is stable: it is made from the content, never from the position in a list."""

    id: str
    question: str  # for people and for the report; prompts are made by the task
    gold: str  # the right answer
    options: tuple[str, ...] = ()  # to choose from, the right one among them; empty where there is nothing to rank
    data: Mapping[str, Any] = field(default_factory=dict)
    """Further data to build prompts and to grade. ``cluster`` names items that share a context;
    ``solution`` is a worked answer as ``chain`` writes it, with the mark that ends it, for training."""

    @property
    def gold_index(self) -> int:
        return self.options.index(self.gold)


class Score(NamedTuple):
    """The grade of one answer."""

    metrics: dict[str, float]
    """Value per metric, the headline first; 0 or 1 for accuracies. All lie in [0, 1], and higher is better, as a race
    of candidates needs."""
    answer: str  # the extracted answer; empty where none was found
    outcome: (
        str  # ``right``, ``wrong``, ``no_answer`` (none found) or ``cut`` (not right, and the length limit was hit)
    )
    program: str = ""  # of an answer's program, a class of ``layercut.evidence.program_classes``


class Task:
    """The source of questions, their prompts and the grading of answers.

    A task has ``settings``, ``samples``, ``request``, ``chance``, and ``grade`` or ``grade_all``; others have defaults.
    """

    name: str
    version: int  # raised with every change that can move scores
    readouts: tuple[Readout, ...]  # all are asked where none is named; the first is the default
    chance_items: int | None = None  # ``chance`` is computed on so many first items, where it is slow; None for all

    @property
    def shares_test_set(self) -> bool | None:
        """True if selection items are part of the test set; None of a task without one, whose items are made."""
        return None

    @property
    def runs_programs(self) -> bool:
        """True if answers are graded by running them, in a sandbox."""
        return False

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the samples and prompts, for the run: version, seed, hash of the data file ..."""
        raise NotImplementedError

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first ``limit`` samples of a split, in a fixed order; a smaller limit gives a prefix of a larger one.

        Selection and report samples never overlap.
        """
        raise NotImplementedError

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """The request to the engine. Its id is the sample's id."""
        raise NotImplementedError

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        """The score of one answer."""
        return self.grade_all([sample], readout, [answer])[0]

    def grade_all(
        self, samples: Sequence[Sample], readout: Readout, answers: Sequence[Completion | Likelihoods]
    ) -> list[Score]:
        """The score of each answer; a sample may have several. A task that runs programs runs them side by side.

        Raises InputError: programs are to be run, and no sandbox works here.
        """
        return [self.grade(sample, readout, answer) for sample, answer in zip(samples, answers, strict=True)]

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        """Early verdict: True if the grader's rules prove the metrics of any answer that begins with ``text``.

        ``text`` ends before any stop string; an incomplete character at its end (U+FFFD) proves nothing. Only the
        metrics are certain: an outcome that would be ``cut`` or ``no_answer`` is ``wrong``.
        """
        return False

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The likeliest right answer after the prompt, with the mark that ends it; empty where there is no good guess.

        It changes the speed and never a score.
        """
        return ""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """Score of guessing per metric on these samples: 1 / number of options for ``rank``; for free answers the
        share that the most common right answer would get (a constant answerer). Nothing for a metric without one."""
        raise NotImplementedError

    def split_chance(self, split: Split, readout: Readout) -> Mapping[str, float]:
        """Score of guessing per metric over a whole split: of 4 GSM8K items it is at least 25 %, of all 1,319 3 %."""
        kept: dict[tuple[Split, Readout], Mapping[str, float]]
        kept = self.__dict__.setdefault("_split_chances", {})  # every cut of a study asks again
        if (split, readout) not in kept:
            kept[split, readout] = self.chance(self.samples(split, self.chance_items), readout)
        return kept[split, readout]

    @cached_property
    def test_set_size(self) -> int | None:
        """Number of items of the test set; None for a task whose items are made."""
        return None if self.shares_test_set is None else len(self.samples("full", None))

    @cached_property
    def selection_part(self) -> frozenset[str]:
        """Ids of the items of the test set that are no report items; empty where selection items lie elsewhere."""
        if not self.shares_test_set:
            return frozenset()
        report = {sample.id for sample in self.samples("report", None)}
        return frozenset({sample.id for sample in self.samples("full", None)} - report)

    def check_readout(self, readout: Readout) -> None:
        """Refuse what the task cannot be asked. Raises InputError: a readout that it does not have."""
        check_known(self.name, readout, self.readouts)


def check_known(name: str, readout: Readout, readouts: Sequence[Readout]) -> None:
    """Refuse a readout that is not among those of the task ``name``. Raises InputError."""
    if readout not in readouts:
        raise unknown_name(f"readout of {name}", readout, readouts)


def is_generated(readout: Readout) -> bool:
    """True if the model writes the answer itself."""
    return readout in GENERATED


def content_id(task: str, *content: str) -> str:
    """A stable id made from what an item says: the task's name and 48 bits of SHA-256."""
    text = "\x1f".join((task, *content))
    return f"{task}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
