"""LoggedRun: an evaluation of another tool, in the form of a run folder that is open for reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from layercut.errors import InputError
from layercut.runs.directory import RunFolder
from layercut.runs.environment import shown_path
from layercut.runs.records import LARGEST_SCORE, NO_SHARE
from layercut.runs.settings import read_json_or_refuse

RANKED, WRITTEN = "rank", "written"  # readouts: options that the model ranked, and text that it wrote
NEGATED = "neg_"  # begins the name of a metric that was negated, because lower is better; it has no score of guessing


@dataclass(kw_only=True)
class LoggedTask:
    """One task of an evaluation."""

    name: str
    readout: str
    records: list[dict[str, Any]] = field(default_factory=list)
    """One an item, with ``id``, ``gold`` and ``metrics``; ``cluster`` where several are of one item."""
    chance: float | None = None  # score of guessing; None where it is not known, or the metric has none
    version: str = ""  # of the task, where the log names one; scores of two versions are not compared
    asked: Mapping[str, Any] = field(default_factory=dict)
    """How the items were asked, by name: few-shot examples, filters, decoding. Two logs that differ are compared, and
    the difference is named."""
    remark: str = ""  # a line on what was not read, or is not there
    group: tuple[str, ...] = ()  # tasks whose items a group holds; empty for a task


class LoggedRun(RunFolder):
    """One model's evaluation; it is only read."""

    def __init__(self, path: Path, tool: str, model: str, tasks: Iterable[LoggedTask]) -> None:
        """Take what a reader found.

        Args:
            tool: that wrote it, in words.
            model: its name there; empty where the log names none.

        Raises:
            InputError: no task with a metric that is a number for every item.
        """
        super().__init__(path, {"model": model}, None)
        self.tool, self.model = tool, model
        read = list(tasks)
        self.tasks = [task for task in read if _rows(task)]
        if not self.tasks:
            names = " ".join(", ".join(dict.fromkeys(task.name for task in read)).split())
            raise InputError(
                f"{shown_path(path)} ({tool}) holds no metric that is a number for every item of {names or 'a task'}, "
                "so there is nothing to compare."
            )

    @property
    def name(self) -> str:
        place = self.path.resolve()
        return f"{place.parent.name}/{place.stem}" if place.is_file() else place.name

    @property
    def origin(self) -> str:
        return f"{self.tool}'s log of {self.model or 'a model'}"

    @property
    def is_finished(self) -> bool:
        return True

    def has_records(self, task: str, readout: str) -> bool:
        return any((logged.name, logged.readout) == (task, readout) for logged in self.tasks)

    def records(self, task: str, readout: str) -> list[dict[str, Any]]:
        return next(logged.records for logged in self.tasks if (logged.name, logged.readout) == (task, readout))

    def metrics(self) -> dict[str, Any]:
        return {"plan": None, "rows": [row for task in self.tasks for row in _rows(task)]}


def _rows(task: LoggedTask) -> list[dict[str, Any]]:
    """A row for each metric that every item has."""
    metrics = [record["metrics"] for record in task.records]
    return [
        {
            "task": task.name,
            "version": task.version,
            "readout": task.readout,
            "metric": metric,
            "value": fmean(item[metric] for item in metrics),
            "n": len(metrics),
            "chance": None if metric.startswith(NEGATED) or NO_SHARE.search(metric) else task.chance,
            "finish": None,
            "limit": None,
            "group": task.group,
        }
        for metric in (metrics[0] if metrics else ())
        if all(metric in item for item in metrics)
    ]


def newest_of_several(folder: Path) -> str:
    """Remark on a folder that holds several logs of a task."""
    return f"{shown_path(folder)} holds several logs of a task; the newest is compared"


def pool_tasks(name: str, tasks: Sequence[LoggedTask]) -> LoggedTask:
    """A group of tasks with the items of all of them, so that a task counts by its number of items."""
    records = [
        record | {part: f"{task.name} {record.get(part, record['id'])}" for part in ("id", "cluster")}
        for task in tasks
        for record in task.records
    ]
    chances = [task.chance for task in tasks for _ in task.records if task.chance is not None]
    chance = fmean(chances) if len(chances) == len(records) else None
    group = tuple(task.name for task in tasks)
    return LoggedTask(name=name, readout=tasks[0].readout, records=records, chance=chance, group=group)


def json_object(path: Path) -> dict[str, Any]:
    """The object in a .json file; empty for any other path or content. Raises InputError: a file that is no JSON."""
    is_file = path.suffix == ".json" and path.is_file()
    data = read_json_or_refuse(path, f"{shown_path(path)} cannot be read") if is_file else None
    return data if isinstance(data, dict) else {}


def score_of_metric(value: Any) -> float | None:
    """A metric of one item; None for what is no number, such as parts of one that needs all items. Refuses NaN."""
    if not isinstance(value, int | float):
        return None
    if not abs(value) < LARGEST_SCORE:
        raise ValueError("it should be a finite number")
    return float(value)


def name_metric(name: str, value: float, is_higher_better: bool | None = None) -> tuple[str, float]:
    """A metric as comparisons name it: one of which lower is better is negated, and its name says so.

    lm-eval logs the log-likelihood of an item, which is never above 0, as its ``perplexity``, which is never below 1.
    """
    if "perplexity" in name and value <= 0:
        return "log_likelihood", value
    is_lower = is_higher_better is False or (is_higher_better is None and "perplexity" in name)
    return (f"{NEGATED}{name}", 0.0 - value) if is_lower else (name, value)


def outcome_of(metrics: Mapping[str, float]) -> str:
    """``right``, ``wrong``, or nothing where the first metric is neither."""
    name, value = next(iter(metrics.items()), ("", -1.0))
    return "" if NO_SHARE.search(name) else {1.0: "right", 0.0: "wrong"}.get(value + name.startswith(NEGATED), "")


def mean_chance(options: Sequence[int]) -> float | None:
    """Mean chance of a guess, by the number of options of each item; None where there are none."""
    return fmean(1 / count for count in options) if options and min(options) > 0 else None


def settings_differences(first: LoggedRun, second: LoggedRun) -> list[str]:
    """How two evaluations were asked otherwise, a line for each task and setting; empty where nothing differs."""
    lines = [*dict.fromkeys(task.remark for run in (first, second) for task in run.tasks if task.remark)]
    for task in (task for task in first.tasks if not task.group):
        for other in (twin for twin in second.tasks if (twin.name, twin.readout) == (task.name, task.readout)):
            for key in dict.fromkeys((*task.asked, *other.asked)):
                here, there = task.asked.get(key), other.asked.get(key)
                if here != there:
                    lines.append(f"{task.name}: {key} {here} in {first.name}, {there} in {second.name}")
            known = {record["id"]: record.get("prompt") for record in task.records}
            both = [(known[item["id"]], item.get("prompt")) for item in other.records if item["id"] in known]
            changed = sum(here != there for here, there in both if here and there)
            if changed:
                lines.append(f"{task.name}: the prompts of {changed:,} of {len(both):,} items differ")
    return lines
