"""Questions to a model in training: guard tasks, which healing must not break, and held-out questions.

A guard is broken where the healed model lost against the pruned one, item by item: for right or wrong, one-sided exact
McNemar p < 0.05; for other metrics, and items that share contexts, a 95 % interval of the difference below 0. Training
stops there, and the best weights of the evaluations before it stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple

from layercut.engine.base import Decoding, Engine
from layercut.engine.probe import fastest_engine
from layercut.errors import InputError
from layercut.evidence.clusters import clusters_of
from layercut.evidence.intervals import Estimate
from layercut.evidence.multiplicity import ALPHA
from layercut.evidence.paired import compare_paired, loss_p_value
from layercut.evidence.splits import items_hash
from layercut.healing.examples import Data
from layercut.healing.prompt_sources import PromptSource, TaskPrompts
from layercut.healing.settings import TrainSettings
from layercut.healing.trainable import bare
from layercut.models.loading import LoadedModel
from layercut.runs.healing import ACCURACY, GUARD
from layercut.surgery.plan import CutPlan
from layercut.tasks import load_task
from layercut.tasks.base import Sample, Task
from layercut.tasks.evaluate import InMemory, Questions, ask_under

BATCH = 64
Look = Callable[[Any], dict[str, float]]
"""From the model in training, values for the loss curve."""


@contextmanager
def answering(model: Any, cut: LoadedModel, batch_size: int) -> Iterator[Engine]:
    """An engine over the current weights, with adapters and without dropout; training mode comes back afterwards.

    The shared engine where it runs the model, which is asked once in a training, else the plain one. It is a new one
    each time, so keys and values of earlier weights are never read. It computes in the dtype of the weights: the
    autocast that accelerate puts around ``forward`` of a model in training is left out.

    Args:
        model: in training, as ``make_trainable`` gives it.
        cut: the model loaded for training; its tokenizer is used.
        batch_size: prompts that are run at once.
    """
    was_training, autocasting = model.training, vars(model).pop("forward", None)
    model.eval()
    try:
        yield fastest_engine(replace(cut, model=bare(model)), batch_size=batch_size)
    finally:
        model.train(was_training)
        if autocasting is not None:
            model.forward = autocasting


def accuracy_of_held_out(tasks: Sequence[TaskPrompts], data: Data, cut: LoadedModel, count: int) -> Look:
    """A function from the model in training to its accuracies, as ``accuracy of TASK (READOUT, n=COUNT)``.

    It grades greedy answers to the first ``count`` held-out questions of each task, never to those trained on.
    """
    held_out = [example.id for example in data.held_out]
    asked = [(task, [name for name in held_out if name in task.samples][:count]) for task in tasks]

    def look(model: Any) -> dict[str, float]:
        found = {}
        with answering(model, cut, BATCH) as engine:
            for task, names in asked:
                if names:
                    right = _num_right(engine, task, names)
                    found[f"{ACCURACY}{task.task.name} ({task.readout}, n={len(names)})"] = right / len(names)
        return found

    return look


def _num_right(engine: Engine, task: TaskPrompts, names: Sequence[str]) -> int:
    prompts = {answered.prompt.id: answered.prompt for answered in task.answered}
    requests = [task.request(prompts[name]) for name in names]
    uncut = CutPlan(num_layers=engine.num_layers)
    answers = [answer for batch in engine.completions(requests, uncut, Decoding()) for answer in batch]
    return sum(task.are_right(answers))


Row = dict[str, Any]
"""One guard task at one evaluation: n, scores before and after with intervals, and whether it is broken."""


class GuardTask(NamedTuple):
    """A task and the items that guard it."""

    task: Task
    samples: list[Sample]

    @property
    def readout(self) -> str:
        return self.task.readouts[0]

    @property
    def ids(self) -> list[str]:
        return [sample.id for sample in self.samples]

    def shortfall(self, wanted: int) -> str:
        """A line for people where there are fewer items than ``wanted``; else empty."""
        found = len(self.samples)
        return f"guard {self.task.name}: only {found} of the {wanted} wanted items" if found < wanted else ""

    def describe(self) -> dict[str, Any]:
        """Settings that decide the answers, for a run's settings."""
        items = {"n": len(self.samples), "hash": items_hash(self.ids)}
        return {"task": self.task.name, "readout": self.readout, **items, **self.task.settings()}


def guard_tasks(train: TrainSettings, data: Mapping[str, str], source: PromptSource) -> list[GuardTask]:
    """The guard tasks of a healing; an item that is a prompt guards nothing and is left out.

    Args:
        train: ``guard`` and ``guard_items``.
        data: local files of tasks, by name.
        source: prompts of the healing.

    Raises:
        InputError: an unknown task, one that cannot be read, or one without such selection items.
    """
    prompts = frozenset(chain(*source.items.values()))
    found = []
    for name in dict.fromkeys(train.guard):
        task = load_task(name, data=data.get(name))
        known = task.samples("selection", train.guard_items + len(prompts))
        samples = [sample for sample in known if sample.id not in prompts][: train.guard_items]
        if not samples:
            raise InputError(
                f"{name} has no selection items beside the prompts, so it cannot guard; take another task or data, or "
                "a lower `limit` of prompts."
            )
        found.append(GuardTask(task, samples))
    return found


def described(guards: Sequence[GuardTask]) -> dict[str, Any]:
    """The guard for a run's settings; empty without one."""
    return {GUARD: [guard.describe() for guard in guards]} if guards else {}


def items_of_guard(guards: Iterable[GuardTask]) -> dict[str, list[str]]:
    """By task, ids of the items that decide when healing stops."""
    return {guard.task.name: guard.ids for guard in guards}


class Guard(NamedTuple):
    """Asks the guard tasks of a model in training."""

    tasks: Sequence[GuardTask]
    cut: LoadedModel
    """The model loaded for training, whose tokenizer is used."""

    def rows(self, model: Any, curve: Sequence[Mapping[str, Any]]) -> list[Row]:
        """A row for each task, against the first rows in ``curve``; without one, the model is the pruned one."""
        before = next((line[GUARD] for line in curve if GUARD in line), None)
        return rows_of(self.tasks, model, self.cut, before)


def rows_of(
    tasks: Sequence[GuardTask],
    model: Any,
    loaded: LoadedModel,
    before: Sequence[Row] | None,
) -> list[Row]:
    """Let a model answer all guard tasks greedily; a row for each task.

    Args:
        tasks: what is asked.
        model: who answers, as ``answering`` takes it.
        loaded: its tokenizer, and how it was loaded.
        before: the pruned model's rows, for the same tasks; None where ``model`` is the pruned one.
    """
    rows = []
    with answering(model, loaded, BATCH) as engine:
        for place, guard in enumerate(tasks):
            records = _answered(guard, engine)
            values = [float(next(iter(record["metrics"].values()))) for record in records]
            earlier = values if before is None else before[place]["values"]
            rows.append(compared(guard, earlier, values, clusters_of(records)))
    return rows


def _answered(guard: GuardTask, engine: Engine) -> list[dict[str, Any]]:
    plan, held = CutPlan(num_layers=engine.num_layers), InMemory()
    asked = Questions(guard.task, guard.samples, {guard.readout: [held]})
    ask_under(engine, [plan], [asked], decoding=Decoding(), early=True)
    records = {record["id"]: record for record in held.records}
    return [records[name] for name in guard.ids]


def compared(guard: GuardTask, before: Sequence[float], after: Sequence[float], clusters: Sequence[str] | None) -> Row:
    """The row of a task, from one value per item of the pruned and of the healed model."""
    found = compare_paired(before, after, chance=None, clusters=clusters)
    row: Row = {"task": guard.task.name, "readout": guard.readout, "n": len(after)}
    row |= {"before": _interval(found.uncut), "after": _interval(found.cut), "difference": _interval(found.difference)}
    if found.test == "mcnemar":
        assert found.lost is not None and found.gained is not None
        p_value = loss_p_value(found.lost, found.gained)
        row |= {"lost": found.lost, "gained": found.gained, "p_value": p_value, "broken": p_value < ALPHA}
    else:
        row["broken"] = found.difference.high is not None and found.difference.high < 0
    return row | {"values": list(after)}


def _interval(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}


def broken(rows: Iterable[Row]) -> list[str]:
    """Names of the tasks that are broken."""
    return [row["task"] for row in rows if row["broken"]]


def is_broken(line: Mapping[str, Any]) -> bool:
    """True if a guard is broken at a line of the loss curve."""
    return bool(broken(line.get(GUARD, ())))


def trained_entry(curve: Sequence[Mapping[str, Any]], kept_step: int) -> dict[str, Any]:
    """For the entry of a healing: the step whose weights are kept (0: the pruned model's), where training was stopped,
    and the rows of both."""
    asked = {line["step"]: line[GUARD] for line in curve if GUARD in line}
    stopped_at = next((step for step, rows in asked.items() if broken(rows)), None)
    steps = [step for step in dict.fromkeys([kept_step, stopped_at]) if step]
    rows = [{"step": step, **row} for step in steps for row in asked[step]]
    for row in rows:
        del row["values"]
    return {GUARD: {"kept_step": kept_step, "stopped_at": stopped_at, "rows": rows}}
