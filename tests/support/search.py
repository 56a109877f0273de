"""Objectives with known values, and a task whose items say which layers they need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from layercut.engine.base import Completion, GenerationRequest, LikelihoodRequest, Likelihoods
from layercut.selection.base import Objective
from layercut.surgery.plan import CutPlan
from layercut.tasks.base import Readout, Sample, Score, Split, Task
from tests.support.fake_engine import FakeEngine

Layers = frozenset[int]


@dataclass
class TableObjective(Objective):
    """The value of a plan is a function of the set of its removed layers."""

    value: Callable[[Layers], float]
    asked: list[Layers] = field(default_factory=list)

    def describe(self) -> Mapping[str, Any]:
        return {"objective": "table"}

    def values(self, plans: Sequence[CutPlan]) -> list[float]:
        sets = [frozenset(plan.removed) for plan in plans]
        self.asked += sets
        return [self.value(removed) for removed in sets]


def random_table(seed: int, levels: int = 1_000_000) -> Callable[[Layers], float]:
    """A value per set of layers, the same at every call; few levels make many ties."""

    def value(removed: Layers) -> float:
        return Random(f"{seed}:{sorted(removed)}").randrange(levels) / levels

    return value


@dataclass
class NeedyTask(Task):
    """Every item is answered right as long as the layers that it needs are there.

    With ``partial`` the metric is no accuracy: an item scores 0.2 for any text, and 1 for the right one.
    """

    name: str = "needy"
    num_items: int = 12
    num_layers: int = 6
    seed: int = 0
    version: int = 1
    partial: bool = False
    chance_level: float = 0.0
    share_known: float = 1.0
    """Part of the items that the original model answers."""
    readouts: tuple[Readout, ...] = ("short", "rank")

    def settings(self) -> Mapping[str, Any]:
        return {"version": self.version, "seed": self.seed}

    def samples(self, split: Split, limit: int | None) -> list[Sample]:
        rng = Random(f"{self.name}:{self.seed}:{split}")
        samples = []
        for index in range(self.num_items):
            needs = sorted(rng.sample(range(self.num_layers), rng.randint(1, 2)))
            known = index < self.share_known * self.num_items
            name = f"{self.name}-{split}-{index}:" + ("/".join(map(str, needs)) if known else "unknown")
            samples.append(Sample(id=name, question="?", gold="yes", options=("yes", "no")))
        return samples[:limit]

    def request(self, sample: Sample, readout: Readout) -> GenerationRequest | LikelihoodRequest:
        if readout == "rank":
            return LikelihoodRequest(id=sample.id, prompt=sample.question, continuations=sample.options)
        return GenerationRequest(id=sample.id, prompt=sample.question, max_new_tokens=4)

    def grade(self, sample: Sample, readout: Readout, answer: Completion | Likelihoods) -> Score:
        if isinstance(answer, Completion):
            text = answer.text
        else:
            text = sample.options[answer.log_likelihoods.index(max(answer.log_likelihoods))]
        right = text == sample.gold
        metrics = {"overlap": 1.0 if right else 0.2} if self.partial else {"accuracy": float(right)}
        return Score(metrics, text, "right" if right else "wrong")

    def chance(self, samples: Sequence[Sample], readout: Readout) -> Mapping[str, float]:
        return {"overlap" if self.partial else "accuracy": self.chance_level}


def is_right(item: str, removed: Layers) -> bool:
    """Whether an item of a NeedyTask is answered right without these layers."""
    needs = item.split(":")[1]
    return needs != "unknown" and not removed & {int(layer) for layer in needs.split("/")}


@dataclass
class NeedyEngine(FakeEngine):
    """Answers a NeedyTask."""

    model_hash: str = "a" * 64
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Plan key and item id of every answer that was computed."""

    def __post_init__(self) -> None:
        self.texts = lambda request, plan: "yes" if self._answer(request.id, plan) else "no"
        self.scores = lambda request, plan: (-1.0, -2.0) if self._answer(request.id, plan) else (-2.0, -1.0)

    def describe(self) -> Mapping[str, Any]:
        return {**super().describe(), "model_hash": self.model_hash}

    def _answer(self, item: str, plan: CutPlan) -> bool:
        self.asked.append((plan.key, item))
        return is_right(item, frozenset(plan.removed))
