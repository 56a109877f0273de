"""The result of prune on a terminal: what each depth keeps, and what the chosen model costs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from layercut.report.first import depths_table
from layercut.report.render import terminal
from layercut.runs.disk import size
from layercut.runs.prune import PruneResult


def result_tables(result: PruneResult) -> Iterator[RenderableType]:
    """A table of the depths, then a line each about size and speed."""
    tasks = ", ".join(f"{one.task} ({one.readout})" for one in result.goal.tasks)
    scores = ", ".join(f"{one.task} {one.score.value:.0%} of {one.score.n}" for one in result.original)
    yield Text(f"{result.model}: keep {result.goal.keep:.0%} of {tasks}; original model: {scores}", style="bold")
    yield terminal(depths_table(result))
    before, after = result.size["uncut"], result.size["cut"]
    share = after.parameters / before.parameters - 1
    text = f"size: {before.parameters / 1e6:,.1f}M to {after.parameters / 1e6:,.1f}M parameters ({share:+.1%}), "
    text += f"{size(before.disk_bytes)} to {size(after.disk_bytes)} on disk"
    if before.memory_bytes and after.memory_bytes:
        text += f", {size(before.memory_bytes)} to {size(after.memory_bytes)} in memory"
    yield Text(text)
    for one in result.speed:
        ends = f" [{one.ratio.low:.2f}, {one.ratio.high:.2f}]" if one.ratio.low and one.ratio.high else ""
        yield Text(
            f"{one.name}: {one.uncut.value:.3g} to {one.cut.value:.3g} {one.unit}, x {one.ratio.value:.2f}{ends} "
            f"(batch {one.batch_size}, {one.ratio.n} rounds)"
        )
