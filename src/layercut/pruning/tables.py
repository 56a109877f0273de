"""The result of prune on a terminal: what each depth keeps, and what the chosen model costs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from layercut.report.first import depths_table, size_words, speed_words
from layercut.report.render import terminal
from layercut.runs.prune import PruneResult


def result_tables(result: PruneResult) -> Iterator[RenderableType]:
    """A table of the depths, then a line each about size and speed."""
    tasks = ", ".join(f"{one.task} ({one.readout})" for one in result.goal.tasks)
    scores = ", ".join(f"{one.task} {one.score.value:.0%} of {one.score.n}" for one in result.original)
    yield Text(f"{result.model}: keep {result.goal.keep:.0%} of {tasks}; original model: {scores}", style="bold")
    yield terminal(depths_table(result))
    yield Text(f"size: {size_words(result)}")
    yield from (Text(f"speed: {speed_words(one)}") for one in result.speed)
