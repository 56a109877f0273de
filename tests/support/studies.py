"""A task and a criterion that break on demand, for studies of tiny models."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from layercut.engine.base import Completion, LikelihoodRequest, Likelihoods
from layercut.selection.base import Context, Selection
from layercut.tasks.base import Readout, Sample, Score, Split, Task

BREAK = "LAYERCUT_TEST_BREAK"
"""While the file that this variable names is there, the task cannot grade and the criterion cannot choose."""
NUM_ITEMS = 6


def _is_broken() -> bool:
    return bool(os.environ.get(BREAK)) and Path(os.environ[BREAK]).exists()


@dataclass(frozen=True)
class Letters(Task):
    """Which of two letters comes next? Ranked, so that a tiny model answers at once."""

    name: str = "letters"
    version: int = 1
    readouts: tuple[Readout, ...] = ("rank",)

    def settings(self) -> Mapping[str, object]:
        return {"version": self.version}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        first = 0 if split == "report" else NUM_ITEMS
        return [
            Sample(id=f"letter-{i}", question=f"{chr(97 + i)}:", gold=chr(98 + i), options=(chr(98 + i), "z"))
            for i in range(first, first + NUM_ITEMS)
        ][:limit]

    def request(self, sample: Sample, readout: Readout) -> LikelihoodRequest:
        return LikelihoodRequest(id=sample.id, prompt=sample.question, continuations=sample.options)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        if _is_broken():
            raise RuntimeError("the grader\nfell over")
        assert isinstance(answer, Likelihoods)
        best = answer.log_likelihoods.index(max(answer.log_likelihoods))
        return Score({"accuracy": float(best == 0)}, sample.options[best], "right" if best == 0 else "wrong")

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {"accuracy": 0.5}


def letters() -> Letters:
    return Letters()


class Steady(Letters):
    """The same task under another name, that never breaks."""

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Likelihoods)
        best = answer.log_likelihoods.index(max(answer.log_likelihoods))
        return Score({"accuracy": float(best == 0)}, sample.options[best], "right" if best == 0 else "wrong")


def steady() -> Steady:
    return Steady("steady")


class Bright(Steady):
    """The same, where guessing is worth nothing, so that an untrained model has something to lose."""

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {"accuracy": 0.0}


def bright() -> Bright:
    return Bright("bright")


class Shared(Bright):
    """The same, with selection items that are part of the test set."""

    shares_test_set = True

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        both: tuple[Split, ...] = ("report", "selection") if split == "full" else (split,)
        return [sample for one in both for sample in Letters.samples(self, one, None)][:limit]


def shared() -> Shared:
    return Shared("shared")


def middle(context: Context) -> Selection:
    """A criterion: layers from the middle on."""
    if _is_broken():
        raise RuntimeError("nothing could be chosen")
    half = context.num_layers // 2
    return Selection(tuple(range(half, half + context.num_remove)))
