"""CheckedTask: requests whose answers pass or fail by a rule, all of them in one split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from layercut.engine.base import Completion, GenerationRequest, Likelihoods, Message
from layercut.tasks.base import Readout, Sample, Score, Split, Task
from layercut.tasks.few_shot import content_id
from layercut.tasks.grading import grade_text


class Check(NamedTuple):
    """One request and its rule."""

    prompt: str
    passes: Callable[[Completion], bool]
    wanted: str  # requirement of a right answer, for people


def ends(answer: Completion) -> bool:
    """True if an answer ended by itself."""
    return answer.finish_reason == "stop"


@dataclass(frozen=True, kw_only=True)
class CheckedTask(Task):
    """Requests in the model's chat format; each answer passes or fails.

    There is no score of guessing: of most checks a constant answer would pass all, and what counts is the difference
    from the original model.
    """

    name: str
    version: int
    checks: tuple[Check, ...]
    max_new_tokens: int
    readouts: tuple[Readout, ...] = ("short",)
    split: Split = "report"  # the split of all items: no layers are chosen by the checks of what a cut breaks

    def settings(self) -> Mapping[str, object]:
        return {"version": self.version, "max_new_tokens": self.max_new_tokens}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        """The first samples in an order by hash, in which kinds of requests are mixed."""
        if split not in (self.split, "full"):
            return []
        found = [
            Sample(
                id=content_id(self.name, check.prompt),
                question=check.prompt,
                gold=check.wanted,
                data={"passes": check.passes},
            )
            for check in self.checks
        ]
        return sorted(found, key=lambda sample: sample.id)[:limit]

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest:
        return GenerationRequest(
            id=sample.id, prompt=(Message("user", sample.question),), max_new_tokens=self.max_new_tokens
        )

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        assert isinstance(answer, Completion)
        return grade_text(answer.text.strip(), bool(sample.data["passes"](answer)), answer)

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {}
