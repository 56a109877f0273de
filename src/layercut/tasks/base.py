"""Sample, Score, Task: questions, their readouts and their grades. Tasks know Engines, never models.

One item, several readouts. The same item id and question can be read

- by likelihood over options (``rank``),
- by the likelihood of the right answer alone, per token (``gold``),
- by one token: options are listed with letters, and the likeliest letter is the answer (``token``),
- as a short free answer (``short``), or
- as a chain of steps that ends in an answer (``chain``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from layercut.engine.base import Completion, Decoding, Engine, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.errors import unknown
from layercut.surgery.plan import CutPlan

Readout = str  # ``rank``, ``gold``, ``token``, ``short`` or ``chain``
Split = Literal["selection", "report", "full"]
"""``full``: the whole test set. It differs from ``report`` where selection items are part of the test set; see
``layercut.tasks.reported``."""

GENERATED: tuple[Readout, ...] = ("short", "chain")  # readouts that generate text; the others only score given text

LOG_LIKELIHOOD = "log_likelihood"
"""The metric of ``gold``: nats per token, at most 0. It is no accuracy and has no score of guessing."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question. ``id`` is stable: it is made from the content, never from the position in a list."""

    id: str
    question: str  # for people and for the report; prompts are made by the task
    gold: str  # the right answer
    options: tuple[str, ...] = ()
    """Answers to choose from, the right one among them, in their fixed order; empty where there is nothing to rank."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """Further data to build prompts and to grade. ``cluster`` names items that share a context;
    ``solution`` is a worked answer as ``chain`` writes it, with the mark that ends it, for training."""

    @property
    def gold_index(self) -> int:
        return self.options.index(self.gold)


class Score(NamedTuple):
    """The grade of one answer."""

    metrics: dict[str, float]
    """Value per metric; the first one is the headline. 0 or 1 for accuracies.

    All lie in [0, 1], and higher is better: a race of candidates stops one as soon as even 1 for every item that is
    left could not save it. The one exception is ``log_likelihood`` of ``gold``, so a search by it runs with
    ``--race off``.
    """
    answer: str  # the extracted answer; empty where none was found
    outcome: str
    """``right``, ``wrong``, ``no_answer`` (none found) or ``cut`` (wrong or none, and the length limit was hit)."""
    program: str = ""
    """The end of an answer's program, a class of ``layercut.evidence.program_classes``; empty without one."""


class Task(Protocol):
    """The source of questions, their prompts and the grading of answers.

    A task whose benchmark has numbers that are no means over items may have ``over_items(samples, readout, records)``,
    which gives them by name.

    A task with a test set has ``shares_test_set``: whether its selection items are part of that test set. Where it is
    there, ``samples`` takes the split ``full`` as well.
    """

    name: str
    version: int  # raised with every change that can move scores
    readouts: tuple[Readout, ...]
    """The readouts that are asked where none is named; the first is the default. A task may have ``extra_readouts`` as
    well, which are asked by name; see ``known_readouts``."""

    def settings(self) -> Mapping[str, Any]:
        """Settings that decide the samples and prompts, for the run: version, seed, hash of the data file ..."""

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first ``limit`` samples of a split, in a fixed order; a smaller limit gives a prefix of a larger one.

        Selection and report samples never overlap.
        """

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        """The request to the engine. Its id is the sample's id."""

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score: ...

    def settled(self, sample: Sample, readout: Readout, text: str) -> bool:
        """Early verdict: whether an answer that begins with ``text`` gets the same metrics however it goes on.

        ``text`` is what was decoded so far, before any stop string; an incomplete character at its end (U+FFFD) proves
        nothing. Only the metrics are certain: where the whole answer would be of the outcome ``cut`` or ``no_answer``,
        the beginning is ``wrong``. True only where the grader's own rules prove it, so it is safe to use by default; a
        task without such a proof says False.
        """
        return False

    def draft(self, sample: Sample, readout: Readout) -> str:
        """The likeliest right answer after the prompt, with the mark that ends it.

        Empty where there is no good guess, as for a chain of steps. It changes the speed and never a score.
        """
        return ""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        """Score of guessing per metric on these samples: 1 / number of options for ``rank``; for free answers the
        share that the most common right answer would get (a constant answerer). Nothing for a metric without one.

        Results carry that of all samples of a split, whatever the limit: see ``layercut.tasks.grading``."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A task's samples, the model under a plan that answers them, and the answers that are known."""

    task: Task
    engine: Engine
    plan: CutPlan
    samples: Sequence[Sample]
    readout: Readout
    records: Sequence[Mapping[str, Any]]  # earlier answers to these samples under this readout
    decoding: Decoding


def known_readouts(task: Task) -> tuple[Readout, ...]:
    """All readouts that a task has, those that are asked only by name last.

    A task may list extra ones in the optional attribute ``extra_readouts``.
    """
    extra: tuple[Readout, ...] = getattr(task, "extra_readouts", ())
    return (*task.readouts, *extra)


def check_readout(task: Task, readout: Readout) -> None:
    """Refuse what a task cannot be asked.

    Raises:
        InputError: a readout that it does not have.
    """
    check_known(task.name, readout, known_readouts(task))


def check_known(name: str, readout: Readout, readouts: Sequence[Readout]) -> None:
    """Refuse a readout that is not among those of the task ``name``. Raises InputError."""
    if readout not in readouts:
        raise unknown(f"readout of {name}", readout, readouts)


def generates(readout: Readout) -> bool:
    """True if the model writes the answer itself."""
    return readout in GENERATED


def answer_start(task: Task, sample: Sample, readout: Readout, text: str) -> int | None:
    """Characters of a completion before its answer; None where there is none or the grader does not report it.

    From the task's method ``answer_start(sample, readout, text)``, which it need not have.
    """
    find = getattr(task, "answer_start", None)
    return None if find is None else find(sample, readout, text)
